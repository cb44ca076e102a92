"""Which encoded updates are on their way to this host, and from whom. SPEC K3, K13.

Owns the fetches under way and how often those of a round came to nothing. Refuses to know which are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from intellectd.protocol.context import Context
from intellectd.protocol.donors import Donors
from intellectd.protocol.effects import FetchUpdate, Out
from intellectd.protocol.pace import Pace

# Under way from one donor: while one arrives the next is asked for, and no joiner takes more of what it serves at once.
PER_DONOR_MAX = 2
# The next one to apply is asked of another donor after this long, however many bytes trickle; as of a state's pieces.
PATIENCE_S = 120.0
# But not before it took so many times longer than all that is under way should take by what was measured.
LATE_FACTOR = 4.0


@dataclass(frozen=True)
class UnderWay:
    round: int
    size: int  # bytes
    donor: str
    since: float


class Updates:
    def __init__(self, context: Context, donors: Donors, pace: Pace) -> None:
        self._context, self._donors, self._pace = context, donors, pace
        self._under: dict[bytes, UnderWay] = {}
        self._misses: dict[int, int] = {}  # by round, since one of its updates arrived
        self.late_at = float("inf")  # when the next one to apply is late

    @property
    def idle(self) -> bool:
        return not self._under

    @property
    def under_way(self) -> dict[bytes, int]:
        """Bytes of each, by its root."""
        return {root: each.size for root, each in self._under.items()}

    def __contains__(self, root: bytes) -> bool:
        return root in self._under

    def misses(self, round_: int) -> int:
        return self._misses.get(round_, 0)

    # ---- news

    def held(self, root: bytes, idle: bool, now: float) -> bool:
        """It is here, however it came. `idle`: nothing but updates is fetched. False: it was not asked for."""
        found = self._under.pop(root, None)
        if found is None:
            return False
        self._misses.pop(found.round, None)
        self._pace.came(found.size, idle and self.idle, now)
        return True

    def missed(self, root: bytes, donor: str, applying: int | None, idle: bool, now: float) -> None:
        """From a donor that is no longer asked for it this tells nothing but that it failed. `applying`: the round of
        which this host's own disk had it no more."""
        found = self._under.get(root)
        if found is not None and found.donor == donor:
            del self._under[root]
            self._count(found.round)
            self._pace.came(0, idle and self.idle, now)
        elif applying is not None:
            self._count(applying)
        self._donors.failed(donor, root, now)

    def done(self, round_: int) -> None:
        """The state stands there: what came to nothing until then does not matter any more."""
        self._misses = {r: count for r, count in self._misses.items() if r > round_}

    # ---- what is asked for

    def ask(self, round_: int, root: bytes, size: int, having: Sequence[str], now: float) -> list[Out]:
        """Of one that has it and has room: the one that is asked for least; by lot, so that joiners do not all choose
        one."""
        load = dict.fromkeys(having, 0)
        for each in self._under.values():
            if each.donor in load:
                load[each.donor] += 1
        free = [peer for peer in self._donors.good(having, root, now) or having if load[peer] < PER_DONOR_MAX]
        if not free:
            return []
        least = min(load[peer] for peer in free)
        donor = self._context.rng.choice([peer for peer in free if load[peer] == least])
        self._under[root] = UnderWay(round_, size, donor, now)
        self._pace.fetches(now)
        return [FetchUpdate(root, size, donor)]

    def ask_elsewhere(self, root: bytes, having: Sequence[str], now: float) -> list[Out]:
        """The next one to apply is under way; if it is late, somebody else is asked, if there is anybody."""
        found, rate = self._under[root], self._pace.rate
        expected_s = sum(each.size for each in self._under.values()) / rate if rate else 0.0
        self.late_at = found.since + max(PATIENCE_S, LATE_FACTOR * expected_s)
        others = [peer for peer in self._donors.good(having, root, now) if peer != found.donor]
        if now < self.late_at or not others:
            return []
        asked = self.ask(found.round, root, found.size, others, now)
        if asked:
            self._donors.failed(found.donor, root, now)
        return asked

    def _count(self, round_: int) -> None:
        self._misses[round_] = self.misses(round_) + 1
