"""The operator's rate limits: a token bucket for each direction, shared by everything that moves bulk bytes.

Owns the arithmetic (Bucket, pure: the caller brings the time) and its sharing between threads (Pace). Refuses to
wait: it says how long.
"""

import threading
from collections.abc import Callable

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.limits import PACE_BURST_S, PACE_PIECE_MIN, PIECE_BYTES

BITS_PER_MBIT = 1_000_000


class Bucket:
    """Tokens are bytes. It may be overdrawn by what has been moved already; who overdraws it waits."""

    def __init__(self, bytes_per_s: float, now: float) -> None:
        if not bytes_per_s > 0:
            raise ValueError(f"a rate of {bytes_per_s} bytes/s; it must be above 0")
        self.bytes_per_s = bytes_per_s
        self.burst_bytes = max(bytes_per_s * PACE_BURST_S, PACE_PIECE_MIN)
        self._tokens = self.burst_bytes
        self._filled_s = now

    def take(self, count: int, now: float) -> float:
        """Seconds to wait before more is moved, after `count` bytes were."""
        passed = max(0.0, now - self._filled_s)
        self._filled_s = now
        self._tokens = min(self.burst_bytes, self._tokens + passed * self.bytes_per_s) - count
        return max(0.0, -self._tokens / self.bytes_per_s)


class SharedBucket:
    """One Bucket for all threads."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = now_s) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._bucket = Bucket(bytes_per_s, clock())
        # Moved at once: small enough that the line sees a rate, not bursts.
        self.piece_bytes = max(PACE_PIECE_MIN, min(PIECE_BYTES, int(self._bucket.burst_bytes)))

    def take(self, count: int) -> float:
        with self._lock:
            return self._bucket.take(count, self._clock())


class Pace:
    """Limits in Mbit/s (10^6 bits), 0 for none; ValueError for a negative one. `serve`: of `up`, what objects for
    others may take; a host without a limit knows no share of it."""

    def __init__(self, upload_mbit: float = 0.0, download_mbit: float = 0.0, serve_percent: float = 100.0) -> None:
        if not 0 < serve_percent <= 100:
            raise ValueError(f"a share of {serve_percent} percent for serving")
        self.up = _shared(upload_mbit)
        self.down = _shared(download_mbit)
        self.serve_bytes_per_s = upload_mbit * BITS_PER_MBIT / 8 * serve_percent / 100 or None


def _shared(mbit: float) -> SharedBucket | None:
    if mbit < 0:
        raise ValueError(f"a rate limit of {mbit} Mbit/s; 0 is none")
    return SharedBucket(mbit * BITS_PER_MBIT / 8) if mbit else None


UNLIMITED = Pace()
