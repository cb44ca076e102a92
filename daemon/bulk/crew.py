"""The engine's threads: started here, so that they can all be waited for.

They are daemon threads: a main thread that crashed must take the process down, not hang behind a neighbour's
socket. In an orderly end `join` waits for each, so the flag changes nothing there.
"""

import threading
from collections.abc import Callable

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.errors import BulkClosed, BulkExhausted


class Crew:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._dismissed = False

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Raises BulkClosed, BulkExhausted."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        with self._lock:
            if self._dismissed:
                raise BulkClosed()
            self._threads = [other for other in self._threads if other.is_alive()]
            try:
                thread.start()
            except RuntimeError as error:
                raise BulkExhausted(f"the system has no thread left: {error}") from None
            self._threads.append(thread)

    def join(self, timeout_s: float) -> list[str]:
        """Start no more, wait for all; the names of those that did not end in time."""
        with self._lock:
            self._dismissed = True
            threads = list(self._threads)
        until = now_s() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - now_s()))
        return [thread.name for thread in threads if thread.is_alive()]
