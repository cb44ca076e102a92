"""The arena: one sealed memfd per attached trainer, through which daemon and trainer hand parameters over.

Owns making, checking and mapping it. Refuses to know whose turn it is to write (the attach protocol does) and
what the numbers mean. A memfd has no name to squat, and is gone when the last of the two closes it.
"""

import fcntl
import mmap
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ELEMENT_BYTES = 4  # fp32
ELEMENTS_MAX = 2**40  # as kernels.layout: 4 TiB
# Neither side may cut it short under the other, who would die of SIGBUS.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class ArenaError(Exception):
    """The memory is not an arena of the size and the seals agreed on, or there is none to be had."""


def create_arena(elements: int) -> int:
    """A descriptor of `elements` zeros. The caller closes it once it is mapped and sent."""
    length = _length(elements)
    try:
        descriptor = os.memfd_create("intellectd-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise _none_left(length, error) from error
    try:
        os.ftruncate(descriptor, length)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except OSError as error:
        os.close(descriptor)
        raise _none_left(length, error) from error
    return descriptor


def _none_left(length: int, error: OSError) -> ArenaError:
    return ArenaError(f"no shared memory for {length} bytes: {error}")


def map_arena(descriptor: int, elements: int) -> mmap.mmap:
    """Map it once, all pages at a go: faulting them in one by one costs ten times as much."""
    _check(descriptor, elements)
    try:
        return mmap.mmap(descriptor, _length(elements), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except (OSError, ValueError) as error:
        raise ArenaError(f"cannot map {_length(elements)} bytes of shared memory: {error}") from error


def arena_tensor(memory: mmap.mmap) -> "Tensor":
    """The arena as a flat fp32 tensor; it keeps the mapping alive, the last view unmaps it."""
    import torch

    return torch.frombuffer(memory, dtype=torch.float32)


def _check(descriptor: int, elements: int) -> None:
    status = os.fstat(descriptor)
    length = _length(elements)
    if not stat.S_ISREG(status.st_mode) or status.st_size != length:
        raise ArenaError(f"the memory handed over has {status.st_size} bytes, {elements} elements take {length}")
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ArenaError("the descriptor handed over is an ordinary file, not sealed memory") from error
    if seals & SEALS != SEALS:
        raise ArenaError("the memory handed over is not sealed: it could shrink while it is in use")


def _length(elements: int) -> int:
    if not 0 < elements <= ELEMENTS_MAX:
        raise ArenaError(f"an arena of {elements} elements; there may be 1 to {ELEMENTS_MAX}")
    return elements * ELEMENT_BYTES
