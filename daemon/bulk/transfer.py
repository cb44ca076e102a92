"""What a collective, a fetch and a probe share: one end each, reported once, after the buffers were let go.

Owns the stop, the first failure, the progress reports and the terminal event. Refuses to know what moves.
"""

import threading

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.errors import BulkExhausted, DeadlinePassed, Failure
from intellectd.daemon.bulk.interface import (
    LinkSeen,
    OnBulkEvent,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferProgress,
)
from intellectd.daemon.bulk.limits import PROGRESS_EVERY_S


class Transfer:
    """The public face of a running transfer. Any thread may fail it; one thread of it reports."""

    def __init__(
        self, transfer_id: TransferId, stall_s: float, deadline_s: float, on_event: OnBulkEvent, threads: int = 1
    ) -> None:
        if not (stall_s > 0 and deadline_s > 0):
            raise ValueError(f"stall_s {stall_s} and deadline_s {deadline_s} must be above 0")
        self.transfer_id = transfer_id
        self.stall_s = stall_s
        self.started_s = now_s()
        self.deadline = self.started_s + deadline_s
        try:
            self.stop = Stop()
        except OSError as error:
            raise BulkExhausted(f"the system has no file left: {error.strerror}") from None
        self._on_event = on_event
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        self._reported_s = self.started_s
        self._threads = threads

    @property
    def failure(self) -> Failure | None:
        return self._failure

    def fail(self, failure: Failure) -> None:
        """The first failure counts: what follows is mostly its echo. Every thread of the transfer stops."""
        with self._lock:
            self._failure = self._failure or failure
        self.stop.set()

    def check(self) -> None:
        """Leave, by an exception, when the transfer has stopped or taken too long."""
        self.stop.check()
        if now_s() > self.deadline:
            raise DeadlinePassed()

    def progress(self, done_bytes: int, total_bytes: int, always: bool = False) -> None:
        """Report, though not more often than anybody can read it."""
        now = now_s()
        if always or now - self._reported_s >= PROGRESS_EVERY_S:
            self._reported_s = now
            self._on_event(TransferProgress(self.transfer_id, done_bytes, total_bytes))

    def report_end(self, sent_bytes: int, received_bytes: int, links: tuple[LinkSeen, ...] = ()) -> None:
        """The last event. Whoever calls this has let go of the job's buffers before."""
        failure = self._failure
        if failure is not None:
            self._on_event(TransferFailed(self.transfer_id, failure.suspect, failure.reason, failure.silent, links))
            return
        seconds = now_s() - self.started_s
        self._on_event(TransferDone(self.transfer_id, sent_bytes, received_bytes, seconds, links))

    def thread_ends(self) -> bool:
        """To be called by each of its threads, last of all. True for the last, which closes what they shared."""
        with self._lock:
            self._threads -= 1
            last = self._threads == 0
        if last:
            self.stop.close()
        return last
