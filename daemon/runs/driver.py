"""The loop around a node: event in, effects out, performed strictly in order. The only caller of Node.handle.

Owns the queue and the clock's ticks. Refuses to decide anything, and to wait for a peer.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable

import trio

from intellectd.protocol.effects import Effect
from intellectd.protocol.events import Event, MessageReceived, Tick
from intellectd.protocol.node import Node

# Messages are lost on the way anyhow: past this many unread ones they are lost here. 1,024 peers × a few.
MESSAGES_WAITING_MAX = 8192
MESSAGES_PER_PEER_MAX = 256  # a round is some ten messages a peer: whoever floods crowds out itself alone
TICK_S_MIN = 0.01  # a node that asks for a tick in the past gets it soon, not in a tight loop
TICK_S_MAX = 5.0


class Driver:
    def __init__(self, node: Node, perform: Callable[[Effect], Awaitable[None]]) -> None:
        self.node = node
        self._perform = perform
        self._queue: deque[Event] = deque()
        self._unread: Counter[str] = Counter()  # messages in the queue, by the neighbour that delivered them
        self._news = trio.Event()
        self.ignores: Callable[[str], bool] = lambda peer: False
        self.before: Callable[[Event], None] = lambda event: None  # called when the node is about to hear it
        self.after: Callable[[], None] = lambda: None  # called when an event was handled whole
        self.handled_at = 0.0  # for the watchdog: the loop went round

    def post(self, event: Event) -> None:
        """From the trio thread. Messages may be dropped; our own events are bounded by what we started."""
        if isinstance(event, MessageReceived):
            if len(self._queue) >= MESSAGES_WAITING_MAX or self._unread[event.via] >= MESSAGES_PER_PEER_MAX:
                return
            self._unread[event.via] += 1
        self._queue.append(event)
        self._news.set()

    async def run(self) -> None:
        ticked_at = trio.current_time()
        while True:
            soonest, latest = ticked_at + TICK_S_MIN, ticked_at + TICK_S_MAX
            due_at = max(soonest, min(self.node.deadline(trio.current_time()), latest))
            with trio.move_on_at(due_at):
                await self._news.wait()
            await self._drain()
            self._news = trio.Event()
            # Only when it is time: after every event the node has looked at what is due anyway.
            if trio.current_time() >= due_at:
                ticked_at = trio.current_time()
                await self._handle(Tick())

    async def _drain(self) -> None:
        while self._queue:
            event = self._queue.popleft()
            if isinstance(event, MessageReceived):
                self._read_one(event.via)
                if self.ignores(event.via):
                    continue
            await self._handle(event)
            # A full queue is seconds of checked signatures: others get their turn between any two.
            await trio.lowlevel.checkpoint()

    def _read_one(self, via: str) -> None:
        self._unread[via] -= 1
        if not self._unread[via]:
            del self._unread[via]

    async def _handle(self, event: Event) -> None:
        now = trio.current_time()
        self.handled_at = now
        self.before(event)
        for effect in self.node.handle(event, now):
            await self._perform(effect)
        self.after()
