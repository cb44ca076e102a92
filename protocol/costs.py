"""How long a transfer takes by what is known of its links: a model, whose predictions are logged beside what came true.

Owns the formulas (SPEC C8), the shares of a direct exchange, and what is assumed of links that nobody has measured.
Refuses to choose. Bytes, bytes a second and seconds throughout; members are places.

With M members and an update of b bytes, each of them sends 2(M-1)/M b bytes in a ring and in a torus alike, and b times
1 + (M-2) x its share in a direct exchange, where it passes b (1 - share) on to the owners of the other slices, and its
own result to M-1. What the schedules differ in is which links carry that, and how often the bytes wait for a hop.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from intellectd.protocol.limits import SHARE_MAX
from intellectd.protocol.links import Estimate

NEUTRAL_RATE = 12.5e6  # of a link, while none is known: 100 Mbit/s, a home's uplink; nothing is chosen by it alone
NEUTRAL_RTT_S = 0.05  # likewise: across a continent
CHUNK_BYTES = 266_240  # what is passed on as one, int8 (the bulk plane's CHUNK_GROUPS)
BEGIN_S = 0.1  # until the last has heard the plan and encoded its first chunk, over the longest round trip
LINK_S = 0.005  # of a core, to begin and end with one more peer: of a direct exchange all of them
SEEN_MIN = 2  # so many links of a host tell what its line carries; one may be narrow on the way
SEARCH_STEPS = 40  # halvings of a bracket: to a millionth of a millionth


class Network:
    """Some members and what is known of the links among them."""

    def __init__(
        self,
        dialable: list[bool],
        known: Mapping[tuple[int, int], Estimate],
        size: int,
        parted: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.dialable, self.size = dialable, size
        self.parted = dict.fromkeys([*parted, *((j, i) for i, j in parted)])  # both ways: no neighbours, whoever erred
        self.members, self.known = len(dialable), len(known)
        self._open = [place for place, open_ in enumerate(dialable) if open_]
        self._rates = {pair: e.rate for pair, e in known.items()}
        self._rtts = {pair: e.rtt_s for pair, e in known.items()}
        self.usual = _median(list(self._rates.values()), NEUTRAL_RATE)
        self._usual_rtt = _median(list(self._rtts.values()), NEUTRAL_RTT_S)
        self._up = self._lines(0)
        self._down = self._lines(1)

    def joined(self, one: int, other: int) -> bool:
        """A connection needs one end that can be dialled, and to have broken no transfer of this decision."""
        return one != other and (self.dialable[one] or self.dialable[other]) and (one, other) not in self.parted

    def rate(self, source: int, to: int) -> float:
        """Of what was not measured: as the middle one of what was, but no more than the lines at its ends carry."""
        if not self.joined(source, to):
            return 0.0
        known = self._rates.get((source, to))
        return min(self.usual, self._up[source], self._down[to]) if known is None else known

    def relay(self, one: int, other: int) -> int | None:
        """Where two meet that nobody can dial (C8); None where they need none, or there is none."""
        if self.dialable[one] or self.dialable[other] or not self._open:
            return None
        return self._open[(one + other) % len(self._open)]

    def carried(self, source: int, to: int) -> float:
        """As `rate`, by way of a relay where one is needed."""
        by = self.relay(source, to)
        return self.rate(source, to) if by is None else min(self.rate(source, by), self.rate(by, to))

    def way_s(self, source: int, to: int) -> float:
        """As `rtt`, likewise."""
        by = self.relay(source, to)
        return self.rtt(source, to) if by is None else self.rtt(source, by) + self.rtt(by, to)

    def rtt(self, source: int, to: int) -> float:
        there = self._rtts.get((source, to), self._rtts.get((to, source)))
        return self._usual_rtt if there is None else there

    def line(self, member: int) -> float:
        """What it sends and receives in all, at once, on many links: as on its widest."""
        return min(self._widest(self._up[member]), self._widest(self._down[member]))

    def _widest(self, line: float) -> float:
        return self.usual if line == float("inf") else line

    def _lines(self, end: int) -> list[float]:
        """The widest of a member's links at this end, where it has enough of them; else without bound."""
        best, count = [0.0] * self.members, [0] * self.members
        for pair, rate in self._rates.items():
            best[pair[end]] = max(best[pair[end]], rate)
            count[pair[end]] += 1
        return [best[m] if count[m] >= SEEN_MIN else float("inf") for m in range(self.members)]


def _median(values: list[float], without: float) -> float:
    return sorted(values)[len(values) // 2] if values else without


# ---- rings


def ring_s(network: Network, order: Sequence[int]) -> float:
    """2(M-1) steps of b/M bytes: each as long as the narrowest link takes for them, or, where slices are small, as a
    chunk takes on its way around."""
    m = len(order)
    return BEGIN_S + _pass_s(network, order, 2 * (m - 1), network.size / m) if m > 1 else 0.0


def _pass_s(network: Network, ring: Sequence[int], steps: int, slice_bytes: float) -> float:
    pairs = list(zip(ring, [*ring[1:], ring[0]], strict=True))
    chunk = min(CHUNK_BYTES, slice_bytes)
    busy = max(slice_bytes / network.rate(i, j) for i, j in pairs)
    around = sum(network.rtt(i, j) / 2 + chunk / network.rate(i, j) for i, j in pairs) / len(ring)
    return steps * max(busy, around)


def torus_s(network: Network, order: Sequence[int], rows: int) -> float | None:
    """Along the rows with slices of b/c bytes, down the columns with slices of b/(rc), and the same way back. None
    where two that nobody can dial would be neighbours."""
    columns = len(order) // rows
    along = [order[r * columns : (r + 1) * columns] for r in range(rows)]
    down = [order[c::columns] for c in range(columns)]
    if not all(network.joined(i, j) for ring in (*along, *down) for i, j in pairwise(ring)):
        return None
    if not all(network.joined(ring[-1], ring[0]) for ring in (*along, *down)):
        return None
    flat = max(_pass_s(network, row, 2 * (columns - 1), network.size / columns) for row in along)
    steep = max(_pass_s(network, column, 2 * (rows - 1), network.size / len(order)) for column in down)
    return BEGIN_S + flat + steep


# ---- direct


def fit_shares(network: Network) -> list[int]:
    """The slices that end together: the wider a member's line and its links, the more it owns."""
    m, low, high = network.members, 0.0, 1.0
    if not network.known or m <= 2:
        return [1] * m
    lines = [network.line(i) / network.size for i in range(m)]
    narrow = [min(min(network.carried(i, j), network.carried(j, i)) for j in range(m) if j != i) for i in range(m)]
    links = [rate / network.size for rate in narrow]
    while sum(_shares_in(high, lines, links)) < 1.0:
        high *= 2.0
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(_shares_in(middle, lines, links)) >= 1.0 else (middle, high)
    parts = _shares_in(high, lines, links)
    widest = max(parts)
    return [round(SHARE_MAX * part / widest) for part in parts]


def _shares_in(seconds: float, lines: list[float], links: list[float]) -> list[float]:
    """What each member can own if all is to be done in this time, its line and its narrowest link being so many updates
    a second wide; nothing, if somebody's own part takes longer even so. A link carries the slices of both its ends."""
    m = len(lines)
    parts = [min((seconds * lines[i] - 1.0) / (m - 2), seconds * links[i] / 2.0, 1.0) for i in range(m)]
    return parts if min(parts) >= 0.0 else [0.0] * m


def direct_s(network: Network, shares: Sequence[int]) -> float:
    """As long as the busiest line or link, a relay's with what it passes on; a part waits for two hops, and each peer
    costs a moment."""
    m, size, whole = network.members, network.size, sum(shares)
    parts = [share / whole for share in shares]
    loads = [1.0 + (m - 2) * parts[i] for i in range(m)]
    pairs = [(i, j) for i in range(m) for j in range(m) if i != j]
    for i, j in pairs:
        by = network.relay(i, j)
        if by is not None:
            loads[by] += parts[i] + parts[j]  # it takes that in, and gives it out
    lines = max(size * loads[i] / network.line(i) for i in range(m))
    links = max(size * (parts[i] + parts[j]) / network.carried(i, j) for i, j in pairs)
    hops = max(network.way_s(i, j) for i, j in pairs)
    return BEGIN_S + max(lines, links) + hops + LINK_S * (m - 1)
