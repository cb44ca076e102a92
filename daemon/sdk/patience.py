"""When to try a daemon again that went away, and when to give up. Owns the schedule and its limits.

Refuses to know clocks and sockets: the time is an argument.
"""

RETRY_FIRST_S = 0.1
RETRY_S_MAX = 15.0
# systemd restarts the daemon for up to ten minutes (StartLimitIntervalSec of deploy's unit); so long, and no
# longer, a trainer with nothing to do waits for it.
RECONNECT_TIMEOUT_S = 600.0
# A link that held this long was sound; one that breaks sooner belongs to the outage before it, so that a daemon
# that takes trainers and drops them at once is given up too.
STEADY_S = 60.0


class Patience:
    def __init__(self, timeout_s: float = RECONNECT_TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self.retry_s = RETRY_FIRST_S
        self._since_s: float | None = None  # start of the outage
        self._welcomed_at_s: float | None = None
        self._retry_at_s = 0.0

    def lost(self, now_s: float) -> None:
        """The link broke."""
        sound = self._welcomed_at_s is not None and now_s - self._welcomed_at_s > STEADY_S
        if self._since_s is None or sound:
            self._start(now_s)
        self._retry_at_s = now_s + self.retry_s

    def failed(self, now_s: float) -> None:
        """An attempt came to nothing: wait twice as long before the next."""
        self.retry_s = min(2 * self.retry_s, RETRY_S_MAX)
        self._retry_at_s = now_s + self.retry_s

    def welcomed(self, now_s: float) -> None:
        self._welcomed_at_s = now_s

    def progressed(self) -> None:
        """An order came: whatever was wrong is over."""
        self._since_s = None
        self.retry_s = RETRY_FIRST_S

    def out_of_work(self, now_s: float) -> None:
        """Until now training went on regardless; from here there is nothing to do but wait."""
        self._start(now_s)

    def is_due(self, now_s: float) -> bool:
        return now_s >= self._retry_at_s

    def is_over(self, now_s: float) -> bool:
        return self._since_s is not None and now_s + self.retry_s > self._since_s + self.timeout_s

    def _start(self, now_s: float) -> None:
        self._since_s = now_s
        self.retry_s = RETRY_FIRST_S
