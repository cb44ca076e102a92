"""What one thread rings and another can poll for beside its sockets: Bell, and on it Stop and Mailbox.

Owns the eventfds. A socket is only ever touched by its own thread: OpenSSL 3 and Python 3.11 leave a connection
that two threads use at once undefined, so another thread that wants something rings.
"""

import contextlib
import os
import select
import threading
import time
from collections import deque
from typing import Generic, TypeVar

from intellectd.daemon.bulk.errors import Stopped

T = TypeVar("T")


class Bell:
    """Readable to poll from `ring` until `silence`. Ringing one that is closed does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1  # also where there is no file left for it
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def ring(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def silence(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._fd >= 0:
                os.eventfd_read(self._fd)

    def close(self) -> None:
        """Only once nobody polls it any more: the number may be another file's next."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def __del__(self) -> None:
        self.close()  # of a transfer that was refused before it had a thread to end in


class Stop:
    """Set once, never cleared; wakes every thread that polls it."""

    def __init__(self) -> None:
        self._bell = Bell()
        self.is_set = False

    def fileno(self) -> int:
        return self._bell.fileno()

    def set(self) -> None:
        self.is_set = True
        self._bell.ring()

    def check(self) -> None:
        if self.is_set:
            raise Stopped

    def wait(self, timeout_s: float) -> None:
        """Sleep that ends at once, with Stopped, when the stop is set."""
        self.check()
        wait_readable((self,), timeout_s)
        self.check()

    def close(self) -> None:
        self.is_set = True
        self._bell.close()


class Mailbox(Generic[T]):
    """A queue into a polling thread, for at most `size_max` things. The polling thread alone takes."""

    def __init__(self, size_max: int) -> None:
        self._bell = Bell()
        self._items: deque[T] = deque()
        self._size_max = size_max

    def fileno(self) -> int:
        return self._bell.fileno()

    def put(self, item: T) -> None:
        if len(self._items) >= self._size_max:
            raise OverflowError(f"a mailbox for {self._size_max} things is full")
        self._items.append(item)
        self._bell.ring()

    def take(self) -> T | None:
        if not self._items:
            # Looked at again after the bell is silent: what is put in between rings anew or is seen here.
            self._bell.silence()
        return self._items.popleft() if self._items else None

    def close(self) -> None:
        self._bell.close()


def wait_readable(what: tuple["Stop | Mailbox[T]", ...], timeout_s: float) -> bool:
    """Whether any of `what` rang in time."""
    poll = select.poll()
    for bell in what:
        poll.register(bell.fileno(), select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000.0))


now_s = time.monotonic  # the one clock of the bulk plane; never the wall's, which jumps
