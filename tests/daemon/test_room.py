"""Room for files that memory is mapped over, also where a file system cannot reserve any."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from intellectd.daemon import room
from intellectd.daemon.room import CHUNK_BYTES, take_room

LENGTH = 2 * CHUNK_BYTES + 100


class CannotReserve:
    def fallocate(self, _descriptor: int, _mode: int, _offset: int, _length: int) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1


@pytest.fixture(params=["reserves", "cannot"])
def any_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "cannot":
        monkeypatch.setattr(room, "_libc", CannotReserve())


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize("begun", [b"", b"what is there stays", bytes([1]) * LENGTH])
def test_all_of_a_file_has_its_room_and_what_is_there_stays(begun: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(begun)
    with path.open("r+b") as file:
        take_room(file.fileno(), LENGTH)
        size = os.fstat(file.fileno()).st_size
    assert size == LENGTH
    assert path.read_bytes() == begun + bytes(LENGTH - len(begun))


def test_where_nothing_can_be_reserved_few_calls_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_libc", CannotReserve())
    real, calls = os.pwrite, list[int]()

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        return real(descriptor, data[:600_000], offset)  # a disk may take less than it was given

    monkeypatch.setattr(os, "pwrite", pwrite)
    with (tmp_path / "file").open("wb") as file:
        take_room(file.fileno(), LENGTH)
    assert len(calls) == 4 and (tmp_path / "file").read_bytes() == bytes(LENGTH)


def test_a_disk_that_is_full_says_so_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("posix_fallocate", "pwrite"):
        monkeypatch.setattr(os, name, full)
    for library in (room._libc, CannotReserve()):
        monkeypatch.setattr(room, "_libc", library)
        with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="No space left"):
            take_room(file.fileno(), LENGTH)
