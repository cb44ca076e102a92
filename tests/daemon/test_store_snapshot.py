"""Snapshot files: readable by others, believed by nobody without a check, never half there."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from intellectd.daemon.atomic import StorageFull
from intellectd.daemon.errors import EXIT_CONFIG
from intellectd.daemon.store import snapshot
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.snapshot import State, check_room, part_of, read_snapshot
from intellectd.daemon.store.snapshot_writer import write_snapshot
from intellectd.kernels.digest import state_digest
from tests.daemon.ram import ram_path

__all__ = ["ram_path"]
N = 512


def a_state(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return State(torch.randn(N, generator=generator), torch.randn(N, generator=generator))


def write(path: Path, state: State, round_: int = 7) -> None:
    write_snapshot(path, state, round_, state_digest(state.theta, state.momentum))


@pytest.fixture
def path(ram_path: Path) -> Path:
    path = ram_path / "00000007.safetensors"
    write(path, a_state())
    return path


def test_what_is_written_is_read_by_us_and_by_safetensors(path: Path) -> None:
    state = a_state()
    found = read_snapshot(path, N, 7)
    assert torch.equal(found.state.theta, state.theta) and torch.equal(found.state.momentum, state.momentum)
    assert found.digest == state_digest(state.theta, state.momentum)
    foreign = load_file(path)
    assert torch.equal(foreign["theta"], state.theta) and torch.equal(foreign["momentum"], state.momentum)
    assert bytes(part_of(path, "theta")) == state.theta.numpy().tobytes()
    assert bytes(part_of(path, "momentum")) == state.momentum.numpy().tobytes()
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_changed_byte_anywhere_is_noticed_and_nothing_is_touched(path: Path) -> None:
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(header), *range(header, len(whole), 61), len(whole) - 1]
    for at in places:
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile) as raised:
            read_snapshot(path, N, 7)
        assert raised.value.exit_code == EXIT_CONFIG
        assert str(path) in raised.value.message and "move" in raised.value.hint
        assert path.read_bytes() == damaged


def test_cut_off_or_longer_it_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for body in [*(whole[:cut] for cut in range(0, len(whole), 101)), whole[:-1], whole + b"\0"]:
        path.write_bytes(body)
        with pytest.raises(CorruptFile):
            read_snapshot(path, N, 7)


def test_another_round_or_another_model_is_refused(path: Path) -> None:
    with pytest.raises(CorruptFile, match="after round 8"):
        read_snapshot(path, N, 8)
    with pytest.raises(CorruptFile, match="of 768 elements"):
        read_snapshot(path, 768, 7)


@pytest.mark.parametrize(
    "body",
    [b"", b"\0" * 8, b"\xff" * 8, (4).to_bytes(8, "little") + b"null", (2).to_bytes(8, "little") + b"{}"],
)
def test_serving_a_file_that_is_none_is_an_error_and_no_crash(path: Path, body: bytes) -> None:
    path.write_bytes(body)
    with pytest.raises(CorruptFile):
        part_of(path, "theta")


def test_a_disk_that_fills_up_leaves_the_older_file_and_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshot.os, "fsync", fails)
    with pytest.raises(StorageFull, match="No space left"):
        write(path, a_state(1))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_the_next_rounds_need_is_left_free(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    whole = disk.f_blocks * disk.f_frsize  # not what is free just now: others write and remove meanwhile
    check_room(tmp_path, 1000, 1000)
    with pytest.raises(StorageFull, match="are kept for the next rounds"):
        check_room(tmp_path, 1000, whole)


def test_a_snapshot_is_pages_of_the_file_and_no_copy(path: Path) -> None:
    """Whoever is being served keeps reading the old one while a new one takes its name."""
    old = a_state()
    view = part_of(path, "theta")
    write(path, a_state(1))
    assert bytes(view) == old.theta.numpy().tobytes()
    path.unlink()
    assert bytes(view) == old.theta.numpy().tobytes()
