"""When a neighbour counts as silent, or as one that takes nothing, and when nobody is to blame. SPEC D10."""

import pytest

from intellectd.daemon.bulk.collective_watch import Watch
from intellectd.daemon.bulk.errors import Failure
from intellectd.daemon.bulk.frames import Header, Outgoing
from intellectd.daemon.bulk.limits import HEARD_EVERY, HEARTBEATS_PER_STALL, STARVED_STALLS, STUCK_STALLS
from intellectd.daemon.bulk.neighbour import Neighbour

STALL_S = 10.0
NEVER = STARVED_STALLS * STALL_S
STUCK = STUCK_STALLS * STALL_S
GAVE_UP = Failure("PZ", "PB ended the transfer: it suspects PZ")


class NoChannel:
    width = 1
    relay = ""

    def stall_after(self, stall_s: float) -> None: ...

    def tell(self, header: Header, payload: bytes = b"") -> None: ...

    def send(self, item: Outgoing, *, first: bool = False) -> None: ...

    def drop(self, transfer: int) -> None: ...

    def drop_chunks(self, transfer: int) -> None: ...


class NoWires(NoChannel):
    width = 0


def neighbour(arrivals: int = 1, departures: int = 1, **books: object) -> Neighbour:
    """At time 0, with something to come and something to go."""
    found = Neighbour(1, "PB", arrivals, departures, NoChannel(), 0.0, bytearray(1))
    for name, value in books.items():
        setattr(found, name, value)
    return found


def verdict(one: Neighbour, now: float, chunk_at: float | None = None) -> tuple[str | None, bool] | None:
    failure = Watch(STALL_S).judge([one], now if chunk_at is None else chunk_at, now)
    return None if failure is None else (failure.suspect, failure.silent)


@pytest.mark.parametrize(
    ("books", "now", "expected"),
    [
        ({}, 9.9, None),
        ({}, 10.1, ("PB", True)),
        ({"heard_at": 5.0, "met": True}, 14.9, None),
        ({"heard_at": 5.0, "met": True}, 15.1, ("PB", True)),
        ({"arrivals": 0, "departures": 0}, 99.0, None),  # it owes nothing and is owed nothing
        ({"waits_here": 1}, 99.0, None),  # this host's threads hold it up
        ({"waits_here": 1, "channel": NoWires()}, 9.9, None),
        ({"waits_here": 1, "channel": NoWires()}, 10.1, ("PB", True)),  # it is gone, whatever it has left here
        ({"heard_at": STUCK, "ready": 0, "waiting": 1}, STUCK + 0.1, ("PB", True)),  # it lives, and takes nothing
        ({"heard_at": STUCK, "ready": 0, "waiting": 1, "moved_at": 0.2}, STUCK + 0.1, None),
        ({"heard_at": STUCK, "ready": 0, "waiting": 0}, STUCK + 0.1, None),  # there is nothing to take
        ({"heard_at": STUCK, "ready": None, "waiting": 1}, STUCK + 0.1, None),  # it has not said GO: it is told nothing
        ({"why": GAVE_UP}, 9.9, None),  # it may begin again
        ({"why": GAVE_UP}, 10.1, ("PZ", False)),  # it gave up and said why; its silence is no other fault
    ],
)
def test_who_is_blamed(books: dict[str, object], now: float, expected: tuple[str, bool] | None) -> None:
    assert verdict(neighbour(**books), now) == expected


def test_what_is_said_of_it_tells_whether_it_ever_came() -> None:
    absent = Watch(STALL_S).judge([neighbour(lost="Connection timed out")], 0.0, 11.0)
    assert absent is not None and absent.reason == "PB: it did not take part in 10 s (Connection timed out)"
    silent = Watch(STALL_S).judge([neighbour(met=True)], 0.0, 11.0)
    assert silent is not None and silent.reason == "PB: nothing came from it in 10 s"


def test_alive_but_starved_is_nobodys_fault() -> None:
    alive = neighbour(heard_at=NEVER, met=True)
    assert verdict(alive, NEVER - 0.1, chunk_at=0.0) is None
    assert verdict(alive, NEVER + 0.1, chunk_at=0.0) == (None, True)
    assert verdict(neighbour(arrivals=0, heard_at=NEVER), NEVER + 0.1, chunk_at=0.0) is None


def test_a_neighbour_hears_four_times_a_stall_that_this_host_lives() -> None:
    one, watch = neighbour(), Watch(STALL_S)
    told = [now / 10 for now in range(101) if watch.to_tell([one], now / 10)]
    assert told == [2.5, 5.0, 7.5, 10.0] and len(told) == HEARTBEATS_PER_STALL
    assert not watch.to_tell([neighbour(arrivals=0, departures=0)], 99.0)


@pytest.mark.parametrize(("sign_s", "quiet_s"), [(None, 2.5), (0.001, 0.5), (0.26, 2.08), (3.0, 2.5)])
def test_a_pause_is_one_only_where_bytes_usually_come_sooner(sign_s: float | None, quiet_s: float) -> None:
    """2 Mbit/s: 0.26 s for 64 KiB. What is asked for again takes the line from what is on its way."""
    one, watch = neighbour(met=True, sign_s=sign_s), Watch(STALL_S)
    one.channel.width = 4  # type: ignore[misc]
    assert not watch.to_nudge([one], quiet_s - 0.01) and watch.to_nudge([one], quiet_s)


def test_wires_that_share_a_slow_line_are_not_behind_and_one_that_drips_is() -> None:
    one, watch = neighbour(met=True), Watch(STALL_S)
    one.channel.width = 24  # type: ignore[misc]
    for turn in range(1, 101):  # 10 Mbit/s: of each wire 4 KiB in turn, so that 64 KiB of any one take 1.3 s
        one.stirs(HEARD_EVERY, turn * 0.0033)
        assert not watch.to_nudge([one], turn * 0.0033)
    assert one.sign_s is not None and 0.05 < one.sign_s < 0.06
    one.flowed_at = one.nudged_at = 0.0
    for turn in (1, 2):  # 14 KB/s: a packet in a round trip of a long path
        assert not watch.to_nudge([one], turn * 0.3 - 0.2)
        one.stirs(HEARD_EVERY, turn * 0.3)
    assert watch.to_nudge([one], 0.6) and one.heard_at == 0.6, "it is alive all the same"


def test_what_has_come_is_told_when_one_of_several_wires_falls_behind() -> None:
    one, watch = neighbour(met=True, sign_s=0.001), Watch(STALL_S)
    assert not watch.to_nudge([one], 5.0), "one wire keeps the order: nothing can be behind"
    one.channel.width = 2  # type: ignore[misc]
    told = [now / 10 for now in range(100) if watch.to_nudge([one], now / 10)]
    assert told == [0.5, 1.5, 3.5, 7.5], "ever more seldom"
    one.nudges, one.flowed_at = 0, 9.0  # a chunk has come
    assert not watch.to_nudge([one], 9.4) and watch.to_nudge([one], 9.5)
    assert not watch.to_nudge([neighbour(arrivals=0, met=True, channel=one.channel)], 99.0)
