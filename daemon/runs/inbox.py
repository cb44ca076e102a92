"""From the bulk engine's threads to the trio thread: events are handled one after another, in a task of the run.

Owns the crossing. What a handler raises then ends the run like any other fault, and nothing is handled after it.
"""

import contextlib
from collections.abc import Callable

import trio

from intellectd.daemon.bulk.interface import BulkEvent, TransferProgress

# 64 transfers of one engine, each with a report twice a second: half a minute of them, and then only ends are kept.
EVENTS_WAITING_MAX = 8192
REPORTS_WAITING_MAX = EVENTS_WAITING_MAX // 2

Handler = Callable[[BulkEvent], None]


class Inbox:
    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._send, self._receive = trio.open_memory_channel[tuple[Handler, BulkEvent]](EVENTS_WAITING_MAX)

    def marshal(self, handler: Handler) -> Handler:
        """What to give to the engine in place of `handler`."""

        def from_thread(event: BulkEvent) -> None:
            with contextlib.suppress(trio.RunFinishedError):  # the daemon is gone, and so is whoever waited
                self._token.run_sync_soon(self._put, handler, event)

        return from_thread

    async def run(self) -> None:
        with self._receive:
            async for handler, event in self._receive:
                handler(event)
                del handler, event

    def _put(self, handler: Handler, event: BulkEvent) -> None:
        waiting = self._send.statistics().current_buffer_used
        if isinstance(event, TransferProgress) and waiting >= REPORTS_WAITING_MAX:
            return
        with contextlib.suppress(trio.BrokenResourceError):  # the run has ended here
            self._send.send_nowait((handler, event))
