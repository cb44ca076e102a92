"""Which state somebody is fetching from here: it is not deleted under them (SPEC K15).

Owns the moments at which each was asked for. Refuses to delete and to serve.
"""

import threading
import time
from collections.abc import Callable, Collection

# As long as a joiner waits for a piece (SPEC K11): who has not asked for so long has it, or is gone.
ASKED_S = 120.0
ROUNDS_MAX = 64  # remembered: more than are kept anywhere


class Asked:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at: dict[int, float] = {}

    def note(self, round_: int) -> None:
        """Any thread."""
        with self._lock:
            self._at.pop(round_, None)
            self._at[round_] = self._clock()
            while len(self._at) > ROUNDS_MAX:
                del self._at[next(iter(self._at))]

    def newest(self, here: Collection[int]) -> int | None:
        """The newest of these states that was asked for lately. Who asks names any, also what never lay here."""
        with self._lock:
            return max((r for r, at in self._at.items() if r in here and self._clock() - at < ASKED_S), default=None)
