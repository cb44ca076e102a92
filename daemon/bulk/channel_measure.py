"""What a channel learns of its link from one transfer to the next: rate, distance, what limits it, how many wires.

Owns the account of the wires' counters. The decision is `streams`; the numbers are the kernel's.
"""

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.limits import MEASURED_BYTES_MIN, MEASURED_S_MIN, STREAMS_NEAR_MAX
from intellectd.daemon.bulk.sockets import largest_buffer
from intellectd.daemon.bulk.streams import First, LinkMeasure, Sample, Streams, at_first, decide, diagnosed, probed
from intellectd.daemon.bulk.tcp_info import TcpCounters


class Counted(Protocol):
    """A wire, as far as it is measured. `counted` and the like: what the last account included."""

    counted: TcpCounters
    counted_paced_s: float
    counted_handed_bytes: int
    ping_rtt_s: float | None

    @property
    def shares_memory(self) -> bool: ...

    @property
    def paced_s(self) -> float: ...

    @property
    def handed_bytes(self) -> int: ...

    def counters(self) -> TcpCounters | None: ...

    def congestion(self) -> str: ...


class Meter:
    def __init__(self, first: First = at_first) -> None:
        self._first = first
        self._lock = threading.Lock()
        self._streams: Streams | None = None  # until a wire stands
        self._ended = TcpCounters()  # of wires that ended since the last account
        self._busy_s = 0.0  # at the last account
        self._measure: LinkMeasure | None = None

    @property
    def wanted(self) -> int:
        """Wires that this side wants to stand."""
        return self._streams.wires if self._streams else 1

    def wire_stands(self, wire: Counted) -> None:
        """The first one tells how far it is, and under which congestion control."""
        with self._lock:
            if self._streams is None:
                counters = wire.counters()
                rtt_s = counters.min_rtt_s if counters else None
                first = self._first(wire.congestion(), rtt_s, largest_buffer())
                # Within a host a byte costs Python so little that more wires are worth no more than the cores they get.
                most = STREAMS_NEAR_MAX if wire.shares_memory else first.wires
                self._streams = replace(first, wires=min(first.wires, most))

    def wire_ended(self, wire: Counted) -> None:
        with self._lock:
            self._ended = self._ended.beside(_taken(wire))

    def transfer_ended(self, wires: Iterable[Counted], busy_s: float) -> None:
        """`busy_s`: the channel's total of seconds in which any wire had a chunk in hand."""
        with self._lock:
            counters, self._ended, streams, congestion = self._ended, TcpCounters(), 0, ""
            rtts, paced_s, within_host = [], 0.0, False
            for wire in wires:
                paced_s = max(paced_s, wire.paced_s - wire.counted_paced_s)
                wire.counted_paced_s = wire.paced_s
                counters = counters.beside(_taken(wire))
                congestion = wire.congestion() or congestion
                streams, within_host = streams + 1, within_host or wire.shares_memory
                rtts += [wire.ping_rtt_s] if wire.ping_rtt_s is not None else []
            sample = Sample(streams, counters, busy_s - self._busy_s, congestion, paced_s, within_host)
            self._busy_s = busy_s
            self._streams = decide(self._streams or Streams(), sample)
            self._measure = self._measured(sample, min(rtts, default=None))

    def probed(self, measure: LinkMeasure) -> None:
        """What a probe found, which leaves out TCP's first steps: better than the account of all that it sent."""
        with self._lock:
            self._measure = measure
            if self._streams is not None and measure.bytes_per_s is not None:
                self._streams = probed(self._streams, measure.bytes_per_s)

    def last(self, wires: Iterable[Counted]) -> LinkMeasure | None:
        """The last transfer's; before the first one, what the wires know without sending."""
        with self._lock:
            if self._measure is not None:
                return self._measure
            counters = [found for wire in wires if (found := wire.counters()) is not None]
            rtts = [found.min_rtt_s for found in counters if found.min_rtt_s is not None]
            return LinkMeasure(None, min(rtts), len(counters), "app", now_s()) if rtts else None

    def _measured(self, sample: Sample, ping_rtt_s: float | None) -> LinkMeasure | None:
        rtt_s = sample.counters.min_rtt_s if sample.counters.min_rtt_s is not None else ping_rtt_s
        if sample.counters.acked_bytes >= MEASURED_BYTES_MIN and sample.seconds >= MEASURED_S_MIN:
            return LinkMeasure(sample.bytes_per_s, rtt_s, sample.streams, diagnosed(sample), now_s())
        if self._measure is not None:  # too little to change what is known of the rate
            return replace(self._measure, rtt_s=rtt_s if rtt_s is not None else self._measure.rtt_s)
        return LinkMeasure(None, rtt_s, sample.streams, "app", now_s()) if rtt_s is not None else None


def _taken(wire: Counted) -> TcpCounters:
    """What has been counted since the last account."""
    now = wire.counters()
    if now is None:
        return TcpCounters()
    before, wire.counted = wire.counted, now
    handed, wire.counted_handed_bytes = wire.handed_bytes - wire.counted_handed_bytes, wire.handed_bytes
    taken = now.since(before)
    # What the last transfer left in the socket's buffer is sent and acknowledged in this one, in no time of its own.
    return replace(taken, acked_bytes=min(taken.acked_bytes, handed))
