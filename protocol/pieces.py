"""Which piece of an object is asked of which donor, while several serve it at once. SPEC K11.

Owns what is missing, what is under way and how fast each donor has been. Refuses to know how pieces travel and what
makes one right: whoever reads them says so. Time is an argument; nothing is drawn by lot, so two plays are the same.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# One request is worth so much of a donor's time: long beside a round trip, short beside a catch-up.
ASK_S = 1.0
ASK_PIECES_MAX = 64
# Requests under way at each donor: while one is answered the next is on its way there.
ASKS_AHEAD = 2
# A piece that is late is asked of one more, never of a third.
COPIES_MAX = 2
# How much sooner the second must be expected to have it: what is sent twice is another joiner's bandwidth.
COPY_GAIN = 2.0
# A donor from which no whole piece came for so long is given up, however many bytes trickle. It may be one that takes
# part in a ring, serves sixteen meanwhile and gives each a trickle of its 10 Mbit/s.
PATIENCE_S = 120.0
# Rates are means in which what is older than this counts half.
RATE_HALF_S = 5.0
# One that has shown nothing is taken for this, until it has: a home's uplink of 20 Mbit/s.
RATE_UNKNOWN = 2.5e6


@dataclass(frozen=True)
class Ask:
    """Pieces [first, first + count), which lie side by side."""

    donor: str
    first: int
    count: int


@dataclass
class _Donor:
    asks: "deque[deque[int]]" = field(default_factory=deque)  # pieces under way, in the order they were asked for
    at: float = 0.0  # since when the next piece has been under way
    bytes: float = 0.0
    seconds: float = 0.0

    def rate(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else RATE_UNKNOWN

    def rate_at(self, now: float, size: int) -> float:
        """No more than what it takes over a piece of `size` bytes that has not come yet: it may have stopped."""
        waited_s = now - self.at if self.asks else 0.0
        return min(self.rate(), size / waited_s) if waited_s > 0 else self.rate()

    @property
    def known(self) -> bool:
        return self.seconds > 0

    def under_way(self) -> list[int]:
        return [piece for ask in self.asks for piece in ask]


class Pieces:
    def __init__(self, sizes: Sequence[int], have: Iterable[int] = ()) -> None:
        """sizes: bytes of each piece; have: those that need not be fetched."""
        self._sizes = sizes
        self._has = bytearray(len(sizes))
        for piece in have:
            self._has[piece] = 1
        self.missing = len(sizes) - sum(self._has)
        self._missing_bytes = sum(size for size, has in zip(sizes, self._has, strict=True) if not has)
        self._copies = bytearray(len(sizes))  # under way
        self._next = 0  # all before it are here, under way, or were given back
        self._back: list[int] = []  # a heap: were under way and are not
        self._donors: dict[str, _Donor] = {}
        self.wasted_bytes = 0  # came twice

    @property
    def done(self) -> bool:
        return not self.missing

    @property
    def donors(self) -> list[str]:
        return list(self._donors)

    def has(self, piece: int) -> bool:
        return bool(self._has[piece])

    def rates(self) -> dict[str, float]:
        """Bytes/s of those that have shown it."""
        return {name: donor.rate() for name, donor in self._donors.items() if donor.known}

    # ---- donors

    def join(self, name: str) -> None:
        self._donors.setdefault(name, _Donor())

    def leave(self, name: str) -> None:
        """What was under way from it is asked of others."""
        donor = self._donors.pop(name, None)
        for piece in donor.under_way() if donor else ():
            self._copies[piece] -= 1
            if not self._copies[piece] and not self._has[piece]:
                heapq.heappush(self._back, piece)

    def overdue(self, now: float) -> list[str]:
        """Those from which no piece has come for too long."""
        return [name for name, donor in self._donors.items() if donor.asks and now - donor.at > PATIENCE_S]

    # ---- pieces

    def came(self, name: str, piece: int, now: float) -> bool:
        """Whole and right, from a donor that was asked for it. False if it was here already."""
        donor, size = self._donors[name], self._sizes[piece]
        first = donor.asks[0]
        assert first[0] == piece, f"piece {piece} came, {first[0]} was asked for before it"
        first.popleft()
        if not first:
            donor.asks.popleft()
        self._copies[piece] -= 1
        took_s = max(1e-6, now - donor.at)
        fade = 0.5 ** (took_s / RATE_HALF_S)
        donor.bytes, donor.seconds, donor.at = donor.bytes * fade + size, donor.seconds * fade + took_s, now
        if self._has[piece]:
            self.wasted_bytes += size
            return False
        self._has[piece] = 1
        self.missing -= 1
        self._missing_bytes -= size
        return True

    def ask(self, name: str, now: float) -> Ask | None:
        """What to ask this donor for next; None: nothing now. Ask again whenever something has come or anybody left."""
        donor = self._donors.get(name)
        if donor is None or self.done or len(donor.asks) >= ASKS_AHEAD:
            return None
        first = self._first_missing()
        pieces = self._late(name, donor, now) if first is None else self._run(first, self._share(name, donor, now))
        if not pieces:
            return None
        if not donor.asks:
            donor.at = now
        donor.asks.append(deque(pieces))
        for piece in pieces:
            self._copies[piece] += 1
        return Ask(name, pieces[0], len(pieces))

    # ---- inside

    def _first_missing(self) -> int | None:
        """Neither here nor under way."""
        while self._back and (self._has[self._back[0]] or self._copies[self._back[0]]):
            heapq.heappop(self._back)
        if self._back:
            return self._back[0]
        while self._next < len(self._sizes) and (self._has[self._next] or self._copies[self._next]):
            self._next += 1
        return self._next if self._next < len(self._sizes) else None

    def _run(self, first: int, count: int) -> list[int]:
        run = []
        for piece in range(first, min(first + count, len(self._sizes))):
            if self._has[piece] or self._copies[piece]:
                break
            run.append(piece)
        return run

    def _share(self, name: str, donor: _Donor, now: float) -> int:
        """How many at once: ASK_S worth, and of what is left no more than it would bring while the others bring the
        rest. 0 for one that is so slow that the others will have all before it has one."""
        size = self._sizes[0]
        if not donor.known:
            return 0 if donor.asks else 1  # first it shows what it can do
        rate = donor.rate()
        count = max(1, min(ASK_PIECES_MAX, int(rate * ASK_S / size)))
        others = sum(other.rate_at(now, size) for key, other in self._donors.items() if key != name)
        if not others:
            return count
        all_s = self._missing_bytes / (others + rate)  # until everything is here, if all go on so
        own_s = sum(self._sizes[piece] for piece in donor.under_way()) / rate  # until it has brought what it was asked
        room = int((all_s - own_s) * rate / size)
        busy = any(other.asks for other in self._donors.values())  # else nobody would bring anything
        if busy and room < 1 and own_s + size / rate > COPY_GAIN * all_s:
            return 0
        return max(1, min(count, room))

    def _late(self, name: str, donor: _Donor, now: float) -> list[int]:
        """All is under way; one that is expected late elsewhere and soon from here."""
        if donor.asks or not donor.known:
            return []
        worst, worst_s = None, 0.0
        for key, other in self._donors.items():
            if key == name:
                continue
            until_s = 0.0
            for piece in other.under_way():
                # Of the first: it takes as long again as it has taken, at least.
                until_s += self._sizes[piece] / (other.rate() if until_s else other.rate_at(now, self._sizes[piece]))
                if not self._has[piece] and self._copies[piece] < COPIES_MAX and until_s > worst_s:
                    worst, worst_s = piece, until_s
        if worst is None or self._sizes[worst] / donor.rate() * COPY_GAIN > worst_s:
            return []
        return [worst]
