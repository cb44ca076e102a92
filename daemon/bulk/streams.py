"""How many wires a channel should have: a pure decision from the counters of its last transfer, with memory.

Owns the diagnosis (what limited the sending) and the hill climbing. Refuses to know sockets and clocks. More wires
help where one is held back by a window (a buffer smaller than bandwidth times delay) or by a loss-based congestion
control, which takes every lost packet for a full queue. They do not help bbr on its own, nor a sender with nothing
to send. Whether they helped is measured: if the rate did not rise, they go again, and longer each time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from intellectd.daemon.bulk.interface import LinkSeen
from intellectd.daemon.bulk.limits import (
    STREAM_BYTES_PER_S_MIN,
    STREAM_HOLD_MAX,
    STREAM_JUDGED_BYTES,
    STREAM_JUDGED_S,
    STREAM_LIMITED_SHARE,
    STREAM_LOSS_SHARE,
    STREAM_WORTH,
    STREAMS_BUFFER_BYTES,
    STREAMS_LOSSY,
    STREAMS_NEAR_MAX,
    STREAMS_NEAR_S,
    STREAMS_SEVERAL,
    STREAMS_WINDOWS_MAX,
)
from intellectd.daemon.bulk.tcp_info import TcpCounters

First = Callable[[str, float | None, int], "Streams"]  # see at_first
WIRES_HELP = ("rwnd", "sndbuf", "loss")  # limits that more wires may lift


@dataclass(frozen=True)
class LinkMeasure:
    """Of one direction, from here to the peer. `limit`: what held it back, see `diagnosed`."""

    bytes_per_s: float | None  # while busy sending; None: too little was sent to say
    rtt_s: float | None  # the least lately seen
    streams: int
    limit: str
    measured_s: float  # on the bulk plane's clock

    def seen(self, peer: str, since_s: float) -> LinkSeen | None:
        """For the app, unless it is older than that or says too little."""
        if self.bytes_per_s is None or self.rtt_s is None or self.bytes_per_s <= 0 or self.measured_s < since_s:
            return None
        return LinkSeen(peer, self.bytes_per_s, self.rtt_s, self.streams, self.limit)


@dataclass(frozen=True)
class Sample:
    """One transfer's sending. `busy_s` is the time in which any wire had a chunk in hand."""

    streams: int
    counters: TcpCounters
    busy_s: float
    congestion: str
    paced_s: float = 0.0  # in which a wire waited for the operator's rate limit; of several the longest
    within_host: bool = False  # by memory that the peer's process shares

    @property
    def seconds(self) -> float:
        # The kernel's time counts what waits in buffers; the wires' own counts those that take turns.
        return max(self.busy_s, self.counters.busy_s)

    @property
    def tells(self) -> bool:
        """Whether it was enough to judge a rate by."""
        return self.counters.acked_bytes >= STREAM_JUDGED_BYTES and self.seconds >= STREAM_JUDGED_S

    @property
    def bytes_per_s(self) -> float:
        return self.counters.acked_bytes / self.seconds if self.seconds else 0.0


def diagnosed(sample: Sample) -> str:
    """ "pace": the operator's rate limit; "rwnd", "sndbuf": a window was too small; "host": within a host, the peer's
    process was not done with what it had; "loss": a loss-based congestion control saw losses; "bbr": the path itself,
    as bbr finds it; "app": none of these, the sender had no more to send.
    """
    counters, seconds = sample.counters, sample.seconds
    if seconds <= 0:
        return "app"
    if sample.paced_s >= STREAM_LIMITED_SHARE * seconds:
        return "pace"
    if counters.rwnd_limited_s >= STREAM_LIMITED_SHARE * seconds:
        return "host" if sample.within_host else "rwnd"
    if counters.sndbuf_limited_s >= STREAM_LIMITED_SHARE * seconds:
        return "sndbuf"
    lossy = counters.retransmitted_bytes >= STREAM_LOSS_SHARE * max(1, counters.sent_bytes)
    if lossy and sample.congestion != "bbr":
        return "loss"
    # Busy to the kernel almost all the time that the wires were: the path was never left idle.
    full = counters.busy_s >= (1 - STREAM_LIMITED_SHARE) * sample.busy_s
    return "bbr" if full and sample.congestion == "bbr" else "app"


@dataclass(frozen=True)
class Streams:
    """`wires` is the wish; `before` is (wires, bytes/s) from which it was changed for a trial, None when settled.
    `fewer_cost`: a trial has shown that."""

    wires: int = 1
    before: tuple[int, float] | None = None
    hold: int = 0  # transfers for which nothing is tried
    next_hold: int = 1
    fewer_cost: bool = False


def decide(memory: Streams, sample: Sample, near_max: int = STREAMS_NEAR_MAX) -> Streams:
    """The wish for the next transfer. `near_max`: wires whose threads this host has cores for."""
    if not sample.tells or sample.streams != memory.wires:
        return memory  # nothing can be learnt of a wish that was not what ran
    if memory.before is not None:
        return _judged(memory, memory.before, sample, near_max)
    if memory.hold:
        return replace(memory, hold=memory.hold - 1)
    thin = memory.wires > 1 and not memory.fewer_cost and _most_at(sample.bytes_per_s) < memory.wires
    more = memory.wires if thin else _more(memory, sample, near_max)
    if more == memory.wires > 1 and (thin or _lifted(memory, sample, near_max) not in WIRES_HELP):
        return replace(memory, wires=memory.wires // 2, before=(memory.wires, sample.bytes_per_s))
    return _tried(memory, more, sample)


def _tried(memory: Streams, wires: int, sample: Sample) -> Streams:
    return memory if wires == memory.wires else replace(memory, wires=wires, before=(memory.wires, sample.bytes_per_s))


def _lifted(memory: Streams, sample: Sample, near_max: int) -> str:
    """The limit, as far as more wires may lift it. On a near path a window is shut because a core is busy; with more
    threads than cores, each takes the others' frames out of the caches."""
    limit = diagnosed(sample)
    full = _is_near(sample.counters.min_rtt_s) and memory.wires >= near_max
    return "app" if full and limit in ("rwnd", "sndbuf") else limit


def _more(memory: Streams, sample: Sample, near_max: int) -> int:
    """How many to try next: four times as many where most of the time is lost, else twice."""
    limit = _lifted(memory, sample, near_max)
    if limit not in WIRES_HELP:
        return memory.wires
    short_s = max(sample.counters.rwnd_limited_s, sample.counters.sndbuf_limited_s)
    much = limit == "loss" or 2 * short_s >= sample.seconds
    windows_max = min(STREAMS_WINDOWS_MAX, near_max) if _is_near(sample.counters.min_rtt_s) else STREAMS_WINDOWS_MAX
    most = STREAMS_LOSSY if limit == "loss" else windows_max  # of a trial: those that stand have earned it
    return max(memory.wires, min((4 if much else 2) * memory.wires, most))


def _is_near(rtt_s: float | None) -> bool:
    return rtt_s is not None and rtt_s < STREAMS_NEAR_S


def at_first(congestion: str, rtt_s: float | None, buffer_bytes: int) -> Streams:
    """Before anything is measured. Several: on a near path, where cores are what is short and each wire brings two
    threads; where buffers are too small for a far one. Many: on a far one under what takes each loss for a full queue.
    Else one, for several bbr on one far path get in each other's way. `buffer_bytes`: the most that the kernel gives a
    connection."""
    near = _is_near(rtt_s)
    if not near and congestion not in ("", "bbr"):
        return Streams(STREAMS_LOSSY)
    several = near or buffer_bytes < STREAMS_BUFFER_BYTES
    return Streams(STREAMS_SEVERAL if several else 1)


def probed(memory: Streams, bytes_per_s: float) -> Streams:
    """After a look at the path, before anything was tried on it."""
    if memory.before is not None or memory.hold:
        return memory
    return replace(memory, wires=min(memory.wires, _most_at(bytes_per_s)))


def _most_at(bytes_per_s: float) -> int:
    return max(1, int(bytes_per_s / STREAM_BYTES_PER_S_MIN))


def _judged(memory: Streams, before: tuple[int, float], sample: Sample, near_max: int) -> Streams:
    """More wires have to earn their place; fewer only must not cost."""
    wires, rate = before
    more = memory.wires > wires
    good = sample.bytes_per_s >= rate * (STREAM_WORTH if more else 1 / STREAM_WORTH)
    if good:
        settled = replace(memory, before=None, next_hold=1)
        return _tried(settled, _more(settled, sample, near_max), sample) if more else settled
    hold = memory.next_hold
    return Streams(wires, None, hold, min(2 * hold, STREAM_HOLD_MAX), memory.fewer_cost or not more)
