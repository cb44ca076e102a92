"""Many that join at once serve each other (SPEC K11): how near they come to what the links allow, in a model."""

import pytest

from intellectd.protocol.pieces import Pieces
from tests.protocol.piece_swarm import Link, PieceSwarm

MIB = 2**20
MBIT = 1e6 / 8
HOME = Link(up=25 * MBIT, down=100 * MBIT)


def play(seeds: list[Link], joiners: list[Link], pieces: int, rtt_s: float = 0.06) -> tuple[PieceSwarm, float]:
    """(what came of it, the seconds that the links allow at best)."""
    giving = {f"s{number}": link for number, link in enumerate(seeds)}
    taking = {f"j{number}": link for number, link in enumerate(joiners)}
    fetching = {name: Pieces([MIB] * pieces, start=7 * number % pieces, me=name) for number, name in enumerate(taking)}
    up, all_up = sum(link.up for link in seeds), sum(link.up for link in (*seeds, *joiners))
    size = pieces * MIB
    bound_s = max(size / up, size / min(link.down for link in joiners), len(joiners) * size / all_up)
    swarm = PieceSwarm(giving, taking, fetching, MIB, rtt_s, dial_s=4 * rtt_s)
    swarm.go()
    assert all(joiner.done for joiner in fetching.values())
    return swarm, bound_s


def wasted(swarm: PieceSwarm) -> float:
    """Of all that came."""
    return sum(p.wasted_bytes for p in swarm.pieces.values()) / sum(swarm.sent.values())


def test_ten_at_once_come_near_to_what_the_links_allow() -> None:
    swarm, bound_s = play([HOME] * 3, [HOME] * 10, 64)
    assert swarm.now < 1.3 * bound_s, swarm.now / bound_s
    assert wasted(swarm) < 0.06


@pytest.mark.parametrize(
    ("seeds", "joiners", "pieces", "rtt_s", "times"),
    [
        (3, 10, 160, 0.06, 1.15),  # what is lost at both ends is less of the whole
        (3, 10, 64, 0.3, 1.4),
        (3, 2, 64, 0.06, 1.2),
        (2, 4, 64, 0.06, 1.2),
        (5, 1, 64, 0.06, 1.2),
        (1, 6, 64, 0.06, 1.4),
    ],
)
def test_however_many_join(seeds: int, joiners: int, pieces: int, rtt_s: float, times: float) -> None:
    swarm, bound_s = play([HOME] * seeds, [HOME] * joiners, pieces, rtt_s)
    assert swarm.now < times * bound_s, swarm.now / bound_s
    assert wasted(swarm) < 0.06, wasted(swarm)


def test_slow_fellows_hold_nobody_up_for_long() -> None:
    """Two of six have a fifth of the others' uplink."""
    slow = Link(up=HOME.up / 5, down=HOME.down)
    swarm, bound_s = play([HOME] * 3, [HOME] * 4 + [slow] * 2, 64)
    assert swarm.now < 1.5 * bound_s, swarm.now / bound_s


def test_fast_links_are_filled_too() -> None:
    """A gigabit: pieces of some 10 ms, so what is asked for at once has to be long."""
    fast = Link(up=1000 * MBIT, down=1000 * MBIT)
    swarm, bound_s = play([fast] * 3, [fast] * 4, 512)
    assert swarm.now < 1.5 * bound_s, swarm.now / bound_s
