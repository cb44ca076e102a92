"""What a record says about the next round: assignments, data, voters. Pure functions. SPEC R7-R11.

Owns the rules of who is named and which data nobody has used. The leader builds with them and everybody checks
with them. Refuses to know ballots and messages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from intellectd.protocol import limits
from intellectd.protocol.collectives import RING
from intellectd.protocol.entries import (
    VERSION,
    Assignment,
    Blob,
    Collective,
    Contribution,
    Group,
    Member,
    Pending,
    Record,
    blob_hash,
    transfer_id,
)
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, Stream
from intellectd.protocol.manifest import float32_hex, outer_lr
from intellectd.protocol.messages import Ready
from intellectd.protocol.warmup import counting


@dataclass(frozen=True)
class Outcome:
    """What the transfer of a round came to; empty for a record that only names a roster."""

    collective: Collective | None
    root: bytes
    update_bytes: int
    roots: tuple[bytes, ...] = ()  # of a gossip round: of each group

    @property
    def members(self) -> list[Member]:
        return self.collective.members if self.collective else []


NOTHING = Outcome(None, NO_HASH, 0)


def contributions(outcome: Outcome, ready: dict[str, Ready]) -> list[Contribution]:
    listed = []
    for member in outcome.members:
        r = ready[member.peer]
        streams = r.streams if member.tokens else []  # what counts nothing has used up nothing (R15)
        listed.append(Contribution(member.peer, member.tokens, r.steps, r.norm, r.delta_root, streams))
    return listed


def next_blob(head: Head, contributed: list[Contribution], able: Sequence[str], gone: Sequence[str]) -> Blob:
    """The lists of the record that follows `head`. `able`: alive, synced and with a trainer.

    A slot stays with its peer; a newcomer gets the lowest free one. Data that was handed out and not used
    stays with a peer that goes on (for two rounds), else it goes back and is handed out again.
    """
    left = dict.fromkeys(gone)
    named = list(dict.fromkeys([*(c.peer for c in contributed if c.peer not in left), *able]))[: limits.ASSIGNMENTS_MAX]
    pending, returned = _unused(head, contributed, named)
    waiting = [*head.blob.unconsumed, *returned]
    assignments = []
    slots = _slots(head, named)
    for peer in sorted(named, key=lambda p: slots[p]):
        # Data given back is older than any new slot: whoever is named next works it off. New data is made only
        # when none waits, so what waits never exceeds three streams a peer, within UNCONSUMED_MAX.
        stream = waiting.pop(0) if waiting else Stream(head.round + 2, slots[peer])
        assignments.append(Assignment(peer, slots[peer], head.config.inner.steps, [stream]))
    return Blob(contributed, assignments, pending, waiting, [])


def _slots(head: Head, named: list[str]) -> dict[str, int]:
    there = dict.fromkeys(named)
    slots = {a.peer: a.slot for a in head.blob.assignments if a.peer in there}
    taken = dict.fromkeys(slots.values())
    free = (n for n in range(len(named) + len(slots) + 1) if n not in taken)
    for peer in sorted(named):
        if peer not in slots:
            slots[peer] = next(free)
    return slots


def _unused(head: Head, contributed: list[Contribution], named: list[str]) -> tuple[list[Pending], list[Stream]]:
    """Streams handed out until now and not in this record: (still with a living peer, given back)."""
    used = {c.peer: c.streams for c in contributed}
    going_on = dict.fromkeys(named)
    handed = [
        *head.blob.pending,
        *(Pending(a.peer, s, head.round + 1) for a in head.blob.assignments for s in a.streams),
    ]
    pending, returned = [], []
    for item in handed:
        if item.peer in used and item.stream in used[item.peer]:
            continue
        # A peer that contributed keeps nothing back: what it was given and did not use is free again.
        old = head.round + 1 - item.since >= limits.CARRY_ROUNDS_MAX
        if item.peer in going_on and item.peer not in used and not old:
            pending.append(item)
        else:
            returned.append(item.stream)
    return pending, returned


def next_voters(head: Head, contributed: list[Contribution], gone: Sequence[str], opening: Sequence[str]) -> list[str]:
    """By seniority: those before, without the gone, then this round's contributors (at the opening: the able)."""
    newcomers = [c.peer for c in contributed] + (sorted(opening) if head.round == -1 else [])
    left = dict.fromkeys(gone)
    seated = [peer for peer in dict.fromkeys([*head.voters, *newcomers]) if peer not in left]
    return seated[: limits.VOTERS_MAX] or list(head.voters)


def tokens_after(head: Head, contributed: list[Contribution]) -> int:
    """The total stops at the bound of its field: a boast must not make a record that nobody can read."""
    return min(head.tokens_total + sum(c.tokens for c in contributed), limits.TOKENS_MAX)


def _shape(outcome: Outcome) -> list[int | Group]:
    shape = outcome.collective.shape if outcome.collective else []
    return [Group(*pair) for pair in zip(shape, outcome.roots, strict=True)] if outcome.roots else [*shape]


def build_record(head: Head, outcome: Outcome, blob: Blob, voters: list[str], state_digest: bytes) -> Record:
    config, done = head.config, outcome.collective
    return Record(
        version=VERSION,
        run=head.run,
        generation=head.generation,
        round=head.round + 1,
        parent=head.hash,
        fragment=0,
        schedule=done.schedule if done else RING,
        shape=_shape(outcome),
        codec=head.codec,
        transfer=transfer_id(head.at, done, head.codec) if done else NO_HASH,
        update_root=outcome.root,
        update_bytes=outcome.update_bytes,
        optimizer=config.outer.optimizer,
        lr=float32_hex(outer_lr(config, max(1, counting(outcome.members)))),
        momentum=float32_hex(config.outer.momentum),
        state_digest=state_digest,
        tokens_total=tokens_after(head, blob.contributions),
        blob=blob_hash(blob),
        next_codec=config.outer.codec,
        next_voters=voters,
    )
