"""Which collectives a run's members may compute together: rings, direct exchanges, and tori of rings. SPEC C7.

Owns the judgement of a schedule and its shape, and the torus's possible shapes. Refuses to choose among them, which is
planner.py's, and to know how bytes move.
"""

from collections.abc import Sequence
from itertools import combinations

from intellectd.protocol import limits
from intellectd.protocol.entries import GOSSIP, Collective
from intellectd.protocol.manifest import Outer, is_direct_only

RING, DIRECT, TORUS = "ring", "direct", "torus"  # and GOSSIP, rings of drawn groups
AUTO = "auto"  # of the manifest: whichever is predicted to take the least time
DIRECT_ONLY = "direct only"  # of a manifest whose codec or error feedback no other schedule bears


def allowed(outer: Outer) -> str:
    """What the manifest says of schedules: one of them, beside which there may be rings; or AUTO, or DIRECT_ONLY."""
    return DIRECT_ONLY if is_direct_only(outer) else outer.schedule


def misfit(collective: Collective, manifest: str, groups: Sequence[Sequence[str]] = ()) -> str:
    """Why no leader that keeps the rules plans this in a run of which the manifest says this (`allowed`); "" when one
    may. A ring is always allowed, but by DIRECT_ONLY, for there are rosters that make nothing else; and but in a round
    for which `groups` are drawn, which is rings of them."""
    members, schedule, shape = len(collective.members), collective.schedule, collective.shape
    if groups:
        return _misdrawn(collective, groups)
    if manifest == DIRECT_ONLY:
        fits = schedule == DIRECT and len(shape) == members <= limits.DIRECT_MEMBERS_MAX and any(shape)
        return "" if fits else f"this run has direct exchanges alone, and this is a {schedule} of {members} members"
    if schedule == RING:
        return "a ring has no shape" if shape else ""
    if schedule not in (DIRECT, TORUS) or manifest not in (AUTO, GOSSIP, schedule):
        return f"schedule {schedule} is not this run's"
    if schedule == TORUS:
        rows = shape[0] if len(shape) == 1 else 0
        return "" if rows in torus_rows(members) else f"no torus of {members} members has this shape"
    whole = len(shape) == members and members > 1 and any(shape)
    return "" if whole else f"no direct exchange of {members} members has this shape"


def _misdrawn(collective: Collective, groups: Sequence[Sequence[str]]) -> str:
    """Each part is of members of one of the groups drawn, each of another, in their order (SPEC E1)."""
    shape = collective.shape
    if collective.schedule != GOSSIP or not all(shape) or sum(shape) != len(collective.members) or not shape:
        return "this round is decided in groups"
    drawn = {peer: number for number, group in enumerate(groups) for peer in group}
    last = -1
    for part in parts(collective):
        numbers = list(dict.fromkeys(drawn.get(m.peer, -1) for m in part.members))
        if len(numbers) != 1 or numbers[0] <= last:
            return "these are not the groups that were drawn"
        last = numbers[0]
    return ""


def parts(collective: Collective) -> list[Collective]:
    """What is computed apart: a ring for each group of a gossip round, else the collective itself."""
    if collective.schedule != GOSSIP:
        return [collective]
    found, at = [], 0
    for size in collective.shape:
        found.append(Collective(collective.members[at : at + size], RING, []))
        at += size
    return found


def together(rings: Sequence[Collective]) -> Collective:
    """The gossip round that these groups make."""
    members = [member for ring in rings for member in ring.members]
    return Collective(members, GOSSIP, [len(ring.members) for ring in rings])


def torus_rows(members: int) -> list[int]:
    """The numbers of rows, fewest first, that make whole rows and whole columns of two members or more."""
    return [rows for rows in range(2, members // 2 + 1) if members % rows == 0]


def neighbours(collective: Collective) -> list[tuple[str, str]]:
    """Pairs of members between which its bytes go, of a valid collective."""
    if collective.schedule == GOSSIP:
        return [pair for part in parts(collective) for pair in neighbours(part)]
    peers = [m.peer for m in collective.members]
    if collective.schedule == DIRECT:
        return list(combinations(peers, 2))
    rows = collective.shape[0] if collective.schedule == TORUS else 1
    columns = len(peers) // rows
    rings = [peers[r * columns : (r + 1) * columns] for r in range(rows)]
    rings += [peers[c::columns] for c in range(columns)] if rows > 1 else []
    return [pair for ring in rings for pair in zip(ring, [*ring[1:], ring[0]], strict=True)]


def may_be_direct(members: int) -> bool:
    return 1 < members <= limits.DIRECT_MEMBERS_MAX
