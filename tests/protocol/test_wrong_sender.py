"""Every message that carries a ballot, from somebody who has no right to it; and what was said before, said again.

SPEC A1, A2, W4-W6, W9. PA, PB and PC vote, PD is a stranger. In the ring of attempt 0 that PB leads are PB and PA.
"""

from collections.abc import Callable

import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.ids import Ballot, hash_of
from tests.protocol import puppets as say
from tests.protocol.history import History
from tests.protocol.playbook import Host, describe
from tests.protocol.test_hostile import Scene, following, leading, leading_a_ring, leading_a_vote
from tests.sim.tags import TagCrypto

THEIRS, MINE = Ballot(0, "PB"), Ballot(0, "PA")
FAR = 3 * 2**50  # a multiple of three, as 0: PB's turn


def in_a_ring_of_two() -> Scene:
    run, pa = following()
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, "PB", "PA"))).skip()
    return run, pa


def value(run: History) -> m.Proposal:
    return say.proposal(run, "PB", "PA", "PC")


def answers(run: History, ballot: Ballot, by: str) -> list[m.AnyMessage]:
    """What a voter says to whoever leads an attempt."""
    return [
        say.promise(run, ballot),
        m.Refuse(run.head.at, ballot, Ballot(1, "PB"), "no"),
        say.accepted(run, by, ballot, value(run)),
    ]


def orders(run: History, ballot: Ballot) -> list[m.AnyMessage]:
    """What the leader of an attempt says."""
    plan = say.plan(run, ballot, "PB", "PA", "PC")
    return [say.prepare(run, ballot), plan, say.accept(run, ballot, value(run))]


def in_ring(run: History) -> list[str]:
    """As the leader would order them (C2)."""
    return sorted(("PA", "PB", "PC"), key=lambda peer: hash_of("ring", run.head.hash, peer.encode()))


Told = Callable[[History], list[m.AnyMessage]]
WRONG: list[tuple[str, Callable[[], Scene], str, Told]] = [
    ("another's ballot", following, "PC", lambda run: orders(run, THEIRS)),
    ("not its turn", following, "PC", lambda run: orders(run, Ballot(0, "PC"))),
    ("no voter", following, "PD", lambda run: orders(run, Ballot(0, "PD"))),
    ("an answer by no voter", leading, "PD", lambda run: answers(run, MINE, "PD")),
    ("an answer to another", leading, "PB", lambda run: answers(run, Ballot(1, "PB"), "PB")),
    ("an answer to what we cannot lead", leading, "PB", lambda run: answers(run, Ballot(1, "PA"), "PB")),
    ("a refusal for another's turn", leading, "PB", lambda run: [refusal(run, Ballot(5, "PA"))]),
    ("accepted from nobody", leading, "PB", lambda run: [reported(run, Ballot(1, "PC"))]),
    ("accepted from later", leading, "PB", lambda run: [reported(run, Ballot(4, "PB"))]),
    ("an abort by a stranger to the ring", in_a_ring_of_two, "PD", lambda run: [say.abort(run, THEIRS, "PB")]),
    ("an abort by a stranger", following, "PD", lambda run: [say.abort(run, THEIRS, "PB")]),
    ("an abort of nobody's attempt", following, "PC", lambda run: [say.abort(run, Ballot(0, "PC"), "PB")]),
    ("a result by no member", leading_a_ring, "PD", lambda run: [say.result(run, "PD", *in_ring(run))]),
    ("a vote by no voter", leading_a_vote, "PD", lambda run: [say.accepted(run, "PD", MINE, value(run))]),
]


def refusal(run: History, promised: Ballot) -> m.Refuse:
    return m.Refuse(run.head.at, MINE, promised, "no")


def reported(run: History, ballot: Ballot) -> m.Promise:
    return say.promise(run, MINE, accepted=(ballot, value(run)))


@pytest.mark.parametrize(("what", "scene", "sender", "told"), WRONG, ids=[what for what, *_ in WRONG])
def test_a_ballot_from_the_wrong_sender_is_its_fault_and_moves_nothing(
    what: str, scene: Callable[[], Scene], sender: str, told: Told
) -> None:
    run, pa = scene()
    pa.told(pa.beacon(sender)).skip()
    before = stand(pa)
    for message in told(run):
        pa.told(pa.says(sender, message))
        (fault,) = pa.skip()
        assert isinstance(fault, ef.PeerFault), describe(fault)
        assert (fault.peer, fault.kind) == (sender, "sender") and type(message).__name__ in fault.reason
    assert stand(pa) == before


def stand(pa: Host) -> tuple[object, ...]:
    """Of the round that the liar tries its hand at."""
    round_, attempts = pa.node.round, pa.node.round.parts.attempts
    led, acceptor = round_.leading.attempt, round_.parts.acceptor
    counted = (led.ballot, led.phase, dict(led.promises), dict(led.refused)) if led else None
    return attempts.number, attempts._failures, acceptor.promised, acceptor.accepted, round_.reducing, counted


def test_one_lie_does_not_use_up_the_attempts() -> None:
    """SPEC A2: nobody follows to a number so far ahead, whoever claims it and in which message."""
    run, pa = following()
    before = stand(pa)
    for message in orders(run, Ballot(FAR, "PB")):
        pa.told(pa.says("PB", message))
        assert not pa.skip() and stand(pa) == before, type(message).__name__
    led: list[int] = []
    for _ in range(20):
        pa.told(pa.ready("PC"), pa.after(2.0))
        sends = [effect for effect in pa.skip() if isinstance(effect, ef.Send)]
        said = [m.open_message(m.open_envelope(send.data), TagCrypto("PA")) for send in sends]
        led += [message.ballot.attempt for message in said if isinstance(message, m.Prepare)]
    assert led and max(led) < 100


def test_a_refusal_with_a_far_fetched_promise_moves_nothing() -> None:
    """SPEC A2."""
    run, pa = leading()
    number = pa.node.round.parts.attempts.number
    pa.told(pa.says("PB", refusal(run, Ballot(FAR, "PB")))).skip()
    assert pa.node.round.parts.attempts.number == number


def test_a_number_within_reach_is_followed() -> None:
    """SPEC A2: however long a decision took, who comes late takes part."""
    run, pa = following()
    near = pa.node.round.parts.attempts.number + limits.ATTEMPTS_AHEAD_MAX
    near -= near % 3
    pa.now += 11.0  # the attempt under way is given up
    pa.told(pa.says("PB", say.prepare(run, Ballot(near, "PB"))))
    assert pa.node.round.parts.acceptor.promised == Ballot(near, "PB")
