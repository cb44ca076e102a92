"""When the emulator says that it cannot be believed, and what a calibration prints."""

from dataclasses import replace

import pytest

from tests.wan.calibrate import calibrate
from tests.wan.counts import Carried, Counts
from tests.wan.network import why_not

NONE = Counts(cpu_s=1.0, no_room=0, refused=0, not_ours=0, late=(0,) * 40, paths={("a", "b"): Carried(sent=5, lost=1)})


def late(**runs: int) -> Counts:
    """under_<microseconds>=runs"""
    powers = {int(name.removeprefix("under_")).bit_length() - 1: count for name, count in runs.items()}
    return replace(NONE, late=tuple(powers.get(power, 0) for power in range(40)))


def test_one_packet_in_a_hundred_may_be_late() -> None:
    assert NONE.distrust() is None
    assert late(under_64=990, under_8192=10).distrust() is None
    said = late(under_64=989, under_8192=11).distrust()
    assert said == "one packet in 100 was handed over 4.1 ms late or more, limit 1: the machine is too busy"
    assert late(under_64=99, under_8192=1).late_s(0.5) == pytest.approx(64e-6)


def test_what_the_router_itself_dropped_is_no_network() -> None:
    assert "dropped 3 runs" in (replace(NONE, no_room=1, refused=2).distrust() or "")


def test_counts_of_a_while() -> None:
    later = replace(
        NONE,
        cpu_s=3.0,
        refused=4,
        late=(7,) + (0,) * 39,
        paths={("a", "b"): Carried(sent=9, lost=1), ("b", "a"): Carried(sent=2)},
    )
    while_ = later.since(NONE)
    assert (while_.cpu_s, while_.refused, while_.late[0]) == (2.0, 4, 7)
    assert while_.paths == {("a", "b"): Carried(sent=4), ("b", "a"): Carried(sent=2)}


@pytest.mark.slow
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_calibration_ends_with_a_verdict() -> None:
    lines = list(calibrate(seconds=2.0))
    assert len(lines) == 6
    assert "kpkt/s a core" in lines[0]
    assert lines[-1].startswith(("yes: ", "no: "))
