"""A state on its way to the disk while the vectors change: what is written is the state as it was when it began."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from intellectd.daemon import export_files
from intellectd.daemon.atomic import StorageError, StorageFull, StorageReadOnly
from intellectd.daemon.export_files import write_directory
from intellectd.daemon.store import snapshot_writer, state_file
from intellectd.daemon.store.budget import KEEP_FEW, SNAPSHOT_ROUNDS, Retention, disk_bytes, snapshot_rounds
from intellectd.daemon.store.snapshot import State, header_bytes, read_snapshot
from intellectd.daemon.store.snapshot_writer import SnapshotWriter, write_snapshot
from intellectd.daemon.store.state_file import StateFile
from intellectd.kernels.digest import state_digest

WAIT_S = 20.0
ELEMENTS = 3000
Patch = pytest.MonkeyPatch
Pwrite = Callable[[int, memoryview, int], int]


def state_of(seed: int) -> tuple[State, bytes]:
    generator = torch.Generator().manual_seed(seed)
    state = State(torch.randn(ELEMENTS, generator=generator), torch.randn(ELEMENTS, generator=generator))
    return state, state_digest(state.theta, state.momentum)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(snapshot_writer, "CHUNK_BYTES", 1000)  # no multiple of an element, 12 a vector
    monkeypatch.setattr(snapshot_writer, "SYNC_BYTES", 3000)


class Gate:
    """Lets so many chunks through, then holds the thread that writes until it is opened; others pass."""

    def __init__(self, monkeypatch: Patch, passes: int) -> None:
        self.held, self.open = threading.Event(), threading.Event()
        self._passes, self._real = passes, os.pwrite
        self._others, self.rest_written = 24 - passes - 1, threading.Event()
        self._thread: threading.Thread | None = None
        monkeypatch.setattr(os, "pwrite", self._pwrite)

    def _pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        if threading.current_thread() is self._thread:
            self._passes -= 1
            if self._passes < 0:
                self.held.set()
                assert self.open.wait(WAIT_S)
            return self._real(descriptor, data, offset)
        count = self._real(descriptor, data, offset)
        self._others -= 1
        if not self._others:
            self.rest_written.set()
        return count

    def write(self, writer: SnapshotWriter) -> threading.Thread:
        self._thread = threading.Thread(target=writer.write)
        self._thread.start()
        assert self.held.wait(WAIT_S)
        return self._thread


@pytest.mark.parametrize("passes", [0, 1, 11, 12, 13, 23])
def test_what_changes_meanwhile_is_written_as_it_was(passes: int, tmp_path: Path, monkeypatch: Patch) -> None:
    state, digest = state_of(1)
    path = tmp_path / "00000004.safetensors"
    writer, gate = SnapshotWriter(path, state, 4, digest), Gate(monkeypatch, passes)
    writing = gate.write(writer)
    changing = threading.Thread(target=lambda: (writer.copy_out(), state.theta.zero_(), state.momentum.zero_()))
    changing.start()
    # It writes the rest itself, and the chunk that is just being written is waited for: until then nothing may change.
    assert passes == 23 or gate.rest_written.wait(WAIT_S)
    assert changing.is_alive() and bool(state.theta.any())
    gate.open.set()
    changing.join(WAIT_S), writing.join(WAIT_S)
    writer.publish()
    assert not state.theta.any()
    assert read_snapshot(path, ELEMENTS, 4).digest == digest
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_same_file_as_at_once(tmp_path: Path) -> None:
    state, digest = state_of(2)
    for name in ("a", "b"):
        write_snapshot(tmp_path / name, state, 4, digest)
    writer = SnapshotWriter(tmp_path / "c", state, 4, digest)
    writer.copy_out()  # before the other thread has begun
    assert writer.write()
    assert not (tmp_path / "c").exists()
    writer.publish()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def failing(monkeypatch: Patch, after: int) -> None:
    real, left = os.pwrite, [after]

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)


@pytest.mark.parametrize("copies_first", [True, False])
def test_a_disk_that_fills_costs_the_snapshot_alone(copies_first: bool, tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "00000004.safetensors"
    old, old_digest = state_of(1)
    write_snapshot(path, old, 4, old_digest)
    state, digest = state_of(2)
    failing(monkeypatch, 7)
    writer = SnapshotWriter(path, state, 4, digest)
    if copies_first:
        writer.copy_out()  # says nothing: training goes on
    with pytest.raises(StorageFull, match="No space left"):
        writer.write()
    writer.discard()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert read_snapshot(path, ELEMENTS, 4).digest == old_digest
    with pytest.raises(StorageFull):
        failing(monkeypatch, 0)
        SnapshotWriter(path, state, 4, digest)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_is_given_up_ends_soon_and_leaves_nothing(tmp_path: Path, monkeypatch: Patch) -> None:
    state, digest = state_of(1)
    writer, gate = SnapshotWriter(tmp_path / "it", state, 4, digest), Gate(monkeypatch, 3)
    writing = gate.write(writer)
    writer.give_up()
    gate.open.set()
    writing.join(WAIT_S)
    assert not writing.is_alive()
    assert writer.write() is False
    writer.copy_out()  # too late for anybody, and harmless
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_given_is_told(tmp_path: Path, monkeypatch: Patch) -> None:
    state, digest = state_of(1)
    writer = SnapshotWriter(tmp_path / "it", state, 4, digest)
    assert writer.write()

    def broken(_old: Path, _new: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        writer.publish()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_became_read_only_is_told_as_such(tmp_path: Path, monkeypatch: Patch) -> None:
    state, digest = state_of(1)
    writer = SnapshotWriter(tmp_path / "it", state, 4, digest)

    def refuses(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch, pytest.raises(StorageReadOnly, match=r"it: Read-only file system"):
        patch.setattr(os, "unlink", refuses)
        writer.discard()
    writer.discard()  # once more, when it may be written to again
    assert list(tmp_path.iterdir()) == []


def test_an_export_and_a_first_state_are_synced_on_the_way(tmp_path: Path, monkeypatch: Patch) -> None:
    """Else all of it is dirty at the end, and on ext4 the sync of a vote may have to wait for it."""
    synced: list[int] = []

    def fdatasync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for module in (export_files, state_file):
        monkeypatch.setattr(module, "SYNC_BYTES", 3000)
    write_directory(tmp_path / "out", {"a": [bytes(1000)] * 10, "b": [bytes(100)]})
    assert synced == [3000, 6000, 9000]
    synced.clear()
    state = StateFile(tmp_path / "state", 2500)
    for _ in range(10):
        state.add(memoryview(bytes(1000)))
    header = len(header_bytes(2500, 0, bytes(32)))
    assert synced == [header + 3000, header + 6000, header + 9000]
    state.finish()


GROWTH = """
import resource, sys, threading
from pathlib import Path
import torch
from intellectd.daemon.store.snapshot import State
from intellectd.daemon.store.snapshot_writer import SnapshotWriter

state = State(torch.ones(2**26), torch.ones(2**26))  # 512 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
writer = SnapshotWriter(Path(sys.argv[1]), state, 4, bytes(32))
writing = threading.Thread(target=writer.write)
writing.start()
writer.copy_out()  # at once: the worst case
state.theta.add_(1)
writing.join()
writer.publish()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_it_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    grown_mib = int(subprocess.check_output([sys.executable, "-c", GROWTH, str(tmp_path / "it")]))
    assert grown_mib < 64


# ---- how many there are


@pytest.mark.parametrize(
    ("retention", "log_length", "kept"),
    [
        (KEEP_FEW, 13, [8, 12]),
        (Retention(count=3), 13, [4, 8, 12]),
        (Retention(count=9), 13, [0, 4, 8, 12]),
        (Retention(count=9, bytes_max=250), 13, [8, 12]),
        (Retention(count=9, bytes_max=100), 13, [8, 12]),  # the log does not prove round 12 yet
        (Retention(count=9, bytes_max=100), 14, [12]),
        (Retention(count=9, bytes_max=1), 14, [12]),
        (Retention(count=9, bytes_max=399), 14, [4, 8, 12]),
        (Retention(count=9, bytes_max=400), 14, [0, 4, 8, 12]),
    ],
)
def test_states_are_kept_by_number_and_bytes(retention: Retention, log_length: int, kept: list[int]) -> None:
    assert retention.kept([0, 4, 8, 12], 100, log_length) == kept


def test_the_first_parameters_are_proven_by_the_manifest() -> None:
    assert Retention(2, bytes_max=1).kept([0], 100, 0) == [0]
    assert Retention(2, bytes_max=1).kept([], 0, 0) == []


def test_a_log_of_half_the_states_size_makes_a_snapshot() -> None:
    assert {codec: snapshot_rounds(codec) for codec in ("int8", "bf16", "fp32")} == {"int8": 4, "bf16": 2, "fp32": 1}
    assert all(snapshot_rounds(codec) <= SNAPSHOT_ROUNDS for codec in ("int4", "e3m0", "topk"))
    assert disk_bytes(1024, "fp32", False, kept=5) == 6 * 8192 + 5 * 4096
