"""Which piece of an object is asked of which donor, while several serve it at once. SPEC K11.

Owns what is missing, what is under way, how fast each donor has been, and who of those that fetch it too (fellows)
holds what. Refuses to know how pieces travel and what makes one right: whoever reads them says so. Time is an argument;
nothing is drawn by lot, so two plays are the same. Sets of pieces are the bits of an integer, piece 0 the lowest.
"""

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
# Between two questions to a fellow what it holds by now: a few round trips, and half of what one request is worth.
LOOK_S = 0.5
# Where others begin, too, one of those that hold all is asked alone at first: whoever asks all at once has its first
# piece from each late, and until then nothing to give. For so long, in which a home's uplink sends four to a few.
FIRST_S = 5.0
# Where the search for the next run begins, of all there is: it goes round without coming near to where it was (the
# golden section), so that runs stay long.
SCATTER = 0.6180339887
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


@dataclass(frozen=True)
class Look:
    """What does this fellow hold by now?"""

    donor: str


@dataclass
class _Donor:
    asks: "deque[deque[int]]" = field(default_factory=deque)  # pieces under way, in the order they were asked for
    at: float = 0.0  # since when the next piece has been under way
    bytes: float = 0.0
    seconds: float = 0.0
    holds: int | None = None  # pieces; None: all, and it will not be asked what it holds
    looked_at: float = float("-inf")  # when it was last asked that

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
    def __init__(self, sizes: Sequence[int], have: Iterable[int] = (), start: int = 0, me: str = "") -> None:
        """sizes: bytes of each piece; have: those that need not be fetched; start: the piece that is asked for first
        where no fellow is known; me: how fellows know this host."""
        self._sizes, self._start, self._me = sizes, start, me
        self._has = bytearray(len(sizes))
        for piece in have:
            self._has[piece] = 1
        self.missing = len(sizes) - sum(self._has)
        self._missing_bytes = sum(size for size, has in zip(sizes, self._has, strict=True) if not has)
        self._copies = bytearray(len(sizes))  # under way
        bits = "".join("0" if has else "1" for has in reversed(self._has))
        self._open = int(bits or "0", 2)  # neither here nor under way
        self._spread: list[int] = []  # what at least one fellow holds, at least two, and so on
        self._donors: dict[str, _Donor] = {}
        self._own, self._first = 0, ""  # of what all fetch, this host's part; and whom it asks alone at first
        self._runs, self._began = 0, float("inf")
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

    def join(self, name: str, fellow: bool = False) -> None:
        """A fellow holds nothing until it has said what."""
        self._donors.setdefault(name, _Donor(holds=0 if fellow else None))
        self._share_out()

    def holds(self, name: str, pieces: int) -> None:
        """A fellow has said so."""
        if name in self._donors and self._donors[name].holds is not None:
            self._donors[name].holds = pieces & ((1 << len(self._sizes)) - 1)
            self._spread_anew()

    def leave(self, name: str) -> None:
        """What was under way from it is asked of others."""
        donor = self._donors.pop(name, None)
        for piece in donor.under_way() if donor else ():
            self._copies[piece] -= 1
            if not self._copies[piece] and not self._has[piece]:
                self._open |= 1 << piece
        self._spread_anew()
        self._share_out()

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

    def ask(self, name: str, now: float) -> Ask | Look | None:
        """What to ask this donor for next; None: nothing now. Ask again whenever something has come or anybody left."""
        donor = self._donors.get(name)
        if donor is None or self.done:
            return None
        if donor.holds is not None and now - donor.looked_at >= LOOK_S:
            donor.looked_at = now
            return Look(name)
        if len(donor.asks) >= ASKS_AHEAD or self._waits(name, donor, now):
            return None
        wanted, start = self._wanted(donor)
        pieces = self._run(wanted, start, self._share(name, donor, now)) if wanted else self._late(name, donor, now)
        if not pieces:
            return None
        if not donor.asks:
            donor.at = now
        donor.asks.append(deque(pieces))
        for piece in pieces:
            self._copies[piece] += 1
            self._open &= ~(1 << piece)
        return Ask(name, pieces[0], len(pieces))

    # ---- inside

    def _spread_anew(self) -> None:
        spread: list[int] = []
        for donor in self._donors.values():
            more = donor.holds or 0
            for count, held in enumerate(spread):
                spread[count], more = held | more, held & more
            if more:
                spread.append(more)
        self._spread = spread

    def _share_out(self) -> None:
        """Who fetches the same shares out what comes from those that hold all: each begins with another part, by its
        place among the names, and with another donor. Nobody has to say so: who thinks otherwise costs a little."""
        fellows = [name for name, donor in self._donors.items() if donor.holds is not None]
        holding_all = sorted(name for name, donor in self._donors.items() if donor.holds is None)
        if not fellows:
            self._own, self._first = 0, ""
            return
        place, parts, count = sorted([self._me, *fellows]).index(self._me), len(fellows) + 1, len(self._sizes)
        self._own = (1 << (place + 1) * count // parts) - (1 << place * count // parts)
        self._first = holding_all[place % len(holding_all)] if holding_all else ""

    def _waits(self, name: str, donor: _Donor, now: float) -> bool:
        """Another of those that hold all is to send its first piece before."""
        if donor.holds is not None or name == self._first or not self._first:
            return False
        self._began = min(self._began, now)
        return now - self._began < FIRST_S and not any(other.known for other in self._donors.values())

    def _wanted(self, donor: _Donor) -> tuple[int, int]:
        """(what it may be asked for, where to begin). Of what it holds what fewest fellows hold; of one that holds all
        first what no fellow will ask it for."""
        if not self._own:
            return self._open, self._start
        if donor.holds is None:
            alone = self._open & self._own & ~(self._spread[0] if self._spread else 0)
            if alone:
                return alone, _lowest(alone)
        wanted = self._open if donor.holds is None else self._open & donor.holds
        wanted = next((rare for held in self._spread if (rare := wanted & ~held)), wanted)
        self._runs += 1
        return wanted, int((self._start + self._runs * SCATTER * len(self._sizes)) % len(self._sizes))

    def _run(self, wanted: int, start: int, count: int) -> list[int]:
        """The first of them from the start on, and what follows it side by side."""
        after = wanted >> start
        first = start + _lowest(after) if after else _lowest(wanted)
        window = wanted >> first & ((1 << count) - 1)
        return list(range(first, first + _lowest(~window)))

    def _share(self, name: str, donor: _Donor, now: float) -> int:
        """How many at once: ASK_S worth, and of what is left no more than it would bring while the others bring the
        rest. 0 for one that is so slow that the others will have all before it has one."""
        size = self._sizes[0]
        if not donor.known:
            return 1  # first it shows what it can do; two of them, or the line would idle for a round trip between
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
                held = donor.holds is None or donor.holds >> piece & 1
                if held and not self._has[piece] and self._copies[piece] < COPIES_MAX and until_s > worst_s:
                    worst, worst_s = piece, until_s
        if worst is None or self._sizes[worst] / donor.rate() * COPY_GAIN > worst_s:
            return []
        return [worst]


def _lowest(pieces: int) -> int:
    """Of a set that is not empty."""
    return (pieces & -pieces).bit_length() - 1
