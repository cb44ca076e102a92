"""Whom to ask again, and when: pauses that grow with failures, and peers that have just failed us. SPEC K4.

Owns no request; knows nothing of what is fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from intellectd.protocol import limits


@dataclass
class Retry:
    """When something that failed may be tried again; doubles, bounded. What fails during a pause makes it no longer."""

    at: float = float("-inf")
    wait_s: float = limits.RETRY_MIN_S

    def failed(self, now: float) -> None:
        if now >= self.at:
            self.at = now + self.wait_s
            self.wait_s = min(2 * self.wait_s, limits.RETRY_MAX_S)

    def succeeded(self) -> None:
        self.at, self.wait_s = float("-inf"), limits.RETRY_MIN_S

    @property
    def failing(self) -> bool:
        return self.wait_s > limits.RETRY_MIN_S


class Donors:
    """Who failed with what, lately, and how often. Nobody is given up: when all have failed, any is asked again. Who
    fails again and again is asked ever more seldom: a few that only promise would take all the turns there are."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._bad: dict[tuple[str, object], tuple[float, int]] = {}  # until when, how often

    def failed(self, donor: str, what: object, now: float) -> None:
        if len(self._bad) >= limits.PEERS_MAX:
            self._bad.clear()
        until, often = self._bad.get((donor, what), (now, 0))
        if now >= until + limits.RETRY_MAX_S * 2**limits.EXCLUSION_DOUBLINGS_MAX:
            often = 0
        pause = limits.RETRY_MAX_S * 2 ** min(often, limits.EXCLUSION_DOUBLINGS_MAX)
        self._bad[(donor, what)] = now + pause, often + 1

    def good(self, donors: Sequence[str], what: object, now: float) -> list[str]:
        return [d for d in donors if self._bad.get((d, what), (now, 0))[0] <= now]

    def pick(self, donors: Sequence[str], what: object, now: float) -> str | None:
        """By lot, so that joiners do not all choose one."""
        choice = self.good(donors, what, now) or donors
        return self._rng.choice(choice) if choice else None
