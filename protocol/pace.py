"""How quickly this host catches up, as measured here: bytes a second, seconds an update, seconds a round. SPEC K12.

Owns the means, and the time that a way to the head takes by them. Refuses to know what is fetched from whom. Time
is an argument.
"""

from dataclasses import dataclass

# Of fetching, rates are means in which what is older than this counts half: minutes, as load on internet paths comes
# and goes, and a few updates of a large model.
RATE_HALF_S = 60.0
# Of applying and of rounds: the newest counts half, the ones before it a quarter, an eighth.
NEWEST_COUNTS = 0.5


@dataclass(frozen=True)
class Way:
    """What is to come until this host stands at the head: a state, or none, and the updates after it."""

    state_bytes: int
    update_bytes: int
    applies: int  # updates

    @property
    def bytes(self) -> int:
        return self.state_bytes + self.update_bytes


@dataclass(frozen=True)
class Left:
    """Until this host stands at the head. `seconds`: None while that cannot be told."""

    bytes: int
    seconds: float | None


class Meter:
    """Bytes a second of what is on its way here, as it comes: for people, who do not wait until a state is whole."""

    def __init__(self) -> None:
        self._bytes = self._seconds = 0.0
        self._since: float | None = None  # something has been on its way, and not yet accounted for

    @property
    def rate(self) -> float | None:
        """None before anything came."""
        return self._bytes / self._seconds if self._bytes > 0 and self._seconds > 0 else None

    def fetches(self, anything: bool, now: float) -> None:
        """Is anything on its way? Only that time counts."""
        self.came(0, now)
        self._since = now if anything else None

    def came(self, size: int, now: float) -> None:
        took_s = now - self._since if self._since is not None else 0.0
        fade = 0.5 ** (took_s / RATE_HALF_S)
        self._bytes, self._seconds = self._bytes * fade + size, self._seconds * fade + took_s
        self._since = now if self._since is not None else None


class Pace:
    def __init__(self) -> None:
        self._bytes = self._seconds = 0.0
        self._since: float | None = None  # something has been on its way here, and not yet accounted for
        self._applies_since: float | None = None
        self.apply_s: float | None = None
        self._level: tuple[int, float] | None = None  # how long the log was when it was as long as any, and since when
        self.round_s: float | None = None

    # ---- what is measured

    @property
    def rate(self) -> float | None:
        """Bytes a second of all that was fetched, while anything was; None before anything came."""
        return self._bytes / self._seconds if self._bytes > 0 and self._seconds > 0 else None

    def fetches(self, now: float) -> None:
        """Something is asked for."""
        if self._since is None:
            self._since = now

    def came(self, size: int, idle: bool, now: float) -> None:
        """So many bytes of what was asked for are here; none of what failed, whose time counts. `idle`: nothing else is
        under way."""
        if self._since is None:
            return
        took_s = max(1e-6, now - self._since)
        fade = 0.5 ** (took_s / RATE_HALF_S)
        self._bytes, self._seconds = self._bytes * fade + size, self._seconds * fade + took_s
        self._since = None if idle else now

    def begins_to_apply(self, now: float) -> None:
        self._applies_since = now

    def applied(self, now: float) -> None:
        if self._applies_since is not None:
            self.apply_s = _mean(self.apply_s, now - self._applies_since)
            self._applies_since = None

    def level(self, round_: int, now: float) -> None:
        """The log is as long as anybody's. Between two such moments the run's rounds are as long as they are; what was
        read of the past in one go tells nothing of that."""
        if self._level is None or round_ < self._level[0]:
            self._level = (round_, now)
        elif round_ > self._level[0]:
            self.round_s = _mean(self.round_s, (now - self._level[1]) / (round_ - self._level[0]))
            self._level = (round_, now)

    def switched(self) -> None:
        """Another line of history was taken: its rounds did not pass here."""
        self._level = None

    # ---- what follows

    def cost(self, way: Way) -> float:
        """Seconds until the newest round is applied; while no rate is known, bytes, which are in proportion. Updates
        are fetched while others are applied, and while the state is. Rounds that are decided meanwhile make every
        way longer by the same factor, so of two the same is the shorter."""
        return self._cost(way, self.rate) if self.rate is not None else float(way.bytes)

    def _cost(self, way: Way, rate: float) -> float:
        return max(way.bytes / rate, way.state_bytes / rate + way.applies * (self.apply_s or 0.0))

    def seconds_left(self, way: Way, update_bytes: int, seen: float | None = None) -> float | None:
        """`seen`: bytes a second of what is just coming, if known. With the rounds that are decided meanwhile, each of
        `update_bytes`. None while no rate is known, or when this host falls behind."""
        rate = seen or self.rate
        if rate is None:
            return None
        grows = (self.round_cost_s(update_bytes, rate) or 0.0) / self.round_s if self.round_s else 0.0
        return self._cost(way, rate) / (1 - grows) if grows < 1 else None

    def round_cost_s(self, update_bytes: int, seen: float | None = None) -> float | None:
        """Of one round, fetched and applied; None while nothing is known of either."""
        rate = seen or self.rate
        fetch_s = update_bytes / rate if rate else None
        known = [s for s in (fetch_s, self.apply_s) if s is not None]
        return max(known) if known else None

    def falls_behind(self, update_bytes: int) -> bool:
        """Are the run's rounds shorter than fetching and applying one takes here?"""
        cost_s = self.round_cost_s(update_bytes)
        return cost_s is not None and self.round_s is not None and cost_s >= self.round_s


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + NEWEST_COUNTS * (newest - before)
