"""In which order members stand in a ring, so that its narrowest link is as wide as can be. SPEC C8.

Owns the search: exact for few members, by a cover of cycles that are joined for more. Numbers in, numbers out: members
are places 0 to n-1, `rates[i][j]` is what i can send to j in bytes a second, 0 where neither can dial the other. Ties
fall to the shortest way around, then to the order of the places. Every search is bounded by `n`.
"""

from bisect import bisect_right
from random import Random

EXACT_MAX = 12  # 2^11 subsets: 20 to 60 ms of pure Python, of which a leader has one in each round
DENSE_MAX = 128  # so many can be looked at pair by pair in half a second; beyond them only neighbours are
TURNS = 2  # covers that are tried at one width, each from another beginning
WALK_MAX = 16_000  # steps times places of one walk: some ten milliseconds of pure Python
PART = 0.3  # of the steps that could only part a cycle
Matrix = list[list[float]]


def widest_ring(rates: Matrix, rtts: Matrix) -> list[int] | None:
    """The places in ring order, from place 0 on. None if there is no ring, as far as the search sees; up to
    EXACT_MAX places that is certain, and the ring is the best."""
    n = len(rates)
    if n <= 2:
        joined = n < 2 or min(rates[0][1], rates[1][0]) > 0.0
        return list(range(n)) if joined else None
    widths = sorted({rate for row in rates for rate in row if rate > 0.0})
    search = _exact if n <= EXACT_MAX else _joined
    best: list[int] | None = None
    low = 0  # below it a ring is known, and from `high` on there is none, or none is found
    high = top = bisect_right(widths, _bound(rates))
    while low < high:
        # The widest first: most swarms have a member whose links are all narrow, and those are the bound.
        middle = top - 1 if high == top else (low + high) // 2
        found = search(_wide(rates, widths[middle]))
        if found is not None:
            best, low = found, middle + 1
        else:
            high = middle
    if best is None:
        return None
    narrowest = min(rates[i][j] for i, j in zip(best, [*best[1:], best[0]], strict=True))
    masks = _wide(rates, narrowest)
    return _shortest(masks, rtts) if n <= EXACT_MAX else _shortened(best, masks, rtts)


def width(order: list[int], rates: Matrix) -> float:
    """Of the narrowest link of this ring."""
    return min(rates[i][j] for i, j in zip(order, [*order[1:], order[0]], strict=True))


def _bound(rates: Matrix) -> float:
    """No ring is wider: each member has one link out and one in."""
    n = len(rates)
    out = min(max(rates[i][j] for j in range(n) if j != i) for i in range(n))
    into = min(max(rates[i][j] for i in range(n) if i != j) for j in range(n))
    return min(out, into)


def _wide(rates: Matrix, least: float) -> list[int]:
    """For each place the set of those that it can send to at this rate, as bits."""
    n = len(rates)
    masks = []
    for i in range(n):
        mask, row = 0, rates[i]
        for j in range(n):
            if row[j] >= least and i != j:
                mask |= 1 << j
        masks.append(mask)
    return masks


# ---- few: every order, by sets


def _exact(out: list[int]) -> list[int] | None:
    """Some ring, if there is one: reached[S] are the places at which a path from 0 through all of S can end."""
    n = len(out)
    into = [sum(1 << i for i in range(n) if out[i] >> j & 1) for j in range(n)]
    full = (1 << n) - 1
    reached = [0] * (1 << n)
    reached[1] = 1
    for visited in range(1, full, 2):
        ends = reached[visited]
        if not ends:
            continue
        left = full & ~visited
        while left:
            bit = left & -left
            left ^= bit
            if into[bit.bit_length() - 1] & ends:
                reached[visited | bit] |= bit
    ends = reached[full] & into[0]
    if not ends:
        return None
    order, visited = [], full
    while visited != 1:
        bit = ends & -ends
        order.append(bit.bit_length() - 1)
        visited ^= bit
        ends = reached[visited] & into[order[-1]]
    return [0, *reversed(order)]


def _shortest(out: list[int], rtts: Matrix) -> list[int]:
    """Of all rings over these links the one whose round trips are least in sum; there is one."""
    n = len(out)
    full = (1 << n) - 1
    best: list[dict[int, tuple[float, int]]] = [{} for _ in range(full + 1)]  # by end: (so far, the one before)
    best[1][0] = (0.0, 0)
    for visited in range(1, full, 2):
        for end, (so_far, _) in best[visited].items():
            left, row = out[end] & ~visited, rtts[end]
            while left:
                bit = left & -left
                left ^= bit
                place, there = bit.bit_length() - 1, best[visited | bit]
                cost = so_far + row[place]
                if place not in there or cost < there[place][0]:
                    there[place] = (cost, end)
    ends = [(so_far + rtts[end][0], end) for end, (so_far, _) in best[full].items() if out[end] & 1]
    least, place = min(ends)
    steps = [(i, (i + 1) % n) for i in range(n)]
    if all(out[i] >> j & 1 for i, j in steps) and sum(rtts[i][j] for i, j in steps) <= least:
        return list(range(n))
    order, visited = [place], full
    while place:
        before = best[visited][place][1]
        visited ^= 1 << place
        place = before
        order.append(place)
    return order[::-1]


# ---- many: a cover of cycles, joined


def _joined(out: list[int]) -> list[int] | None:
    """A ring over these links, if joining the cycles of a cover makes one."""
    n, lots = len(out), Random(len(out))  # the same for all who ask: what is planned follows from the links alone
    for turn in range(TURNS):
        after = _cover(out, turn * n // TURNS)
        if after is None:
            return None  # not even cycles cover all: there is no ring
        order = _join(after, out, lots)
        if order is not None:
            return order
    return None


def _cover(out: list[int], first: int) -> list[int] | None:
    """after[i] for each i, every place after exactly one: a perfect matching, by augmenting paths."""
    n = len(out)
    before = [-1] * n
    for i in range(n):  # most of a ring in the order of the places, if that is wide enough
        if out[i] >> (i + 1) % n & 1:
            before[(i + 1) % n] = i
    matched = [False] * n
    for i in before:
        if i >= 0:
            matched[i] = True
    for k in range(n):
        i = (first + k) % n
        if not matched[i] and not _augment(i, out, before):
            return None
    after = [0] * n
    for j, i in enumerate(before):
        after[i] = j
    return after


def _augment(root: int, out: list[int], before: list[int]) -> bool:
    """Breadth first; `via[j]` is who would take j."""
    via: dict[int, int] = {}
    seen, queue = 0, [root]
    for i in queue:
        left = out[i] & ~seen
        seen |= left
        while left:
            bit = left & -left
            left ^= bit
            j = bit.bit_length() - 1
            via[j] = i
            if before[j] < 0:
                while True:
                    taker = via[j]
                    given = before.index(taker) if taker != root else -1
                    before[j] = taker
                    if taker == root:
                        return True
                    j = given
            queue.append(before[j])
    return False


def _join(after: list[int], out: list[int], lots: Random) -> list[int] | None:
    """A walk over covers: places i and j take what the other had, if both links are there, which joins two cycles or
    parts one. What joins is always taken, what parts seldom, so that others can be joined."""
    n = len(after)
    before, cycle = [0] * n, _cycles(after)
    for i, j in enumerate(after):
        before[j] = i
    for _ in range(WALK_MAX // n + 1):
        if max(cycle) == 0:
            return _read(after)
        i = lots.randrange(n)
        choices = [j for v in _bits(out[i]) if out[j := before[v]] >> after[i] & 1 and j != i]
        joining = [j for j in choices if cycle[j] != cycle[i]]
        if not joining and (not choices or lots.random() >= PART):
            continue
        j = lots.choice(joining or choices)
        after[i], after[j] = after[j], after[i]
        before[after[i]], before[after[j]] = i, j
        cycle = _cycles(after)
    return None


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        bit = mask & -mask
        mask ^= bit
        found.append(bit.bit_length() - 1)
    return found


def _cycles(after: list[int]) -> list[int]:
    """The number of each place's cycle, from 0 on."""
    number = [-1] * len(after)
    count = 0
    for start in range(len(after)):
        if number[start] < 0:
            place = start
            while number[place] < 0:
                number[place] = count
                place = after[place]
            count += 1
    return number


def _read(after: list[int]) -> list[int]:
    order = [0]
    while after[order[-1]]:
        order.append(after[order[-1]])
    return order


def _shortened(order: list[int], out: list[int], rtts: Matrix) -> list[int]:
    """One pass in which each place moves to where the way around is shorter, over links as wide."""
    n = len(order)
    for place in list(order):
        at = order.index(place)
        before, after = order[at - 1], order[(at + 1) % n]
        if not out[before] >> after & 1:
            continue
        rest = order[:at] + order[at + 1 :]
        gain, chosen = rtts[before][place] + rtts[place][after] - rtts[before][after], -1
        for k in range(n - 1):
            one, two = rest[k], rest[(k + 1) % (n - 1)]
            if out[one] >> place & out[place] >> two & 1:
                cost = rtts[one][place] + rtts[place][two] - rtts[one][two]
                if cost < gain - 1e-9:
                    gain, chosen = cost, k
        if chosen >= 0:
            order = [*rest[: chosen + 1], place, *rest[chosen + 1 :]]
    start = order.index(0)
    return order[start:] + order[:start]
