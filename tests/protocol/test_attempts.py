"""Whose turn it is, when attempts fail again and again, and when somebody says that one has not. SPEC A5, A11."""

from intellectd.protocol.attempts import Attempts
from intellectd.protocol.context import leader_order
from intellectd.protocol.effects import PersistVote, Send
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.limits import RETRY_MAX_S
from intellectd.protocol.messages import Accept, Plan, Relay, Transfer
from intellectd.protocol.records import record_hash, transfer_id
from tests.protocol import puppets as say
from tests.protocol.history import ready_of
from tests.protocol.playbook import History, Host, opened, run_config, swarm

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


def test_a_ballot_has_one_value_though_a_liar_uses_up_the_numbers() -> None:
    """SPEC A2, A6: PB claims the highest attempt that PA heeds, and gives it up at once. The next one is PA's, and more
    than PA heeds, so it has not promised it: after a crash it leads that ballot again, and must not have proposed."""
    run = swarm("PB", "PA", "PC")
    theirs, mine = Ballot(1_000_002, "PB"), Ballot(1_000_003, "PA")
    first = Host(run).meet("PB", "PC").work()
    first.told(first.after(2.5), first.ready("PB"), first.ready("PC"), first.says("PB", say.prepare(run, theirs)))
    vote = first.one(PersistVote)
    first.told(first.says("PB", say.abort(run, theirs, None)))
    assert not began(first), "nobody would heed it yet, nor did it itself"
    assert first.node.deadline(first.now) - first.now <= 1.0, "the bound moves with time"
    values = values_of(run, first, mine)
    later = Host(run, vote=vote).meet("PB", "PC").work(tokens=200)
    while not began(later) and later.now < 200.0:
        later.told(later.ready("PB"), later.ready("PC"), later.after(1.0))
    values += values_of(run, later, mine)
    assert len(values) == 1


def values_of(run: History, pa: Host, ballot: Ballot) -> list[bytes]:
    """What PA, who leads it, proposes in this ballot when the others do as they are told."""
    led = pa.node.round.leading.attempt
    assert led is None or led.ballot == ballot
    pa.skip()
    pa.told(*(pa.says(p, say.promise(run, ballot)) for p in ("PB", "PC")))
    pa.told(pa.after(1.5))
    plans = {m.collective.schedule: m for e in pa.skip() if isinstance(e, Send) and isinstance(m := opened(e), Plan)}
    for plan in plans.values():
        name = transfer_id(run.head.at, plan.collective, run.head.codec)
        pa.told(*(pa.says(p, say.signed_result(run, p, name, hash_of("update", name))) for p in ("PB", "PC")))
    said = [opened(e) for e in pa.skip() if isinstance(e, Send)]
    return list({record_hash(m.proposal.record): None for m in said if isinstance(m, Accept)})


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


def test_an_attempt_before_it_is_not_its_leaders_time_either() -> None:
    """SPEC A11: the last one has waited for all others in vain; then the first leads after all, and comes to nothing.
    Whoever is second has its time from when that expired, as it has where nobody has waited."""
    run = swarm("PA", "PB", "PC")
    timers = run.head.config.timers
    first, second, third = leader_order(run.head.voters, run.head.hash)
    turns = {me: Attempts(me, run.head, timers, None, 0.0) for me in (second, third)}
    ahead, led = turns[third], Ballot(0, first)
    ahead.startable(True, 0.0)
    assert not ahead.my_turn(None, lambda peer: True, timers.attempt_s) and ahead.number == 1, "the first had its time"
    for mine in turns.values():
        mine.startable(True, timers.attempt_s)
        mine.follow(led, 0, 1.5 * timers.attempt_s)
    ends = 2.5 * timers.attempt_s
    begins = {me: mine.my_turn(led, lambda peer: True, ends) for me, mine in turns.items()}
    assert begins == {second: True, third: False}
    assert ends < ahead.deadline(ends) <= ends + timers.attempt_s
    assert ahead.my_turn(led, lambda peer: True, ends + timers.attempt_s)
