"""A newcomer's first rounds, in which it takes part and its delta weighs nothing. SPEC R15.

Owns who is warming up after a record, and what that makes of weights; both follow from the log alone. Refuses to know
who plans a transfer and who checks it.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from intellectd.protocol.entries import Collective, Contribution, Entry, Member

OPENING = 0  # whoever is named by the record of this round has begun with the run


def warming_after(
    rounds: int, before: Mapping[str, int], assigned_before: Iterable[str], entry: Entry
) -> dict[str, int]:
    """By peer, in how many rounds to come that it contributes to it weighs nothing. `before`: the same, of the record
    before; `assigned_before`: whom that assigned."""
    if not rounds or entry.record.round == OPENING:
        return {}
    there, contributed = dict.fromkeys(assigned_before), {c.peer: c for c in entry.blob.contributions}
    left = {}
    for assignment in entry.blob.assignments:
        peer = assignment.peer
        count = before.get(peer, 0) - (peer in contributed) if peer in there else rounds
        if count > 0:
            left[peer] = count
    return left


def weighed(members: Sequence[Member], warming: Mapping[str, int]) -> list[Member]:
    """Those who compute together. Where all of them are warming up they weigh what they have done: a mean of nothing is
    no number."""
    if all(m.peer in warming for m in members):
        return list(members)
    return [msgspec.structs.replace(m, tokens=0) if m.peer in warming else m for m in members]


def misweighed(together: Iterable[Collective], warming: Mapping[str, int]) -> bool:
    """Does somebody weigh nothing who should, or the other way round?"""
    for part in together:
        whole = all(m.peer in warming for m in part.members)
        if any((m.tokens == 0) != (m.peer in warming and not whole) for m in part.members):
            return True
    return False


def counting(contributions: Iterable[Contribution | Member]) -> int:
    """How many of these count."""
    return sum(c.tokens > 0 for c in contributions)
