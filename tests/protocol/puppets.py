"""What the other peers of a dialogue may say: well-formed messages about the decision after the history's head."""

from collections.abc import Sequence

from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.ids import Ballot
from intellectd.protocol.proposal import Outcome
from intellectd.protocol.records import Collective, Proposal, accepted_bytes, record_hash, result_bytes, transfer_id
from tests.protocol.history import RUN, UPDATE_BYTES, History, ready_of
from tests.sim.tags import TagCrypto


def outcome(history: History, *members: str) -> Outcome:
    return history.outcome({peer: ready_of(history.head, peer, history.state) for peer in members})


def proposal(
    history: History,
    *members: str,
    able: Sequence[str] | None = None,
    gone: Sequence[str] = (),
    state: bytes | None = None,
) -> Proposal:
    """`able`: the members, unless said."""
    ready = {peer: ready_of(history.head, peer, history.state) for peer in members}
    return history.proposal(history.outcome(ready), ready, members if able is None else able, gone, state)


def prepare(history: History, ballot: Ballot) -> m.Prepare:
    return m.Prepare(history.head.at, ballot)


def promise(
    history: History,
    ballot: Ballot,
    accepted: tuple[Ballot, Proposal] | None = None,
    completed: Collective | None = None,
    silent: Sequence[str] = (),
    state: bytes | None = None,
) -> m.Promise:
    before, value = accepted or (None, None)
    digest = history.state if state is None else state
    return m.Promise(history.head.at, ballot, digest, before, value, completed, list(silent))


def plan(history: History, ballot: Ballot, *members: str, shares: Sequence[int] = ()) -> m.Plan:
    """A ring; with `shares` a direct exchange."""
    found = collective(history, *members)
    if shares:
        found = Collective(found.members, "direct", list(shares))
    return m.Plan(history.head.at, ballot, found, history.head.codec)


def collective(history: History, *members: str) -> Collective:
    done = outcome(history, *members).collective
    assert done is not None
    return done


def transfer(history: History, *members: str) -> bytes:
    return transfer_id(history.head.at, collective(history, *members), history.head.codec)


def result(history: History, by: str, *members: str) -> m.Result:
    done = outcome(history, *members)
    name = transfer(history, *members)
    signature = TagCrypto(by).sign(result_bytes(RUN, history.head.at, name, done.root))
    return m.Result(history.head.at, name, done.root, UPDATE_BYTES, signature)


def ended(history: History, *members: str) -> ev.TransferEnded:
    return ev.TransferEnded(transfer(history, *members), outcome(history, *members).root, UPDATE_BYTES)


def broke(history: History, *members: str, suspect: str | None, silent: bool = False) -> ev.TransferBroke:
    return ev.TransferBroke(transfer(history, *members), suspect, silent, "it broke")


def accept(history: History, ballot: Ballot, value: Proposal) -> m.Accept:
    return m.Accept(history.head.at, ballot, value)


def accepted(history: History, by: str, ballot: Ballot, value: Proposal) -> m.Accepted:
    digest = record_hash(value.record)
    signature = TagCrypto(by).sign(accepted_bytes(RUN, history.head.at, ballot, digest))
    return m.Accepted(history.head.at, ballot, digest, signature)


def abort(history: History, ballot: Ballot, suspect: str | None, silent: bool = False) -> m.Abort:
    return m.Abort(history.head.at, ballot, suspect, silent, "it broke")


def commit(history: History, value: Proposal) -> m.Commit:
    return m.Commit(history.certify(value))


def signed_result(history: History, by: str, name: bytes, root: bytes) -> m.Result:
    """Of any transfer, with any root."""
    signature = TagCrypto(by).sign(result_bytes(RUN, history.head.at, name, root))
    return m.Result(history.head.at, name, root, UPDATE_BYTES, signature)
