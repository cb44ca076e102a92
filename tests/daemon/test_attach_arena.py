"""The arena: shared, sealed, of exactly the agreed size, whoever hands it over."""

import fcntl
import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from intellectd.daemon.arena import SEALS, ArenaError, arena_tensor, create_arena, map_arena

N = 1024


def test_both_sides_see_each_others_writes_and_it_starts_as_zeros() -> None:
    descriptor = create_arena(N)
    ours, theirs = (arena_tensor(map_arena(descriptor, N)) for _ in range(2))
    os.close(descriptor)
    assert ours.shape == (N,) and not ours.any()
    theirs[N - 1] = 4.5
    assert ours[N - 1].item() == 4.5


def test_it_cannot_be_cut_short_or_grown() -> None:
    descriptor = create_arena(N)
    for length in (0, 4 * N - 1, 4 * N + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, length)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.close(descriptor)


def test_the_tensor_keeps_the_memory_and_the_memory_nothing_else() -> None:
    descriptor = create_arena(N)
    tensor = arena_tensor(map_arena(descriptor, N))
    os.close(descriptor)
    gc.collect()
    assert tensor.fill_(2.0).sum().item() == 2.0 * N
    del tensor
    gc.collect()
    assert "intellectd-arena" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("elements", [0, -1, 2**40 + 1, 2**70])
def test_absurd_sizes_are_refused_before_anything_is_made(elements: int) -> None:
    with pytest.raises(ArenaError, match="there may be"):
        create_arena(elements)
    with pytest.raises(ArenaError, match="there may be"):
        map_arena(0, elements)


def memfd(length: int, seals: int) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, length)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: memfd(4 * N - 4, SEALS), "has 4092 bytes"),
        (lambda path: memfd(4 * N + 4, SEALS), "has 4100 bytes"),
        (lambda path: memfd(4 * N, 0), "not sealed"),
        (lambda path: memfd(4 * N, SEALS & ~fcntl.F_SEAL_SHRINK), "not sealed"),
        (lambda path: os.open(path, os.O_RDWR), "an ordinary file"),
        (lambda path: os.open(path.parent, os.O_RDONLY), "bytes"),
        (lambda path: os.pipe()[0], "has 0 bytes"),
    ],
)
def test_what_is_no_arena_is_refused(make: Callable[[Path], int], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * N))
    descriptor = make(path)
    with pytest.raises(ArenaError, match=reason):
        map_arena(descriptor, N)
    os.close(descriptor)
