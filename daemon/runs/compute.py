"""One queue for everything that touches tensors or waits for a disk: in order, off the event loop.

Owns the order (what was asked first is done first, so the outer state is never seen half-way) and the thread.
Refuses to know what the work is. Inline in tests on a virtual clock, which would take a thread for idleness.
"""

from collections.abc import Callable
from typing import Any, Protocol

import trio

# Each piece of work is caused by an event that waits for the one before: the queue stays short.
QUEUE_MAX = 256

Work = Callable[[], Any]
Then = Callable[[Any], None]


class RunsWork(Protocol):
    async def __call__(self, work: Work) -> Any: ...


class Stopped(Exception):
    """The run ended before the work's turn came."""


async def in_thread(work: Work) -> Any:
    """Not abandoned on cancel: the work owns buffers that must not be pulled from under it."""
    return await trio.to_thread.run_sync(work)


async def inline(work: Work) -> Any:
    await trio.lowlevel.checkpoint()
    return work()


class Compute:
    def __init__(self, runner: RunsWork = in_thread) -> None:
        self._runner = runner
        self._send, self._receive = trio.open_memory_channel[tuple[Work, Then]](QUEUE_MAX)
        self._ended = trio.Event()

    def submit(self, work: Work, then: Then) -> None:
        """Do `work` when its turn comes; then call `then` with its result on the trio thread."""
        if not self._ended.is_set():
            self._send.send_nowait((work, then))

    async def do(self, work: Work) -> Any:
        """Do `work` in its turn and wait for it; what it raises is raised here. Raises Stopped."""
        box: list[tuple[Any, Exception | None]] = []

        def guarded() -> tuple[Any, Exception | None]:
            try:
                return work(), None
            except Exception as error:
                return None, error

        with trio.CancelScope() as scope:

            def then(outcome: tuple[Any, Exception | None]) -> None:
                box.append(outcome)
                scope.cancel()

            self.submit(guarded, then)
            await self._ended.wait()
        if not box:
            raise Stopped("the run has ended here")
        value, error = box[0]
        if error is not None:
            raise error
        return value

    async def aside(self, work: Work) -> Any:
        """Off the loop, and in no order with what else there is to do."""
        return await self._runner(work)

    async def run(self) -> None:
        """Until cancelled. What work raises ends the run or the daemon (service.py says which)."""
        try:
            async for work, then in self._receive:
                then(await self._runner(work))
                del work, then  # they hold mapped updates, which should not wait for the next one
        finally:
            self._ended.set()
