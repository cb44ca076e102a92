"""What one run takes of a host's disk and memory: the same numbers for who writes it and for who plans ahead.

Owns how many of each are kept, and sizes by parameter. Imports no torch. Refuses to look at disks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from intellectd.kernels.codec import codec_by_name, update_codec

SNAPSHOTS_KEPT = 2  # at least: the newest may not be provable yet, the one before is
SNAPSHOTS_KEPT_MAX = 64
# Between two, at most: a joiner replays no more than twice this many updates of a byte for each parameter, which is
# less than the snapshot itself.
SNAPSHOT_ROUNDS = 4
# The loss of the delta that was decided last, and of the one that is on its way: bytes a parameter.
FEEDBACK_BYTES = 8
STATE_BYTES = 8  # theta and momentum, fp32
ARENA_BYTES = 4
_MANY = 1 << 20  # elements, to tell what one costs


@dataclass(frozen=True)
class Retention:
    """How many states are kept: so many, and no more bytes of them, 0 for any. The newest that the log proves is kept
    in any case, and what came after it."""

    count: int = SNAPSHOTS_KEPT
    bytes_max: int = 0

    def kept(self, rounds: Sequence[int], size: int, log_length: int) -> list[int]:
        """`rounds`: those that lie there, oldest first; `size`: bytes of each."""
        kept = list(rounds[-self.count :])
        proven = max((round_ for round_ in kept if round_ == 0 or round_ + 1 < log_length), default=0)
        while self.bytes_max and len(kept) * size > self.bytes_max and kept[0] < proven:
            del kept[0]
        return kept


KEEP_FEW = Retention()


def snapshot_rounds(codec: str) -> int:
    """Rounds between two: as many as make a log of half the state's size. The same on every host, so that many have the
    same states for a joiner."""
    update = update_codec(codec_by_name(codec))
    return max(1, min(SNAPSHOT_ROUNDS, -(-STATE_BYTES * _MANY // (2 * update.encoded_bytes(_MANY)))))


def disk_bytes(elements: int, codec: str, feedback: bool, kept: int = SNAPSHOTS_KEPT) -> int:
    """At most: the snapshots that are kept and the one that is being written, the updates since the older, and what
    error feedback keeps."""
    update = update_codec(codec_by_name(codec)).encoded_bytes(elements)
    states = (kept + 1) * STATE_BYTES * elements
    return states + kept * snapshot_rounds(codec) * update + (FEEDBACK_BYTES * elements if feedback else 0)


def memory_bytes(elements: int, codec: str, gossip: bool = False) -> int:
    """Of the daemon: the state, the arena, its own delta and the round's update, which is file-backed; and the anchor
    of its group, where there are some. A trainer's own come besides."""
    kind = codec_by_name(codec)
    encoded = kind.encoded_bytes(elements) + update_codec(kind).encoded_bytes(elements)
    return (STATE_BYTES + ARENA_BYTES + (ARENA_BYTES if gossip else 0)) * elements + encoded
