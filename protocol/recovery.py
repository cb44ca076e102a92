"""What the owners would have to sign for a run to go on with who is here. SPEC G5, G9.

Owns whom a recovery names, and why there is none. Refuses to know who signs, and how a branch is made (branch.py).
"""

from collections.abc import Mapping, Sequence

from intellectd.protocol.head import Head
from intellectd.protocol.ids import state_name
from intellectd.protocol.membership import Membership
from intellectd.protocol.messages import Beacon
from intellectd.protocol.seat import ABSTAINING

FORGETFUL = (ABSTAINING, "synced")  # at the head, without a journal there; or without a trainer


class NoRecovery(ValueError):
    """There is nothing to recover, or nobody to go on with; says why."""


def named_in(
    head: Head,
    able: Sequence[str],
    remembering: Sequence[str],
    ahead: Mapping[str, int],
    members: Membership,
    now: float,
) -> list[str]:
    """Those of the `able` that remember their votes. If they are too few, all that stand there: whoever forgot votes
    anew, in this branch alone. `ahead`: who has more of the log. Raises NoRecovery."""
    alive = members.alive_beacons(now)
    if ahead:
        more = max(ahead.values())
        raise NoRecovery(f"a peer here has round {more} already, and this host only round {head.round}: in a moment")
    least = max(1, head.config.swarm.min_peers)
    if len(remembering) >= least:
        return list(remembering)
    present = sorted({**dict.fromkeys(able), **{p: None for p, b in alive.items() if _forgot(b, head)}})
    if len(present) < least:
        raise NoRecovery(f"{len(present)} of {least} peers that the run asks for are here with the newest state")
    return present


def left_at(base: Head, generation: bytes, me: Sequence[str], members: Membership, now: float) -> list[str]:
    """Those whose state is the one after `base`, where nobody of this line has a newer one; `me`: this host, if it
    stays. Raises NoRecovery."""
    there = {p: b for p, b in members.alive_beacons(now).items() if b.generation == generation}
    newer = max(there, key=lambda p: there[p].applied, default=None)
    if newer is not None and there[newer].applied > base.round:
        raise NoRecovery(f"{newer} has {state_name(there[newer].applied)}: ask there, or here in a moment")
    stay = [p for p, b in there.items() if b.applied == base.round and (not b.leaving or b.state == ABSTAINING)]
    least = max(1, base.config.swarm.min_peers)
    if len(present := sorted([*stay, *me])) < least:
        raise NoRecovery(f"{len(present)} of {least} peers that the run asks for are here with the newest state left")
    return present


def _forgot(beacon: Beacon, head: Head) -> bool:
    near = beacon.generation == head.generation and beacon.applied >= head.round - 1
    # Who abstains asks to be let go, for want of a journal: here it gets one.
    return near and beacon.state in FORGETFUL and (not beacon.leaving or beacon.state == ABSTAINING)


def lives(named: Sequence[str], me: str, incarnation: int, members: Membership, now: float) -> dict[str, int]:
    """The incarnation in which each of them is here now."""
    alive = members.alive_beacons(now)
    return {peer: incarnation if peer == me else alive[peer].incarnation for peer in named}
