"""Names for large vectors: BLAKE3 over leaves of 1 MiB under a binary tree, so any leaf can be checked alone.

Owns the shape of the tree and what separates one kind of vector from another. Refuses to know what the bytes
mean or where they came from; takes any buffer (or a CPU tensor) and does not import torch.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from typing import Any, Protocol

from blake3 import blake3

# 2**18 fp32 elements, 16 codec groups: large enough that hashing runs at full speed, small enough that a
# corrupt piece costs little to fetch again.
LEAF_BYTES = 1024 * 1024
HASH_BYTES = 32
# 2**40 fp32 elements (the layout's bound) twice over, theta and momentum.
LEAVES_MAX = 2**23
# Leaves worth a thread: 16 take 3 ms, and a new thread may start that late on busy CPUs.
THREAD_LEAVES_MIN = 16
STATE_DOMAIN = b"intellectd state 1\0"
UPDATE_DOMAIN = b"intellectd update 1\0"
_NODE = b"\x01"


class SupportsNumpy(Protocol):
    """A torch tensor, without naming torch."""

    def numpy(self) -> Any: ...


Data = bytes | bytearray | memoryview | mmap | SupportsNumpy


class DigestError(ValueError):
    """Hashes that cannot be put together as asked."""


def leaf_hashes(data: Data, threads: int = 1) -> list[bytes]:
    """BLAKE3 of each 1 MiB of `data`; the last piece may be shorter. It lets other threads run while it hashes."""
    view = _bytes_of(data)
    pieces = [view[at : at + LEAF_BYTES] for at in range(0, len(view), LEAF_BYTES)]
    if min(threads, len(pieces) // THREAD_LEAVES_MIN) <= 1:
        return [leaf_hash(piece) for piece in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(leaf_hash, pieces))


def leaf_hash(piece: Data) -> bytes:
    """Hash of one piece as it arrived; compare with its entry in the leaves whose root is trusted."""
    return bytes(blake3(_bytes_of(piece)).digest())


def merkle_root(leaves: Sequence[bytes], domain: bytes) -> bytes:
    """Pairs hashed level by level, an odd one promoted; the root also binds the domain and how many."""
    _check_leaves(leaves)
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level)
    return _seal(level[0], len(leaves), domain)


def merkle_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings on the way from a leaf to the top, for a receiver that holds only the root."""
    _check_leaves(leaves)
    _check_index(index, len(leaves))
    path: list[bytes] = []
    level = list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level, index = _parents(level), index // 2
    return path


def root_from_path(leaf: bytes, index: int, leaf_count: int, path: Sequence[bytes], domain: bytes) -> bytes:
    """The root that `leaf` at `index` of `leaf_count` leads to. DigestError if the path has a wrong length."""
    if not 0 < leaf_count <= LEAVES_MAX:
        raise DigestError(f"a tree has 1 to {LEAVES_MAX} leaves, not {leaf_count}")
    _check_index(index, leaf_count)
    _check_hashes([leaf, *path])
    siblings, top, width = iter(path), leaf, leaf_count
    while width > 1:
        if index ^ 1 < width:
            sibling = next(siblings, None)
            if sibling is None:
                raise DigestError(f"path of {len(path)} hashes is too short for {leaf_count} leaves")
            top = _node(sibling, top) if index & 1 else _node(top, sibling)
        width, index = (width + 1) // 2, index // 2
    if next(siblings, None) is not None:
        raise DigestError(f"path of {len(path)} hashes is too long for {leaf_count} leaves")
    return _seal(top, leaf_count, domain)


def state_leaves(theta: Data, momentum: Data, threads: int = 1) -> list[bytes]:
    """Leaves of theta, then of momentum; both have the same length, so the middle is the border."""
    if len(_bytes_of(theta)) != len(_bytes_of(momentum)):
        raise DigestError("theta and momentum differ in length; they belong to different layouts")
    return leaf_hashes(theta, threads) + leaf_hashes(momentum, threads)


def state_root(leaves: Sequence[bytes]) -> bytes:
    return merkle_root(leaves, STATE_DOMAIN)


def state_digest(theta: Data, momentum: Data, threads: int = 1) -> bytes:
    return state_root(state_leaves(theta, momentum, threads))


def update_root(encoded: Data, threads: int = 1) -> bytes:
    return merkle_root(leaf_hashes(encoded, threads), UPDATE_DOMAIN)


def _bytes_of(data: Data) -> memoryview:
    """A flat view of the bytes, without copying."""
    view = memoryview(data if isinstance(data, bytes | bytearray | memoryview | mmap) else data.numpy())
    if view.nbytes == 0:  # memoryview.cast refuses an empty shape
        return memoryview(b"")
    return view.cast("B")


def _parents(level: list[bytes]) -> list[bytes]:
    paired = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return paired + level[len(paired) * 2 :]


def _node(left: bytes, right: bytes) -> bytes:
    return bytes(blake3(_NODE + left + right).digest())


def _seal(top: bytes, leaf_count: int, domain: bytes) -> bytes:
    if domain[:1] in (b"", _NODE):
        raise DigestError("a domain is not empty and does not begin like a node")
    return bytes(blake3(domain + leaf_count.to_bytes(8, "little") + top).digest())


def _check_leaves(leaves: Sequence[bytes]) -> None:
    if not 0 < len(leaves) <= LEAVES_MAX:
        raise DigestError(f"a tree has 1 to {LEAVES_MAX} leaves, not {len(leaves)}")
    _check_hashes(leaves)


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise DigestError(f"a hash has {HASH_BYTES} bytes, not {len(value)}")


def _check_index(index: int, leaf_count: int) -> None:
    if not 0 <= index < leaf_count:
        raise DigestError(f"there is no leaf {index} among {leaf_count}")
