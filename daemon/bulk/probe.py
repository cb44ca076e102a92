"""A probe: a few megabytes that mean nothing, sent to a peer over its channel, to learn what the link carries.

Owns its sending, its end, and the judgement. The other side reads and drops chunks of a transfer that it does not
know, as it does those of one that has ended; what arrived is what its kernel acknowledged. Refuses to know when a
link is worth a look.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.collective_plan import key_of
from intellectd.daemon.bulk.errors import Failure, LinkLost, LinkSilent, Stopped, failure_of
from intellectd.daemon.bulk.frames import Header, Kind, Outgoing
from intellectd.daemon.bulk.interface import LinkSeen, OnBulkEvent, ProbeJob
from intellectd.daemon.bulk.limits import (
    MEASURED_BYTES_MIN,
    PROBE_BUSY_S_MIN,
    PROBE_LOOK_S,
    PROBE_PIECE_BYTES,
    PROBE_S,
    PROBE_WINDOW_BYTES,
)
from intellectd.daemon.bulk.streams import LinkMeasure
from intellectd.daemon.bulk.tcp_info import TcpCounters
from intellectd.daemon.bulk.transfer import Transfer

NOTHING = memoryview(bytes(PROBE_PIECE_BYTES))


class ProbedChannel(Protocol):
    def send(self, item: Outgoing) -> None: ...

    def drop(self, transfer: int) -> None: ...

    def counters(self) -> TcpCounters | None: ...


class ProbedChannels(Protocol):
    def need(self, peer: str, stall_s: float) -> ProbedChannel: ...

    def release(self, peer: str) -> None: ...

    def measured(self, peer: str) -> LinkMeasure | None: ...

    def probed(self, peer: str, measure: LinkMeasure) -> None: ...


@dataclass(frozen=True)
class Look:
    """At the counters of a channel, since the probe began."""

    acked_bytes: int
    busy_s: float  # with bytes on their way


@dataclass(frozen=True)
class _Piece:
    header: Header
    wanted: Callable[[], bool]

    def fill(self, seal: Callable[[memoryview], None], _room: memoryview) -> bool:
        if not self.wanted():
            return False
        seal(NOTHING)
        return True

    def moved(self) -> None: ...

    def sent(self) -> None:
        """Given to the socket is not arrived."""


class Probe:
    """`run` is its thread. `collective_runs`: does one, on this host? `forget` is called before the terminal event."""

    def __init__(
        self,
        job: ProbeJob,
        channels: ProbedChannels,
        collective_runs: Callable[[], bool],
        on_event: OnBulkEvent,
        forget: Callable[[], None],
    ) -> None:
        if job.bytes_max < MEASURED_BYTES_MIN:
            raise ValueError(f"a probe of {job.bytes_max} bytes says nothing; at least {MEASURED_BYTES_MIN}")
        self.transfer = Transfer(job.probe_id, job.stall_s, job.deadline_s, on_event)
        self._job, self._channels = job, channels
        self._collective_runs, self._forget = collective_runs, forget
        self._key = key_of(job.probe_id)
        self._sent_bytes = 0

    def run(self) -> None:
        transfer, seen = self.transfer, None
        try:
            seen = self._look()
            if seen is None:
                transfer.fail(Failure(None, "too little arrived to say anything of the link"))
        except Stopped:
            pass  # whoever stopped the transfer has said why
        except Exception as error:  # this host's own faults too: the app waits for an event
            transfer.fail(failure_of(error, self._job.peer))
        self._forget()
        try:
            transfer.report_end(self._sent_bytes, 0, (seen,) if seen is not None else ())
        finally:
            transfer.thread_ends()

    def _look(self) -> LinkSeen | None:
        peer, began_s = self._job.peer, now_s()
        channel = self._channels.need(peer, self.transfer.stall_s)
        try:
            looks, counters = self._send(channel)
        finally:
            channel.drop(self._key)
            self._channels.release(peer)
        rate, known = judged(looks), self._channels.measured(peer)
        if rate is None or counters.min_rtt_s is None:
            return None
        streams, limit = (known.streams, known.limit) if known is not None else (1, "app")
        measure = LinkMeasure(rate, counters.min_rtt_s, streams, limit, now_s())
        self._channels.probed(peer, measure)
        return measure.seen(peer, began_s)

    def _send(self, channel: ProbedChannel) -> tuple[list[Look], TcpCounters]:
        """What was seen on the way, and the last of it."""
        looks: list[Look] = []
        first: TcpCounters | None = None
        began_s = moved_s = now_s()
        while True:
            self._give_way()
            counters, now = channel.counters(), now_s()
            if counters is not None and first is None:
                first, began_s, moved_s = counters, now, now
            if counters is not None and first is not None:
                look = Look(counters.acked_bytes - first.acked_bytes, counters.busy_s - first.busy_s)
                if looks and look.acked_bytes < looks[-1].acked_bytes:
                    raise LinkLost("a connection was lost meanwhile")
                moved_s = now if not looks or look.acked_bytes > looks[-1].acked_bytes else moved_s
                looks.append(look)
                if look.acked_bytes >= self._job.bytes_max or now - began_s >= PROBE_S:
                    return looks, counters
                self._feed(channel, look.acked_bytes)
            elif first is not None:
                raise LinkLost("the connection was lost")
            if now - moved_s >= self.transfer.stall_s:
                raise LinkSilent(f"nothing arrived there in {self.transfer.stall_s:g} s")
            self.transfer.stop.wait(PROBE_LOOK_S)

    def _give_way(self) -> None:
        self.transfer.check()
        if self._collective_runs():
            self.transfer.fail(Failure(None, "a collective runs here, and goes first"))
            raise Stopped

    def _feed(self, channel: ProbedChannel, acked_bytes: int) -> None:
        """No more under way than has arrived already, so that a slow link has no long queue of it."""
        until = min(self._job.bytes_max, acked_bytes + max(PROBE_WINDOW_BYTES, acked_bytes))
        header = Header(Kind.CHUNK, transfer=self._key, length=PROBE_PIECE_BYTES)
        while self._sent_bytes < until:
            channel.send(_Piece(header, lambda: self.transfer.failure is None and not self._collective_runs()))
            self._sent_bytes += PROBE_PIECE_BYTES


def judged(looks: Sequence[Look]) -> float | None:
    """Bytes a second, of the half that arrived last: in the first one TCP is still finding its pace. None when too
    little arrived to say."""
    if not looks or looks[-1].acked_bytes < MEASURED_BYTES_MIN:
        return None
    last = looks[-1]
    middle = next(look for look in looks if 2 * look.acked_bytes >= last.acked_bytes)
    if middle.acked_bytes == last.acked_bytes or last.busy_s - middle.busy_s < PROBE_BUSY_S_MIN:
        middle = looks[0]
    arrived = last.acked_bytes - middle.acked_bytes
    if not arrived:
        return None
    return arrived / max(last.busy_s - middle.busy_s, PROBE_BUSY_S_MIN)
