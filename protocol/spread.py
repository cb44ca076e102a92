"""How far anchors of different groups are apart, from what a record says of one group. SPEC E8.

Owns the estimate. Refuses to know tensors: the norm of a group's update is the shell's to take.
"""

from math import isfinite

from intellectd.protocol.entries import Entry, groups_of
from intellectd.protocol.manifest import from_float32_hex


def anchor_spread(entry: Entry, root: bytes, norm: float) -> float | None:
    """The root mean square distance of the anchors from their mean after a round in groups, over `norm`, which is how
    far the anchor of the group with this root is from the state (L2). None where a group of one tells nothing, or the
    anchor stands where the state does."""
    members = next((members for found, members in groups_of(entry.record, entry.blob) if found == root), [])
    count, size = len(entry.blob.contributions), len(members)
    if size < 2 or norm <= 0.0:
        return None
    there = dict.fromkeys(members)
    mine = [c for c in entry.blob.contributions if c.peer in there]
    squares = sum(c.tokens * from_float32_hex(c.norm) ** 2 for c in mine) / sum(c.tokens for c in mine)
    if not isfinite(squares):  # a norm is what its member says, and may be no number
        return None
    within = max(0.0, squares - norm**2)
    return float((within * (count - size) / (count * (size - 1))) ** 0.5 / norm)
