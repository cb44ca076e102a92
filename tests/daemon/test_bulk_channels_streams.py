"""How many wires, how fast at most, and what the kernel says: decisions and arithmetic without a socket."""

import socket
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon.bulk.channel_measure import Meter
from intellectd.daemon.bulk.interface import LinkSeen
from intellectd.daemon.bulk.limits import (
    PACE_BURST_S,
    PACE_PIECE_MIN,
    STREAM_HOLD_MAX,
    STREAM_JUDGED_BYTES,
    STREAMS_MAX,
)
from intellectd.daemon.bulk.pace import Bucket, Pace
from intellectd.daemon.bulk.streams import LinkMeasure, Sample, Streams, at_first, decide, diagnosed, probed
from intellectd.daemon.bulk.tcp_info import TcpCounters, congestion_control, parse_counters, read_counters

MIB = 2**20


def sample(
    streams: int = 1, rate: float = 10 * MIB, congestion: str = "bbr", seconds: float = 10.0, **counters: float
) -> Sample:
    """So many busy seconds at `rate`; `counters` are shares of the time and of the bytes."""
    sent = int(seconds * rate)
    return Sample(
        streams,
        TcpCounters(
            sent,
            sent,
            int(counters.get("lost", 0) * sent),
            seconds * counters.get("busy", 1.0),
            seconds * counters.get("rwnd", 0),
            seconds * counters.get("sndbuf", 0),
            0.1,
        ),
        seconds,
        congestion,
    )


@pytest.mark.parametrize(
    ("seen", "limit"),
    [
        (sample(), "bbr"),
        (sample(lost=1e-2), "bbr"),  # bbr does not take a loss for a full queue
        (sample(congestion="cubic"), "app"),
        (sample(congestion="cubic", lost=1e-4), "loss"),
        (sample(congestion="cubic", lost=1e-7), "app"),
        (sample(sndbuf=0.5), "sndbuf"),
        (sample(rwnd=0.5, sndbuf=0.5), "rwnd"),
        (replace(sample(rwnd=0.5), within_host=True), "host"),  # nobody's buffers are to be raised
        (sample(rwnd=0.01, sndbuf=0.01), "bbr"),
        (sample(busy=0.3), "app"),
        (Sample(0, TcpCounters(), 0.0, ""), "app"),
    ],
)
def test_what_limited_a_transfer_is_named(seen: Sample, limit: str) -> None:
    assert diagnosed(seen) == limit


SETTLED, FEWER_COST = Streams(), Streams(fewer_cost=True)
TRIAL_UP = Streams(wires=4, before=(2, 10 * MIB))
TRIAL_DOWN = Streams(wires=2, before=(4, 10 * MIB))


@pytest.mark.parametrize(
    ("memory", "seen", "then"),
    [
        # Settled: held back by something that more wires help with, they are tried; by nothing of it, fewer are.
        (SETTLED, sample(), SETTLED),
        (SETTLED, sample(sndbuf=0.4), Streams(wires=2, before=(1, 10 * MIB))),
        (SETTLED, sample(sndbuf=0.5), Streams(wires=4, before=(1, 10 * MIB))),
        (SETTLED, sample(rwnd=0.5), Streams(wires=4, before=(1, 10 * MIB))),
        (SETTLED, sample(congestion="cubic", lost=1e-4), Streams(wires=4, before=(1, 10 * MIB))),
        (Streams(wires=4), sample(4), Streams(wires=2, before=(4, 10 * MIB))),
        (Streams(wires=8), sample(8, sndbuf=0.5), Streams(wires=8)),
        # What windows want at most is no reason to have fewer than losses want.
        (Streams(wires=24), sample(24, congestion="cubic", rwnd=0.3, lost=1e-4), Streams(wires=24)),
        (Streams(wires=24), sample(24, congestion="cubic", lost=1e-4), Streams(wires=24)),
        # A trial: more have to be worth it, fewer must not cost.
        (TRIAL_UP, sample(4, 12 * MIB), Streams(wires=4)),
        (TRIAL_UP, sample(4, 12 * MIB, sndbuf=0.4), Streams(wires=8, before=(4, 12 * MIB))),
        (replace(TRIAL_UP, wires=8), sample(8, 12 * MIB, sndbuf=0.5), Streams(wires=8)),
        (TRIAL_UP, sample(4, 10.5 * MIB, sndbuf=0.5), Streams(wires=2, hold=1, next_hold=2)),
        (TRIAL_UP, sample(4, 2 * MIB), Streams(wires=2, hold=1, next_hold=2)),
        (TRIAL_DOWN, sample(2, 9.5 * MIB), Streams(wires=2)),
        (TRIAL_DOWN, sample(2, 8 * MIB), Streams(wires=4, hold=1, next_hold=2, fewer_cost=True)),
        # So slow a line that each takes long for a frame: fewer are tried whatever limits, until that costs.
        (Streams(wires=24), sample(24, MIB, congestion="cubic", lost=1e-2), Streams(wires=12, before=(24, MIB))),
        (Streams(wires=12, before=(24, MIB)), sample(12, MIB, congestion="cubic", lost=1e-2), Streams(wires=12)),
        (
            replace(FEWER_COST, wires=4),
            sample(4, 0.9 * MIB, congestion="cubic", lost=1e-2),
            replace(FEWER_COST, wires=16, before=(4, 0.9 * MIB)),
        ),
        (replace(TRIAL_UP, next_hold=64), sample(4, 2 * MIB), Streams(wires=2, hold=64, next_hold=64)),
        # Held: nothing is tried for so many transfers.
        (Streams(hold=2, next_hold=4), sample(sndbuf=0.5), Streams(hold=1, next_hold=4)),
        # What tells nothing changes nothing.
        (SETTLED, sample(rate=STREAM_JUDGED_BYTES / 11, sndbuf=0.5), SETTLED),
        (SETTLED, sample(3, sndbuf=0.5), SETTLED),
        (TRIAL_UP, sample(3, 2 * MIB), TRIAL_UP),
    ],
)
def test_the_decision_table(memory: Streams, seen: Sample, then: Streams) -> None:
    assert decide(memory, seen) == then


def test_on_a_near_path_windows_want_no_more_wires_than_there_are_cores_for() -> None:
    """One that is short there is a core's: more threads would only take each other's caches."""
    near = sample(rwnd=0.5)
    near = replace(near, counters=replace(near.counters, min_rtt_s=0.0001))
    assert decide(SETTLED, near, near_max=1) == SETTLED
    assert decide(SETTLED, near, near_max=2).wires == 2
    assert decide(SETTLED, sample(rwnd=0.5), near_max=1).wires == 4, "a far one is too small"
    four = replace(near, streams=4)
    assert decide(Streams(wires=4), four, near_max=8).wires == 8
    assert decide(Streams(wires=4), four, near_max=2) == Streams(wires=2, before=(4, 10 * MIB)), "a trial: if it costs"
    lossy = replace(near, congestion="cubic", counters=replace(sample(lost=1e-4).counters, min_rtt_s=0.0001))
    assert decide(SETTLED, lossy, near_max=1).wires == 4, "losses are no core's"


@pytest.mark.parametrize(("useful", "expected"), [(1, 1), (4, 4), (8, 8)])
def test_it_climbs_to_what_the_path_needs_and_stays(useful: int, expected: int) -> None:
    """A path on which each wire brings 10 MiB/s up to `useful` of them, and all are always short of buffer."""
    memory, asked = Streams(), []
    for _ in range(200):
        memory = decide(memory, sample(memory.wires, 10 * MIB * min(memory.wires, useful), sndbuf=0.5))
        asked.append(memory.wires)
    settled = asked[10:]
    assert max(asked) <= STREAMS_MAX
    assert settled.count(expected) > 0.9 * len(settled), settled


@pytest.mark.parametrize(
    ("congestion", "rtt_s", "buffer_bytes", "wires"),
    [
        ("bbr", 0.1, 64 * MIB, 1),
        ("bbr", None, 64 * MIB, 1),
        ("bbr", 0.0001, 64 * MIB, 4),
        ("bbr", 0.1, 4 * MIB, 4),
        ("cubic", 0.1, 64 * MIB, 24),
        ("cubic", 0.0001, 64 * MIB, 4),
        ("", 0.1, 64 * MIB, 1),
    ],
)
def test_what_it_begins_with(congestion: str, rtt_s: float | None, buffer_bytes: int, wires: int) -> None:
    """One far bbr is best alone; a near path lacks cores, a small buffer and cubic lack windows."""
    assert at_first(congestion, rtt_s, buffer_bytes) == Streams(wires)


@pytest.mark.parametrize(
    ("each", "whole", "expected"), [(8 * MIB, 0.25 * MIB, 1), (8 * MIB, MIB, 3), (0.1 * MIB, 9 * MIB, 24)]
)
def test_where_cubic_has_losses_a_slow_line_gets_few_wires_and_a_lossy_one_all(
    each: float, whole: float, expected: int
) -> None:
    """A line that carries `whole` bytes a second, of which losses leave a wire `each` at most."""
    memory, asked = at_first("cubic", 0.1, 64 * MIB), []
    for _ in range(100):
        rate = min(whole, each * memory.wires)
        memory = decide(memory, sample(memory.wires, rate, "cubic", seconds=60, lost=1e-2))
        asked.append(memory.wires)
    settled = asked[10:]
    assert settled.count(expected) > 0.85 * len(settled), settled


def test_a_look_at_a_slow_line_is_enough_to_begin_with_few() -> None:
    begun = at_first("cubic", 0.1, 64 * MIB)
    assert probed(begun, 60 * MIB) == begun
    assert [probed(begun, rate).wires for rate in (1.25 * MIB, 0.25 * MIB, 1000.0)] == [5, 1, 1]
    trial = Streams(wires=8, before=(4, MIB))
    assert probed(trial, MIB) == trial  # what is being tried is judged by a transfer


def test_eight_wires_are_there_for_the_third_transfer() -> None:
    """Of a path with small buffers, on which a wire brings a tenth."""
    memory, asked = Streams(), []
    for _ in range(3):
        asked.append(memory.wires)
        memory = decide(memory, sample(memory.wires, 10 * MIB * memory.wires, sndbuf=0.9))
    assert asked == [1, 4, 8]


@given(st.lists(st.tuples(st.floats(0, 1e10), st.sampled_from(["bbr", "cubic"]), st.floats(0, 1), st.floats(0, 1))))
def test_the_wish_is_always_within_bounds(history: list[tuple[float, str, float, float]]) -> None:
    memory = Streams()
    for rate, congestion, lost, sndbuf in history:
        memory = decide(memory, sample(memory.wires, rate, congestion, lost=lost, sndbuf=sndbuf))
        assert 1 <= memory.wires <= STREAMS_MAX and 0 <= memory.hold <= memory.next_hold <= STREAM_HOLD_MAX


@given(st.floats(2e4, 1e9), st.lists(st.tuples(st.integers(1, 65536), st.floats(0, 0.1)), min_size=1, max_size=200))
def test_no_more_than_the_rate_and_one_burst_is_ever_moved(rate: float, moves: list[tuple[int, float]]) -> None:
    """Whoever waits as long as the bucket says, and then dawdles, stays under the line rate * t + burst."""
    bucket, now, moved = Bucket(rate, 0.0), 0.0, 0
    for count, dawdled_s in moves:
        moved += count
        now += bucket.take(count, now)
        assert moved <= rate * now + bucket.burst_bytes + 1e-6 * moved + 1
        now += dawdled_s


@given(st.floats(2e4, 1e9))
def test_who_always_has_something_to_move_gets_the_whole_rate(rate: float) -> None:
    bucket, now, moved = Bucket(rate, 0.0), 0.0, 0
    while moved < 2 * rate:
        moved += 4096 if rate < 1e7 else 2**20
        now += bucket.take(4096 if rate < 1e7 else 2**20, now)
    assert moved / now >= rate * 0.999


def test_a_clock_that_stands_still_or_goes_back_gives_nothing_for_free() -> None:
    bucket = Bucket(1000.0, 10.0)
    assert bucket.take(int(bucket.burst_bytes), 10.0) == 0.0
    assert bucket.take(1000, 5.0) == pytest.approx(1.0)
    assert bucket.take(0, 5.5) == pytest.approx(0.5)
    assert bucket.burst_bytes == max(1000 * PACE_BURST_S, PACE_PIECE_MIN)


def test_who_has_long_been_idle_may_move_one_burst_at_once_and_no_more() -> None:
    bucket = Bucket(1e6, 0.0)
    bucket.take(int(bucket.burst_bytes), 0.0)
    assert bucket.take(int(bucket.burst_bytes), 3600.0) == 0.0
    assert bucket.take(1_000_000, 3600.0) == pytest.approx(1.0)


def test_limits_are_in_megabits_and_none_by_default() -> None:
    pace = Pace(upload_mbit=8)
    assert pace.down is None and pace.up is not None
    assert pace.up.piece_bytes == 50_000  # a twentieth of a second of 1 MB/s
    with pytest.raises(ValueError, match="-1"):
        Pace(download_mbit=-1)


def test_the_kernels_numbers_are_read_from_where_it_puts_them() -> None:
    raw = bytearray(248)
    struct.pack_into("=Q", raw, 120, 1_000_000)
    struct.pack_into("=I", raw, 148, 50_000)
    struct.pack_into("=QQQ", raw, 168, 3_000_000, 2_000_000, 1_000_000)
    struct.pack_into("=QQ", raw, 200, 1_100_000, 100_000)
    assert parse_counters(bytes(raw)) == TcpCounters(1_000_000, 1_100_000, 100_000, 3.0, 2.0, 1.0, 0.05)
    assert parse_counters(bytes(raw[:192])) is None  # of a kernel that does not count what is sent again


def test_a_connections_own_counters_grow_with_what_is_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        server, _address = listening.accept()
        with server:
            before = read_counters(client)
            client.sendall(b"x" * 100_000)
            received = 0
            while received < 100_000:
                received += len(server.recv(65536))
            after = read_counters(client)
        assert before is not None and after is not None
        moved = after.since(before)
        assert moved.sent_bytes >= 100_000 and moved.acked_bytes <= moved.sent_bytes
        assert after.min_rtt_s is not None and after.busy_s >= 0 and congestion_control(client)
    assert read_counters(client) is None and congestion_control(client) == ""


def moved(count: int, busy_s: float) -> TcpCounters:
    """So much was sent and has arrived."""
    return TcpCounters(count, count, busy_s=busy_s)


class FakeWire:
    """A wire's counters, set by the test."""

    shares_memory = False

    def __init__(self, counters: TcpCounters | None) -> None:
        self.now, self.counted, self.ping_rtt_s = counters, TcpCounters(), None
        self.paced_s = self.counted_paced_s = 0.0
        self.counted_handed_bytes = 0

    @property
    def handed_bytes(self) -> int:
        return 0 if self.now is None else self.now.sent_bytes - self.now.retransmitted_bytes

    def counters(self) -> TcpCounters | None:
        return self.now

    def congestion(self) -> str:
        return "bbr"


def test_a_transfer_is_counted_once_over_all_its_wires_and_those_that_broke() -> None:
    meter, first, second = Meter(), FakeWire(moved(40 * MIB, 2.0)), FakeWire(moved(20 * MIB, 0.0))
    meter.wire_ended(second)
    meter.transfer_ended([first], busy_s=3.0)
    measure = meter.last([first])
    assert measure is not None and measure.bytes_per_s == pytest.approx(20 * MIB)  # 60 MiB in 3 s
    first.now = replace(moved(50 * MIB, 7.0), min_rtt_s=0.02)
    meter.transfer_ended([first], busy_s=4.0)
    measure = meter.last([first])
    assert measure is not None and measure.bytes_per_s == pytest.approx(2 * MIB)  # 10 MiB in the kernel's 5 s
    first.now = replace(moved(50 * MIB + 1, 7.0), min_rtt_s=0.01)
    meter.transfer_ended([first], busy_s=4.0)
    after = meter.last([first])
    assert after == replace(measure, rtt_s=0.01), "a byte says nothing of a rate"


def test_before_the_first_transfer_the_distance_is_known_and_the_rate_is_not() -> None:
    meter = Meter()
    assert meter.last([]) is None
    found = meter.last([FakeWire(TcpCounters(min_rtt_s=0.1)), FakeWire(None)])
    assert found is not None and (found.bytes_per_s, found.rtt_s, found.streams) == (None, 0.1, 1)


def test_who_waits_for_the_operators_limit_is_held_back_by_nothing_else() -> None:
    meter, wire = Meter(), FakeWire(replace(moved(40 * MIB, 2.0), sndbuf_limited_s=1.0))
    wire.paced_s = 1.5
    meter.transfer_ended([wire], busy_s=3.0)
    measure = meter.last([wire])
    assert measure is not None and measure.limit == "pace" and meter.wanted == 1
    wire.now = replace(moved(80 * MIB, 4.0), sndbuf_limited_s=2.0)  # the limit was lifted, and counts once
    meter.transfer_ended([wire], busy_s=6.0)
    measure = meter.last([wire])
    assert measure is not None and measure.limit == "sndbuf" and meter.wanted == 2


def test_the_app_is_told_what_is_new_and_says_something() -> None:
    measure = LinkMeasure(5e6, 0.1, 2, "bbr", measured_s=10.0)
    assert measure.seen("b", 9.0) == LinkSeen("b", 5e6, 0.1, 2, "bbr")
    assert measure.seen("b", 10.5) is None
    for less in (replace(measure, bytes_per_s=None), replace(measure, rtt_s=None), replace(measure, bytes_per_s=0.0)):
        assert less.seen("b", 9.0) is None


def test_what_is_acknowledged_after_a_transfer_is_not_the_next_ones_rate() -> None:
    meter, wire = Meter(), FakeWire(TcpCounters(10 * MIB, 12 * MIB, MIB, busy_s=1.0))
    meter.transfer_ended([wire], busy_s=1.0)
    first = meter.last([wire])
    assert first is not None and first.bytes_per_s == pytest.approx(10 * MIB)
    wire.now = TcpCounters(11 * MIB + 1000, 12 * MIB + 1000, MIB, busy_s=1.0)  # a MiB came late, then a small transfer
    meter.transfer_ended([wire], busy_s=1.00001)
    assert meter.last([wire]) == first
    wire.now = TcpCounters(15 * MIB, 16 * MIB, MIB, busy_s=1.0)  # faster than the kernel's clock ticks
    meter.transfer_ended([wire], busy_s=1.0001)
    assert meter.last([wire]) == first
