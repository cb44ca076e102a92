"""What one run takes of a host's disk and memory: the same numbers for who writes it and for who plans ahead.

Owns how many of each are kept, and sizes by parameter. Imports no torch. Refuses to look at disks.
"""

from intellectd.kernels.codec import codec_by_name, update_codec

SNAPSHOTS_KEPT = 2  # the newest may not be provable yet, the one before is
# A joiner replays at most twice this many updates of one byte per parameter: less than the snapshot itself.
SNAPSHOT_ROUNDS = 4
# The loss of the delta that was decided last, and of the one that is on its way: bytes a parameter.
FEEDBACK_BYTES = 8
STATE_BYTES = 8  # theta and momentum, fp32
ARENA_BYTES = 4


def disk_bytes(elements: int, codec: str, feedback: bool) -> int:
    """At most: the snapshots that are kept and the one that is being written, the updates since the older, and what
    error feedback keeps."""
    update = update_codec(codec_by_name(codec)).encoded_bytes(elements)
    states = (SNAPSHOTS_KEPT + 1) * STATE_BYTES * elements
    return states + SNAPSHOTS_KEPT * SNAPSHOT_ROUNDS * update + (FEEDBACK_BYTES * elements if feedback else 0)


def memory_bytes(elements: int, codec: str, gossip: bool = False) -> int:
    """Of the daemon: the state, the arena, its own delta and the round's update, which is file-backed; and the anchor
    of its group, where there are some. A trainer's own come besides."""
    kind = codec_by_name(codec)
    encoded = kind.encoded_bytes(elements) + update_codec(kind).encoded_bytes(elements)
    return (STATE_BYTES + ARENA_BYTES + (ARENA_BYTES if gossip else 0)) * elements + encoded
