"""Frames that wait to be written to one peer.

Owns their bound, in messages and bytes, and their order. Refuses to know how they are written.
"""

from collections import deque

from intellectd.daemon.p2p.limits import OUTBOX_BYTES_MAX, OUTBOX_MESSAGES_MAX, STREAM_CHUNK_BYTES

POSTED = 0  # in place of a call's id


class Outbox:
    def __init__(self) -> None:
        self._frames: deque[tuple[int, bytes]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def __str__(self) -> str:
        return f"{len(self._frames)} messages ({self._bytes} bytes)"

    def push(self, call_id: int, frame: bytes) -> bool:
        """False, and nothing is queued, where that would pass a bound."""
        if len(self._frames) >= OUTBOX_MESSAGES_MAX or self._bytes + len(frame) > OUTBOX_BYTES_MAX:
            return False
        self._frames.append((call_id, frame))
        self._bytes += len(frame)
        return True

    def take_batch(self) -> bytes:
        """Several small frames travel in one write: one encryption and one system call for all of them."""
        batch: list[bytes] = []
        size = 0
        while self._frames and (not batch or size + len(self._frames[0][1]) <= STREAM_CHUNK_BYTES):
            batch.append(self._frames.popleft()[1])
            size += len(batch[-1])
        self._bytes -= size
        return b"".join(batch)

    def holds(self, call_id: int) -> bool:
        return any(waiting == call_id for waiting, _ in self._frames)

    def retract(self, call_id: int) -> None:
        """A call given up before it was sent is not sent: the peer would work for nobody."""
        self._frames = deque(entry for entry in self._frames if entry[0] != call_id)
        self._bytes = sum(len(frame) for _, frame in self._frames)

    def clear(self) -> None:
        self._frames.clear()
        self._bytes = 0
