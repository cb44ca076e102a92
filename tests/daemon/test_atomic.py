"""Durable writes: the old file or the new, and an operator's words for a disk that refuses."""

import errno
import os
import resource
from pathlib import Path

import pytest

from intellectd.daemon import atomic


def test_a_write_replaces_the_whole_file_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "record"
    atomic.write_atomic(path, b"first and longer")
    atomic.write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["record"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "record"
    atomic.write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(path) as file:
        file.write(b"half of the new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record"]


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    atomic.write_new(path, b"mine")
    with pytest.raises(atomic.FileExists, match=r"identity\.key exists already"):
        atomic.write_new(path, b"another")
    assert path.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["identity.key"]


def test_a_real_refusal_for_size_names_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    atomic.write_atomic(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # With a limit on file sizes the kernel stops the write half-way, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(atomic.StorageFull) as caught:
            atomic.write_atomic(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in caught.value.message
    assert "free some space" in caught.value.hint
    assert caught.value.exit_code == 77
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"snapshot": b"old"}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, atomic.StorageFull),
        (errno.EDQUOT, atomic.StorageFull),
        (errno.EROFS, atomic.StorageReadOnly),
        (errno.EACCES, atomic.StorageReadOnly),
        (errno.EIO, atomic.StorageError),
    ],
)
def test_each_refusal_of_the_kernel_has_its_error(number: int, kind: type[atomic.StorageError]) -> None:
    error = atomic.storage_error(OSError(number, os.strerror(number)), Path("/var/lib/intellectd/log"))
    assert type(error) is kind
    assert "/var/lib/intellectd/log" in error.message
    assert os.strerror(number) in error.message
    assert error.hint


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(atomic.StorageError, match="state"):
        atomic.make_dir(tmp_path / "state" / "runs")
