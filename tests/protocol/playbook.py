"""Dialogues with one node: `host >> event` tells it something, `host << "words"` is the next thing it does.

Nothing it does may stay unread: the next `>>`, or `host.silent()`, fails on what was not expected. Beacons, notes and
the address book are left out of the dialogue. The others are puppets that say whatever a test wants.
"""

from random import Random
from typing import TypeVar

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot
from intellectd.protocol.manifest import RunConfig
from intellectd.protocol.node import Node
from intellectd.protocol.records import Entry, Proposal
from tests.protocol.history import RUN, History, ready_of, run_config
from tests.sim.tags import TagCrypto

E = TypeVar("E")
NO_BALLOT = Ballot(0, "11")
QUIET = (ef.Learn, ef.Trust, ef.AskMembers, ef.ProbeLink)


class Host:
    """The node under test. By default "PA", a voter with a trainer that stands at the head of `history`."""

    def __init__(self, history: History, peer: str = "PA", applied: int | None = None, **node: object) -> None:
        self.history, self.peer, self.now = history, peer, 100.0
        self.sequence = 0
        applied = history.head.round if applied is None else applied
        given: dict[str, object] = {
            "entries": list(history.entries),
            "applied": applied,
            "applied_digest": history.states.get(applied),
            "vote": journal_of(history, peer),  # it has voted before
            "incarnation": 1,
            **node,
        }
        self.node = Node(
            peer=peer,
            run=RUN,
            manifest=history.manifest,
            crypto=TagCrypto(peer),
            rng=Random(1),
            now=self.now,
            bulk=("bulk", b"cert"),
            **given,  # type: ignore[arg-type]
        )
        self.unread: list[ef.Effect] = []
        self.notes: list[ef.Note] = []
        self.beacons: list[ef.Send] = []

    # ---- the two halves of the dialogue

    def __rshift__(self, event: ev.Event) -> "Host":
        self.silent()
        return self.told(event)

    def __lshift__(self, words: str) -> "Host":
        assert self.unread, f"expected {words!r}, but {self.peer} does nothing more"
        effect = self.unread.pop(0)
        assert describe(effect) == words, f"expected {words!r}, got {describe(effect)!r}"
        return self

    def silent(self) -> None:
        """It does nothing that was not read."""
        assert not self.unread, f"unexpected: {[describe(e) for e in self.unread]}"

    def told(self, *events: ev.Event) -> "Host":
        """Events whose effects pile up, to be read or skipped."""
        for event in events:
            for effect in self.node.handle(event, self.now):
                if isinstance(effect, ef.Note):
                    self.notes.append(effect)
                elif isinstance(effect, ef.Send) and _is_beacon(effect):
                    self.beacons.append(effect)
                elif not isinstance(effect, QUIET):
                    self.unread.append(effect)
        return self

    def skip(self) -> list[ef.Effect]:
        """What it did, for a test that reads it in another way."""
        done, self.unread = self.unread, []
        return done

    def one(self, kind: type[E]) -> E:
        """The only effect of this kind among those unread; the others are skipped."""
        found = [effect for effect in self.skip() if isinstance(effect, kind)]
        assert len(found) == 1, f"{len(found)} effects of {kind.__name__}"
        return found[0]

    # ---- what happens

    def after(self, seconds: float) -> ev.Tick:
        """Time passes, in steps no longer than a beacon's interval, as a driver would have it."""
        end = self.now + seconds
        while self.now + 4.0 < end:
            self.now += 4.0
            self.told(ev.Tick())
        self.now = end
        return ev.Tick()

    def says(self, peer: str, message: m.AnyMessage) -> ev.MessageReceived:
        return ev.MessageReceived(peer, m.seal(RUN, peer, message, TagCrypto(peer)))

    def sealed(self, peer: str, entry: Entry) -> bytes:
        """The puppet's envelope with a decided record."""
        return m.seal(RUN, peer, m.Commit(entry), TagCrypto(peer))

    def beacon(self, peer: str, **fields: object) -> ev.MessageReceived:
        """The puppet's newest beacon: by default it stands at the head and trains."""
        self.sequence += 1
        head = self.history.head
        plain: dict[str, object] = {
            "incarnation": 1,
            "sequence": self.sequence,
            "generation": head.generation,
            "head_round": head.round,
            "head": head.told,
            "applied": head.round,
            "state": "training",
            "leaving": False,
            "voted": False,
            "addresses": [],
            "bulk": "bulk",
            "certificate": b"cert",
            "ready": None,
            "transfer": None,
            "snapshots": [],
            "lineage": m.Lineage(head.recoveries, head.branches, head.tokens_total, True, peer in head.voters),
            "updates_from": 0,
            "links": [],
            **fields,
        }
        return self.says(peer, m.Beacon(**plain))  # type: ignore[arg-type]

    def ready(self, peer: str, tokens: int = 100) -> ev.MessageReceived:
        ready = ready_of(self.history.head, peer, self.history.state, tokens)
        return self.beacon(peer, state="ready", ready=ready)

    def meet(self, *peers: str) -> "Host":
        """These are alive and train; nothing that this causes is part of the dialogue."""
        self.told(*(self.beacon(peer) for peer in peers)).skip()
        return self

    def work(self, tokens: int = 100) -> "Host":
        """The trainer attaches, trains and its delta is frozen; nothing that this causes is read."""
        head = self.node.head
        root = ready_of(head, self.peer, self.history.state).delta_root
        self.told(ev.TrainerAttached(None), ev.TrainerReady(head.round + 1, tokens, 10)).skip()
        self.told(ev.DeltaFrozen("3f800000", root))
        return self


def swarm(*order: str, config: RunConfig | None = None, rounds: int = 0) -> History:
    """A run opened by these peers, all of them voters, who lead attempts 0, 1, 2… in the order given.

    The first founded it. The order is the lot's, so the manifest's nonce is tried until it comes out.
    """
    for nonce in range(100_000):
        history = History(config, founder=order[0], nonce=nonce)
        history.opening(*order)
        for _ in range(rounds):
            history.round(*order)
        if leader_order(history.head.voters, history.head.hash) == list(order):
            return history
    raise AssertionError("no nonce gives that order")


def journal_of(history: History, peer: str) -> ef.PersistVote:
    """The newest of its votes on the line that the history began with."""
    newest = ef.PersistVote(history.heads[-1].at, NO_BALLOT, None, None)
    for entry in history.entries:
        at, ballot = history.heads[entry.record.round - 1].at, entry.certificate.ballot
        if at.generation == newest.at.generation and any(vote.voter == peer for vote in entry.certificate.votes):
            newest = ef.PersistVote(at, ballot, ballot, Proposal(entry.record, entry.blob, []))
    return newest


def _is_beacon(send: ef.Send) -> bool:
    return isinstance(opened(send), m.Beacon)


def opened(send: ef.Send) -> m.AnyMessage:
    envelope = m.open_envelope(send.data)
    return m.open_message(envelope, TagCrypto(envelope.sender))


# ---- effects in words


def _beside(fellows: tuple[str, ...]) -> str:
    return f", beside {'+'.join(fellows)}" if fellows else ""


def describe(effect: ef.Effect) -> str:  # noqa: PLR0911, PLR0912 - one line an effect
    match effect:
        case ef.Send():
            return f"to {effect.peer}: {_say(opened(effect))}"
        case ef.PersistVote():
            accepted = f", accepted {_b(effect.accepted_ballot)}" if effect.accepted_ballot else ""
            return f"on disk: promised {_b(effect.promised)}{accepted}"
        case ef.AppendEntry():
            return f"log: {_entry(effect.entry)}"
        case ef.StartTransfer():
            return f"transfer {'+'.join(effect.members)}"
        case ef.AbortTransfer():
            return "abort transfer"
        case ef.FetchUpdate():
            return f"fetch update from {effect.donor}"
        case ef.ApplyUpdate():
            return f"apply round {effect.round}{'' if effect.root else ' (no update)'}, {effect.local}"
        case ef.FetchSnapshot():
            donors = "+".join((effect.donor, *effect.others))
            return f"fetch state {effect.round} from {donors}{_beside(effect.fellows)}"
        case ef.OfferDonors():
            return f"state {effect.round} also from {'+'.join(effect.donors)}{_beside(effect.fellows)}"
        case ef.StartTraining():
            streams = " ".join(f"{r}/{s}" for r, s in effect.streams)
            return f"train round {effect.round} on {streams}{'' if effect.fresh else ', carrying over'}"
        case ef.Freeze():
            return "freeze"
        case ef.FinishTraining():
            return "finish training"
        case ef.AskEntries():
            return f"ask {effect.peer} for entries from {effect.from_round}"
        case ef.PeerFault():
            return f"fault {effect.peer}: {effect.reason}"
        case ef.Halt():
            return f"halt: {effect.reason}"
    return type(effect).__name__.lower()


def _say(message: m.AnyMessage) -> str:  # noqa: PLR0911 - one line a message
    match message:
        case m.Prepare():
            return f"prepare {_b(message.ballot)}"
        case m.Promise():
            return f"promise {_b(message.ballot)}" + (
                f", accepted {_b(message.accepted_ballot)}" if message.accepted_ballot else ""
            )
        case m.Refuse():
            return f"refuse {_b(message.ballot)}, promised {_b(message.promised)}"
        case m.Plan():
            return f"plan {_b(message.ballot)} {'+'.join(x.peer for x in message.members)}"
        case m.Result():
            return "result"
        case m.Abort():
            return f"abort {_b(message.ballot)}, suspect {message.suspect}"
        case m.Accept():
            return f"accept {_b(message.ballot)} {_proposal(message.proposal)}"
        case m.Accepted():
            return f"accepted {_b(message.ballot)}"
        case m.Commit():
            return f"commit {_entry(message.entry)}"
    return type(message).__name__.lower()


def _b(ballot: Ballot | None) -> str:
    return f"{ballot.attempt}.{ballot.leader}" if ballot else "nothing"


def _entry(entry: Entry) -> str:
    return f"round {entry.record.round} by {'+'.join(c.peer for c in entry.blob.contributions) or 'nobody'}"


def _proposal(proposal: Proposal) -> str:
    return f"round {proposal.record.round} by {'+'.join(c.peer for c in proposal.blob.contributions) or 'nobody'}"


__all__ = ["History", "Host", "describe", "opened", "run_config", "swarm"]
