"""May a host leave, and what does its leaving do to the others? SPEC Q1, R10.

Owns these judgements, for the shell that takes a host out of a run. Refuses to know files and words.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from intellectd.protocol.head import Head
from intellectd.protocol.messages import Beacon
from intellectd.protocol.quorum import is_quorum


@dataclass(frozen=True)
class Farewell:
    """How things stand if this host went now."""

    seat_is_needed: bool  # it has a vote, and somebody stays who could decide the round that takes it away
    log_is_needed: bool  # too few voters are known to have the newest record, perhaps the one that let this host go
    update_is_needed: bool  # nobody that stays has a state as new: the newest update may lie here alone
    strands: tuple[str, ...]  # the others, if they can decide nothing without this host's vote
    takes_last_state: bool  # nobody that stays has a state as new as this host's, or one round older

    @property
    def must_stay(self) -> bool:
        return self.seat_is_needed or self.log_is_needed or self.update_is_needed


def farewell(
    me: str,
    head: Head,
    reach: int,
    alive: Mapping[str, Beacon],
    *,
    sparse: bool = False,
    over: bool = False,
    abstains: bool = False,
) -> Farewell:
    """`reach`: the newest round whose state this host can make of what it has (Catchup.reach). `alive` are the others'
    beacons, in a sparse swarm of a few; who leaves too is waited for by nobody, and waits for nobody."""
    staying = {peer: beacon for peer, beacon in alive.items() if not beacon.leaving}
    applied = [b.applied for b in staying.values() if b.generation == head.generation]  # another line's say nothing
    votes = me in head.voters and not over
    others = dict.fromkeys(peer for peer in [*head.voters, *staying] if peer != me)
    go_on = not votes or abstains or is_quorum(head.voters, staying)
    return Farewell(
        seat_is_needed=votes and bool(staying),
        log_is_needed=not over and _misses_record(me, head, alive, staying, sparse),
        update_is_needed=not over and bool(staying) and not any(a >= reach for a in applied),
        strands=() if go_on else tuple(others),
        takes_last_state=reach >= -1 and not any(a >= max(-1, reach - 1) for a in applied),
    )


def _misses_record(
    me: str, head: Head, alive: Mapping[str, Beacon], staying: Mapping[str, Beacon], sparse: bool
) -> bool:
    """Each voter that stays and is heard has the newest record. And where a vote of this host's decided it, and all are
    heard, those that have it can decide the next: a disk may be lost, and what only that one knows with it. Voters that
    leave later see to that, and who has a later record shows that it is so."""
    if any(staying[v].head_round < head.round for v in head.voters if v in staying):
        return True
    voted = head.entry is not None and any(vote.voter == me for vote in head.entry.certificate.votes)
    here = {peer: b.head_round for peer, b in alive.items() if b.generation == head.generation}
    if not voted or sparse or not staying or any(round_ > head.round for round_ in here.values()):
        return False
    return not is_quorum(head.voters, [me, *(peer for peer, round_ in here.items() if round_ == head.round)])
