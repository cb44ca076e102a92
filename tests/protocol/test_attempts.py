"""Whose turn it is, when attempts fail again and again, and when somebody says that one has not. SPEC A5, A11."""

from intellectd.protocol.attempts import Attempts
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.limits import RETRY_MAX_S
from intellectd.protocol.messages import Relay, Transfer
from tests.protocol import puppets as say
from tests.protocol.history import ready_of
from tests.protocol.playbook import History, Host, run_config, swarm

THEIRS = Ballot(0, "PB")


def abandoned() -> tuple[History, Host]:
    """PB has begun attempt 0, and PA promised; PB says nothing more. The next one is PA's."""
    run = swarm("PB", "PA", "PC", config=run_config(transfer_s=60.0))
    pa = Host(run).meet("PB", "PC").work()
    pa.told(pa.ready("PB"), pa.ready("PC"), pa.says("PB", say.prepare(run, THEIRS))).skip()
    return run, pa


def began(pa: Host) -> bool:
    return pa.node.round.leading.attempt is not None


def test_lies_to_one_voter_do_not_lead_it_where_another_does_not_follow() -> None:
    """SPEC A2: PC claims ever higher attempts to PA alone, each a million above the last, and dies."""
    run = swarm("PB", "PA", "PC")
    pa, pb = Host(run).meet("PB", "PC").work(), Host(run, peer="PB").meet("PA", "PC").work()
    for number in range(1, 5):
        high = Ballot(900_001 * number - 900_001 * number % 3 + 2, "PC")
        pa.told(pa.says("PC", say.prepare(run, high)), pa.says("PC", say.abort(run, high, None))).skip()
    while not began(pa) and pa.now < 200.0:
        pa.told(pa.ready("PB"), pa.after(1.0))
    mine = pa.node.round.leading.attempt
    assert mine is not None and mine.ballot.attempt > 900_000
    pb.told(pb.says("PA", say.prepare(run, mine.ballot))).skip()
    assert pb.node.round.parts.acceptor.promised == mine.ballot


def test_what_a_dead_leader_said_is_no_progress_when_it_is_said_again() -> None:
    """SPEC A5: whoever has kept it."""
    run, pa = abandoned()
    word = pa.says("PB", say.prepare(run, THEIRS)).data
    while not began(pa) and pa.now < 140.0:
        pa.told(pa.ready("PC"), pa.says("PC", Relay("PA", word)))
        pa.told(pa.after(4.0)).skip()
    assert began(pa)


def test_what_a_member_says_of_progress_is_believed_for_as_long_as_a_transfer_may_take() -> None:
    """SPEC A5."""
    run, pa = abandoned()
    since, ready = pa.now, ready_of(run.head, "PC", run.state)
    while not began(pa) and pa.now < 300.0:
        moved = Transfer(hash_of("some"), int(pa.now), 10**9)
        pa.told(pa.beacon("PC", state="ready", ready=ready, transfer=moved))
        pa.told(pa.after(4.0)).skip()
    assert began(pa) and 60.0 <= pa.now - since <= 90.0


def test_a_pause_is_nobodys_time() -> None:
    """After it the next leader begins alone: two that begin together refuse each other, and pause together again."""
    run = swarm("PA", "PB")
    timers = run.head.config.timers
    first, second = leader_order(run.head.voters, run.head.hash)
    attempts = {me: Attempts(me, run.head, timers, None, 0.0) for me in (first, second)}
    for failed in range(12):
        for mine in attempts.values():
            mine.failed(failed, now=0.0)
    begins = {me: mine.my_turn(None, lambda peer: True, RETRY_MAX_S) for me, mine in attempts.items()}
    assert begins == {first: True, second: False}
    late = RETRY_MAX_S + timers.attempt_s
    assert attempts[second].my_turn(None, lambda peer: True, late), "a leader that does not begin loses its turn"
