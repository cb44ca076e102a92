"""How a transfer goes: whom it is made of, in which order, by which schedule, and how long that should take. SPEC C8.

Owns the choice, a pure function of members, links, size and manifest; `costs.py` has the model of time, `ring_order.py`
the search for a ring. Refuses to know beacons and ballots. Without a measured link it is a ring in the order given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from intellectd.protocol import limits
from intellectd.protocol.collectives import AUTO, DIRECT, DIRECT_ONLY, RING, TORUS, may_be_direct, torus_rows
from intellectd.protocol.costs import Network, direct_s, fit_shares, ring_s, torus_s
from intellectd.protocol.links import Estimate
from intellectd.protocol.ring_order import DENSE_MAX, EXACT_MAX, widest_ring

# Another schedule than a ring must be so much quicker by the model: of its many links fewer are known.
WORTH_IT = 0.9
# Another ring than the last must be so much quicker: connections that stand have their windows open.
WORTH_ANOTHER = 0.95
WITNESSES = 2  # members that each found no way to another: it is at fault rather than two links
WINDOW = 16  # of a large swarm: so many places on a member is looked for whose links are wider


@dataclass(frozen=True)
class Course:
    order: list[int]  # places among the members given
    schedule: str
    shape: list[int]
    seconds: float | None  # predicted; None where no link is known
    left: list[int] = field(default_factory=list)  # those that nobody can connect: too few others can be dialled
    parted: list[int] = field(default_factory=list)  # those without whom the others make a ring that broke nowhere yet


def chart(
    dialable: Sequence[bool],
    known: Mapping[tuple[int, int], Estimate],
    size: int,
    manifest: str = AUTO,
    last: Sequence[int] = (),
    parted: Sequence[tuple[int, int]] = (),
    least: int = 1,
) -> Course:
    """`dialable`: of each member in its turn (C2), can others dial it; `known`: links by their places; `size`: bytes of
    an encoded update; `manifest`: its outer.schedule; `last`: all of their places in the order of the record before, or
    nothing; `parted`: (accuser, accused) of the collectives that broke in this decision, which are to be no neighbours;
    `least`: members of a ring that some are left out of for that."""
    if manifest == DIRECT_ONLY:
        return _all_with_all(dialable, known, size, parted, least)
    kept, left = connectable(dialable)
    kept, apart, network, order = _apart(kept, dialable, known, size, parted, least)
    if network.known and last and not left and not apart and _holds(network, last):
        stays = ring_s(network, order) >= WORTH_ANOTHER * ring_s(network, last)
        order = list(last) if stays else order
    best = Course(order, RING, [], ring_s(network, order))
    open_ = manifest == AUTO and network.known >= network.members  # of fewer links not even a ring is known
    if open_ or manifest == TORUS:
        best = _better(best, _torus(network, order), manifest)
    if open_ or manifest == DIRECT:
        best = _better(best, _direct(network), manifest)
    seconds = best.seconds if network.known else None
    return Course([kept[p] for p in best.order], best.schedule, best.shape, seconds, left, apart)


def _all_with_all(
    dialable: Sequence[bool],
    known: Mapping[tuple[int, int], Estimate],
    size: int,
    parted: Sequence[tuple[int, int]],
    least: int,
) -> Course:
    """A direct exchange of as many as can all reach each other, those that nobody can dial by relays. Of two that are
    parted the more accused waits for a round, as long as more than half stay, and `least`."""
    hidden = [place for place, open_ in enumerate(dialable) if not open_]
    beyond = hidden[_hidden_max(sum(dialable)) :]
    members = [place for place in range(len(dialable)) if place not in beyond]
    members = members[: limits.DIRECT_MEMBERS_MAX]
    left = [place for place in range(len(dialable)) if place not in dict.fromkeys(members)]
    whole = len(members)
    while len(members) > max(least, whole // 2 + 1):
        pairs = [(i, j) for i, j in parted if i in members and j in members]
        if not pairs:
            break
        there = dict.fromkeys(place for pair in pairs for place in pair)
        members.remove(max(there, key=lambda place: _guilt(place, pairs)))
    places = {place: k for k, place in enumerate(members)}
    network = Network([dialable[p] for p in members], _among(places, known), size)
    shares = fit_shares(network)
    seconds = direct_s(network, shares) if network.known and len(members) > 1 else None
    apart = [place for place in range(len(dialable)) if place not in places and place not in left]
    return Course(members, DIRECT, shares, seconds, left, apart)


def _hidden_max(open_: int) -> int:
    """So many that nobody can dial may be in a direct exchange beside so many that can be: each two have a relay."""
    most = 1
    while most * (most + 1) // 2 <= limits.RELAYED_PAIRS_MAX * open_:
        most += 1
    return most


def connectable(dialable: Sequence[bool]) -> tuple[list[int], list[int]]:
    """(those that make a ring, those that are left): no two that cannot be dialled may be neighbours, so there are at
    most as many as of the others. Who is left follows from the order, which is another in each round."""
    room = max(sum(dialable), 1 if len(dialable) else 0)
    hidden = [place for place, open_ in enumerate(dialable) if not open_]
    left = hidden[room:] if sum(dialable) else hidden[1:]
    gone = dict.fromkeys(left)
    return [place for place in range(len(dialable)) if place not in gone], left


# ---- inside


def _apart(
    kept: list[int],
    dialable: Sequence[bool],
    known: Mapping[tuple[int, int], Estimate],
    size: int,
    parted: Sequence[tuple[int, int]],
    least: int,
) -> tuple[list[int], list[int], Network, list[int]]:
    """(Who makes a ring in which no parted two are neighbours, who is left for it, their network, that ring). Whoever
    was accused by WITNESSES waits for a round, and where there still is no such ring for certain the most accused; more
    than half stay, and `least`. As a last resort it is a ring as if nobody had been accused."""
    least = max(least, len(kept) // 2 + 1)
    accused = sorted((p for p in kept if _guilt(p, parted)[0] >= WITNESSES), key=lambda p: _guilt(p, parted))
    gone = dict.fromkeys(accused[least - len(kept) :] if least < len(kept) else [])
    members = [place for place in kept if place not in gone]
    while True:
        seated, _ = connectable([dialable[p] for p in members])  # some may have stood beside who is gone
        members = [members[k] for k in seated]
        if len(members) < min(least, len(kept)):
            return _apart(kept, dialable, known, size, (), least)
        places = {place: k for k, place in enumerate(members)}
        pairs = [(places[i], places[j]) for i, j in parted if i in places and j in places]
        network = Network([dialable[p] for p in members], _among(places, known), size, pairs)
        order = _around(network)
        if not pairs or _holds(network, order):
            return members, [place for place in kept if place not in places], network, order
        if len(members) > EXACT_MAX or len(members) <= least:
            return _apart(kept, dialable, known, size, (), least)
        members.remove(max(members, key=lambda place: _guilt(place, parted)))


def _guilt(place: int, parted: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    accusers = sum(accused == place for _, accused in parted)
    return accusers, sum(accuser == place for accuser, _ in parted), place


def _among(places: Mapping[int, int], known: Mapping[tuple[int, int], Estimate]) -> dict[tuple[int, int], Estimate]:
    return {(places[i], places[j]): e for (i, j), e in known.items() if i in places and j in places}


def _better(best: Course, other: Course | None, manifest: str) -> Course:
    """What the manifest names is taken wherever it can be."""
    if other is None or best.seconds is None or other.seconds is None:
        return best
    return other if manifest != AUTO or other.seconds < WORTH_IT * best.seconds else best


def _around(network: Network) -> list[int]:
    n = network.members
    plain = list(range(n))
    if not network.known and _holds(network, plain):
        return plain
    if n > DENSE_MAX or not (network.known or network.parted):
        order = plain if _holds(network, plain) else _spread(network)
        return _widened(network, order) if network.known or network.parted else order
    rates = [[network.rate(i, j) for j in range(n)] for i in range(n)]
    rtts = [[network.rtt(i, j) for j in range(n)] for i in range(n)]
    return widest_ring(rates, rtts) or _spread(network)


def _holds(network: Network, order: Sequence[int]) -> bool:
    pairs = zip(order, [*order[1:], order[0]], strict=True)
    return len(order) < 2 or all(network.joined(i, j) for i, j in pairs)


def _spread(network: Network) -> list[int]:
    """Those that can be dialled in their order, and one that cannot after each of the first."""
    open_ = [p for p in range(network.members) if network.dialable[p]]
    hidden = [p for p in range(network.members) if not network.dialable[p]]
    order: list[int] = []
    for number, place in enumerate(open_):
        order.append(place)
        order += hidden[number : number + 1]
    return order or hidden


def _widened(network: Network, order: list[int]) -> list[int]:
    """Of many: each in its turn changes places with one of the next few, if the narrowest link at either is wider."""
    n = len(order)
    for at in range(n):
        after = (at + 1) % n
        now = network.rate(order[at], order[after])
        if now >= network.usual:
            continue
        best, chosen = 0.0, -1
        for k in range(2, min(WINDOW, n - 2)):
            other = (at + k) % n
            gain = _swapped(network, order, after, other) - _narrowest(network, order, (after, other))
            if gain > best:
                best, chosen = gain, other
        if chosen >= 0:
            order[after], order[chosen] = order[chosen], order[after]
    return order


def _swapped(network: Network, order: list[int], one: int, other: int) -> float:
    order[one], order[other] = order[other], order[one]
    width = _narrowest(network, order, (one, other))
    order[one], order[other] = order[other], order[one]
    return width


def _narrowest(network: Network, order: list[int], places: tuple[int, int]) -> float:
    n = len(order)
    ends = [(k % n, (k + 1) % n) for place in places for k in (place - 1, place)]
    return min(network.rate(order[i], order[j]) for i, j in ends)


def _torus(network: Network, order: list[int]) -> Course | None:
    """The ring's order, row after row, folded to the shape that is quickest."""
    found: Course | None = None
    for rows in torus_rows(len(order)):
        seconds = torus_s(network, order, rows)
        if seconds is not None and (found is None or found.seconds is None or seconds < found.seconds):
            found = Course(order, TORUS, [rows], seconds)
    return found


def _direct(network: Network) -> Course | None:
    hidden, open_ = network.dialable.count(False), network.dialable.count(True)
    if not may_be_direct(network.members) or hidden > _hidden_max(open_) or network.parted:
        return None
    plain = list(range(network.members))  # who owns which slice makes no difference
    shares = fit_shares(network)
    return Course(plain, DIRECT, shares, direct_s(network, shares))
