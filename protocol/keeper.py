"""What keeps the parts of a node agreed on one head: its log, its state, and the line of history it follows.

Owns what happens when a record is certain, when a state is there, and when a line is left for a better one (SPEC
R13, K6, G7-G9). Refuses to know messages, and what is due when; node.py has that.
"""

from collections.abc import Sequence
from random import Random

from intellectd.protocol import events as ev
from intellectd.protocol import limits, recovery
from intellectd.protocol.branch import branch_record, told_of
from intellectd.protocol.branching import Branching, Switch
from intellectd.protocol.catchup import Catchup
from intellectd.protocol.context import Context, can_be_dialled
from intellectd.protocol.effects import AbortTransfer, AppendEntry, Halt, Note, Out, PeerFault, PersistVote, Rebase, To
from intellectd.protocol.head import Head
from intellectd.protocol.herald import Herald
from intellectd.protocol.ids import NO_HASH, state_name
from intellectd.protocol.manifest import Manifest, config_of
from intellectd.protocol.membership import Membership
from intellectd.protocol.messages import Commit
from intellectd.protocol.moments import LONG_AGO
from intellectd.protocol.port import Crypto
from intellectd.protocol.probing import Prober
from intellectd.protocol.progress import Progress
from intellectd.protocol.records import BadRecord, Blob, Entry, Record, check_entry
from intellectd.protocol.recovery import NoRecovery
from intellectd.protocol.relaying import Relaying
from intellectd.protocol.round import Round
from intellectd.protocol.seat import Seat, forgot
from intellectd.protocol.window import transfer_of
from intellectd.protocol.words import counted


class Keeper:
    def __init__(
        self,
        *,
        peer: str,
        run: bytes,
        manifest: Manifest,
        crypto: Crypto,
        rng: Random,
        now: float,
        incarnation: int,
        addresses: tuple[str, ...] = (),
        bulk: tuple[str, bytes] = ("", b""),
        entries: Sequence[Entry] | None = None,
        applied: int = -2,
        applied_digest: bytes | None = None,
        vote: PersistVote | None = None,
        other_votes: tuple[PersistVote, ...] = (),
        held_updates: tuple[bytes, ...] = (),
        pin: bytes | None = None,
    ) -> None:
        """`entries` is the verified log from genesis, gone through once; `applied` the round whose state is loaded (-2:
        none); `vote` the newest in the journal, whatever decision it is about (None: there is no journal),
        `other_votes` the newest on each other line of history; `pin` the hash of a record that this host's history must
        contain (K14)."""
        self.context = Context(peer, run, manifest, config_of(manifest), crypto, rng, can_be_dialled(*bulk))
        self.membership = Membership(self.context, now)
        self.catchup = Catchup(self.context, self.membership, applied, pin)
        self.relaying = Relaying(self.context, self.membership)
        self.progress = Progress(self.context)
        self.incarnation = self.membership.incarnation = incarnation
        self.herald = Herald(incarnation, addresses, bulk)
        self.prober = Prober(peer, self.context.dialable, now)
        self.head = Head(manifest, run, None)
        self.genesis_generation = self.head.generation
        self.catchup.pin.add(self.head)
        for root in held_updates:
            self.catchup.on_update_held(root, now)
        self.branching = Branching(self.context, self.membership, self.head, now)
        self._votes = {v.at.generation: v for v in (*other_votes, vote) if v is not None}
        for entry in entries or ():
            before = self.head
            self._grow(entry)
            if forgot(self._votes.get(self.head.generation), peer, before, self.head):
                self._votes.pop(self.head.generation, None)
        self.seat = Seat(peer, incarnation, self.head, self._votes)
        self.round = self._new_round(now)
        self.halted: str | None = None
        self.leaving = False
        self._trusted_at = LONG_AGO  # when the bulk plane was told of others last
        # See Node: nothing is due before `_calm_until` unless there is news; but for beacons, before `_rests_until`.
        self._looked_at = self._calm_until = self._rests_until = self._deadline = LONG_AGO
        self._stirred = False
        self._ready_since: float | None = None  # this host's delta
        self._gives_up: list[tuple[bytes, bytes]] = []  # drafts that follow an older point: our head, their generation
        self._contradicted = 0  # states computed here, in a row, that the log contradicts
        self._doubted: tuple[int, bytes | None] | None = None  # (round, digest) of the state that is worked out anew
        self._vain_doubts: list[int] = []  # after which rounds it came to the same state again, since it last did not
        if applied_digest is not None:
            self._stands(applied_digest, now)

    # ---- the log

    def _on_entries(self, sender: str, entries: tuple[Entry, ...], now: float, pushed: bool = False) -> list[Out]:
        out: list[Out] = []
        useful = False
        for entry in entries:
            record = entry.record
            if record.parent != self.head.hash or (not pushed and record.generation != self.head.generation):
                continue
            try:
                check_entry(self.head, entry, self.context.crypto)
            except BadRecord as error:
                out.append(PeerFault(sender, "record", f"record {record.round}: {error}"))
                useful = False
                break
            if record.generation != self.head.generation and not self.branching.follows(self.head, entry, now):
                break
            useful = True
            if record.generation != self.head.generation:
                voters = counted(len(record.next_voters), "voter")
                out.append(Note("branch", f"this host goes on in {told_of(entry)}, with {voters}", "warning"))
            out += self._decide(entry, now)
        if not pushed:
            self.catchup.on_entries(useful, now)
        return out

    def _say_where(self, event: ev.AddressesChanged, now: float) -> None:
        self.herald.on_addresses(event)
        self.membership.soon(now)

    def _decide(self, entry: Entry, now: float) -> list[Out]:
        """A record is certain: it goes to the log, and the next round begins."""
        record, old = entry.record, self.round
        out: list[Out] = [*self.seat.on_record(self.head, self.head.next(entry)), AppendEntry(entry)]
        running = old.reducing
        if running is not None and running != transfer_of(entry, self.context.peer):
            out.append(AbortTransfer(running))
            self.herald.on_transfer_over()
            running = None
        self.catchup.awaited_transfer = running or NO_HASH
        if record.generation != self.head.generation:
            self.catchup.on_branch()
        wrong = old.state_digest is not None and old.state_digest != record.state_digest
        self._grow(entry)
        self.round = self._new_round(now)
        names = [c.peer for c in entry.blob.contributions]
        text = f"round {record.round} decided: {len(names)} contributed, {record.tokens_total} tokens in all"
        out.append(Note("round_decided", text, fields={"round": record.round, "roster": names}))
        if wrong:
            out += self._drop_state(f"{state_name(record.round - 1)} differs here from the agreed one")
        self.membership.soon(now)
        return out

    def _grow(self, entry: Entry) -> None:
        self.catchup.on_decided(entry)
        self.head = self.head.next(entry)
        self.catchup.pin.add(self.head)
        self.branching.trail.add(self.head)

    def _new_round(self, now: float) -> Round:
        self.membership.follow(self.head, now)
        vote = self._votes.get(self.head.generation)
        round_ = Round(self.context, self.head, self.membership, now, vote, self.catchup.held)
        round_.parts.acceptor.abstains = self.seat.lost  # from its first moment on: it may be asked before it is told
        return round_

    # ---- other lines of history

    def _on_rival(self, event: ev.EntriesReceived, now: float) -> list[Out]:
        """Whatever of that line goes on from here as ours is taken first; the rest is judged (G7)."""
        ours = tuple(e for e in event.entries if e.record.generation == self.head.generation)
        out = self._on_entries(event.peer, ours, now, pushed=True)
        said, switch = self.branching.on_entries(event.peer, event.generation, event.entries, self.head, now)
        if switch and self.catchup.pin.parts_before(switch.base.round):
            self.branching.refuse([event.peer], now + limits.RIVAL_S_MAX)
            text = f"{event.peer} shows a better history, which lacks the record that this host is pinned to"
            return [*out, *said, Note("pin_kept", text, "warning")]
        return [*out, *said, *(self._switch(switch, now) if switch else [])]

    def _switch(self, switch: Switch, now: float) -> list[Out]:
        """Leave our line at `base`. Nothing of it is counted in the other; it stays on the disk (G8)."""
        said = Note("switched", self._told_of(switch), "warning")
        self.catchup.pace.switched()
        if switch.base.hash == self.head.hash:
            return [said, *(out for entry in switch.entries for out in self._decide(entry, now))]
        out: list[Out] = [AbortTransfer(self.round.reducing)] if self.round.reducing else []
        self.herald.on_transfer_over()
        self.catchup.awaited_transfer = NO_HASH
        self.catchup.cut(switch.base.round)
        self.herald.cut(switch.base.round)
        self.progress.on_jump()
        self.branching.switched(switch.base)
        self.head = switch.base
        points = [self.head]
        for entry in switch.entries:
            self._grow(entry)
            points.append(self.head)
        out += [*self.seat.on_switch(points), Rebase(switch.base.round, switch.entries), said]
        self.round = self._new_round(now)
        self.membership.soon(now)
        return out

    def _seek_pinned(self, now: float) -> list[Out]:
        """The log is read as far as anybody shows it, and the record that it must contain is not in it (K14)."""
        pin, alive = self.catchup.pin, self.membership.alive_beacons(now)
        if pin.wanted is None or pin.found or not alive or self.head.round < 0 or self.catchup.reads(self.head, now):
            return []
        elsewhere = pin.elsewhere(self.branching.trail, alive, now)
        lacks = f"the history of {self.head.round} rounds that is shown here lacks record {pin.wanted.hex()[:16]}…"
        if not elsewhere:
            told, pin.told = pin.told, True
            text = f"{lacks}, to which this host is pinned: nothing of it is used until somebody shows one that has it"
            return [] if told else [Note("pin_missing", text, "warning")]
        until = pin.refuse([peer for peer in alive if peer not in elsewhere], now)
        self.branching.refuse([peer for peer in alive if peer not in elsewhere], until)
        left = [out for out in self._switch(Switch(self.branching.trail.back(self.head.round + 1), ()), now)]
        note = Note("pin_sought", f"{lacks}, to which this host is pinned: it reads that of {elsewhere[0]}", "warning")
        return [*(out for out in left if not isinstance(out, Note)), note]

    def _told_of(self, switch: Switch) -> str:
        """For people: what is left, for which line, and how much of that has come."""
        first, last = switch.base.round + 1, self.head.round
        rounds = f"round {first}" if first == last else f"rounds {first} to {last}"
        left = "nothing" if first > last else rounds
        before, line = switch.base.generation, "the history that its branch had left"
        for entry in switch.entries:
            if entry.record.generation != before:
                before, line = entry.record.generation, told_of(entry)
        came = f", of which {counted(len(switch.entries), 'round')} came so far" if switch.entries else ""
        return f"this host goes on in {line}{came}; it leaves {left} of its own"

    def _open_branch(self, now: float) -> list[Out]:
        """Our turn to go on without the quorum, if the run allows it (G3)."""
        self.branching.look(self.head, self.round.parts.acceptor.votes, now)
        if self.branching.led or self.context.config.swarm.on_quorum_loss != "fork":
            return []
        able = self.round.parts.muster.able_peers(now)
        votes = self.seat.may_branch(self.head)
        entry = self.branching.opens(self.head, able, votes, self.round.state_digest, now)
        if entry is None:
            return []
        lost, named = counted(len(self.head.voters), "voter"), counted(len(entry.blob.assignments), "peer")
        note = Note("branched", f"no quorum of {lost}: {named} here in {told_of(entry)}", "warning")
        return [note, *self._announce(entry, now)]

    def recovery_draft(self, now: float) -> tuple[Record, Blob]:
        """The branch that the owners would have to sign for the run to go on with who is here (G5). Raises
        NoRecovery."""
        self.branching.look(self.head, self.round.parts.acceptor.votes, now)
        digest = self.round.state_digest
        if self.branching.led and self.lost_update(now) is None:
            raise NoRecovery("a quorum of the voters is here: the run goes on without a recovery")
        if self.round.finished:
            raise NoRecovery("the run is finished")
        if digest is None:
            return self._draft_from_what_is_left(now)
        able, me = self.round.parts.muster.able_peers(now), self.context.peer
        remembering = self.branching.voting(able, self.seat.may_branch(self.head), now)
        here = able if self.leaving or me in able else sorted([*able, me])
        ahead = self.catchup.ahead(self.head, now)
        named = recovery.named_in(self.head, here, remembering, ahead, self.membership, now)
        lives = recovery.lives(named, me, self.incarnation, self.membership, now)
        return branch_record(self.head, named, digest, lives)

    def lost_update(self, now: float) -> int | None:
        """The round that holds this host up, as nobody of its line who is heard has its update. With a quorum here only
        after expel_s: a moment after each decision nobody has applied it yet. The quorum cannot go on without it."""
        missing = self.catchup.found_nowhere(self.head, now)
        waits_s = now - self.round.parts.muster.began_at
        return None if self.branching.led and waits_s < self.context.config.timers.expel_s else missing

    def _draft_from_what_is_left(self, now: float) -> tuple[Record, Blob]:
        """Records are here whose updates nobody has: the run goes on before them."""
        applied, missing = self.catchup.applied, state_name(self.head.round)
        base, digest = self.branching.trail.at(applied), self.catchup.window.proven(applied)
        if not self.catchup.has_state or base is None or digest is None:
            raise NoRecovery(f"this host does not have {missing} yet: ask one that does")
        if base.recoveries < self.head.recoveries:  # such a branch would not stand above the one that it leaves (G6)
            raise NoRecovery(f"the run was recovered after round {applied}, and no later state is left here")
        if self.catchup.reach > applied:
            raise NoRecovery(f"this host has the update of round {applied + 1} and is about to apply it: in a moment")
        me = self.context.peer
        named = recovery.left_at(base, self.head.generation, [] if self.leaving else [me], self.membership, now)
        lives = recovery.lives(named, me, self.incarnation, self.membership, now)
        record, blob = branch_record(base, named, digest, lives)
        shown = [it for it in self._gives_up if it[0] == self.head.hash and it[1] != record.generation]
        self._gives_up = [*shown, (self.head.hash, record.generation)][-limits.DRAFTS_MAX :]
        return record, blob

    def recovery_base(self, entry: Entry) -> Head:
        """The point of this host's line that this recovery follows. Raises BadRecord, also if it does not fit there."""
        at, parent = entry.record.round - 1, entry.record.parent
        base: Head | None = self.head
        if parent != self.head.hash:  # what the owner was shown to give up is what there is, no less and no more
            shown = (self.head.hash, entry.record.generation) in self._gives_up
            base = self.branching.trail.at(at) if shown else None
        if base is None or base.hash != parent or at < self.catchup.applied:
            raise BadRecord("the run has gone on since it was drafted, or this daemon has begun anew since")
        check_entry(base, entry, self.context.crypto)
        return base

    def _on_recovery(self, entry: Entry, now: float) -> list[Out]:
        try:
            base = self.recovery_base(entry)
        except BadRecord as error:
            return [Note("recovery_refused", f"the recovery does not fit: {error}", "error")]
        voters = counted(len(entry.record.next_voters), "voter")
        note = Note("recovered", f"the run goes on in {told_of(entry)}, with {voters}", "warning")
        if base is self.head:
            return [note, *self._announce(entry, now)]
        return [note, *self._switch(Switch(base, (entry,)), now)]  # who stands further on asks for it (G7)

    def _announce(self, entry: Entry, now: float) -> list[Out]:
        """To everybody whose beacon is known; in a sparse swarm to the voters: the others ask whoever shows the record
        (B12). Who is merely known by its address may be a stranger, and the first record tells the run id (I6)."""
        peers, message = self.membership.peers, Commit(entry)
        voters = dict.fromkeys([*self.head.voters, *entry.record.next_voters])
        told = [voter for voter in voters if voter in peers]
        if not self.membership.sparse:
            told = sorted({peer: None for peer, view in peers.items() if view.beacon is not None} | dict.fromkeys(told))
        return [*self._decide(entry, now), *(To(peer, message) for peer in told)]

    def _astray(self, now: float) -> list[Out]:
        """This host's state is not the agreed one, or may be the one of those that differ that is wrong (K6)."""
        if self.round.take_divergence():
            return self._drop_state("this host's state differs from the agreed one")
        if not self.round.take_doubt() or not self.catchup.can_rework(self.head, now):
            return []
        lately = self.head.round - limits.DOUBTS_KEPT_ROUNDS
        self._vain_doubts = [round_ for round_ in self._vain_doubts if round_ > lately]
        if len(self._vain_doubts) >= limits.DIVERGENCES_MAX:  # somebody lies, or cannot compute
            return []
        self._doubted = self.head.round, self.round.state_digest
        self.round.forget_state()
        self.catchup.drop_state()
        self.progress.on_jump()
        text = f"the voters differ on {state_name(self.head.round)}: this host works its own out anew"
        return [Note("state_doubted", text, "warning")]

    def _drop_state(self, why: str) -> list[Out]:
        self.catchup.drop_state()
        self.progress.on_jump()
        return [Note("diverged", f"{why}; fetching that", "error")]

    def _on_applied(self, event: ev.Applied, now: float) -> list[Out]:
        if not self.catchup.on_applied(event.round, now):
            return []
        proven = self.catchup.window.proven(event.round)
        if proven is not None and proven != event.digest:
            self._contradicted += 1
            if self._contradicted >= limits.DIVERGENCES_MAX:
                return [Halt(f"this host computes other states than the run agreed on, last in round {event.round}")]
            return self._drop_state(f"applying round {event.round} gave another state than the agreed one")
        if proven is not None:
            self._contradicted = 0
        note = Note("round_applied", f"round {event.round} applied", fields={"round": event.round})
        return [note, *self._stands(event.digest, now)]

    def _stands(self, digest: bytes, now: float) -> list[Out]:
        """A state is here: `applied` says which."""
        self.membership.soon(now)
        proven = self.catchup.window.proven(self.catchup.applied)
        if proven is not None and proven != digest:
            return self._drop_state(f"{state_name(self.catchup.applied)} is not the agreed one")
        if self._doubted is not None and self.catchup.applied == self.head.round:
            at, before = self._doubted
            now_known = digest if at == self.head.round else self.catchup.window.proven(at)
            self._vain_doubts = [*self._vain_doubts, at] if now_known == before else []
            self._doubted = None
        return self.round.on_applied(digest, now) if self.catchup.applied == self.head.round else []
