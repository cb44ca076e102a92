"""Whose turn it is, when attempts fail again and again. SPEC A11."""

from intellectd.protocol.attempts import Attempts
from intellectd.protocol.context import leader_order
from intellectd.protocol.limits import RETRY_MAX_S
from tests.protocol.playbook import swarm


def test_a_pause_is_nobodys_time() -> None:
    """After it the next leader begins alone: two that begin together refuse each other, and pause together again."""
    run = swarm("PA", "PB")
    timers = run.head.config.timers
    first, second = leader_order(run.head.voters, run.head.hash)
    attempts = {me: Attempts(me, run.head, timers, None) for me in (first, second)}
    for failed in range(12):
        for mine in attempts.values():
            mine.failed(failed, now=0.0)
    begins = {me: mine.my_turn(None, lambda peer: True, RETRY_MAX_S) for me, mine in attempts.items()}
    assert begins == {first: True, second: False}
    late = RETRY_MAX_S + timers.attempt_s
    assert attempts[second].my_turn(None, lambda peer: True, late), "a leader that does not begin loses its turn"
