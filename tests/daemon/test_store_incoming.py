"""A state on its way here: what was proven before a crash counts after it, and nothing else does."""

import itertools
import os
from pathlib import Path

import pytest
import torch

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.store import incoming
from intellectd.daemon.store.incoming import SYNC_PIECES, SYNC_S, Incoming, state_borders
from intellectd.daemon.store.snapshot import bytes_of, read_snapshot
from intellectd.kernels.digest import LEAF_BYTES, leaf_hash, state_digest, state_leaves

ELEMENTS = LEAF_BYTES // 4 * 2 + 1000  # three pieces of each vector
THETA = torch.arange(ELEMENTS, dtype=torch.float32)
MOMENTUM = -THETA
DIGEST = state_digest(THETA, MOMENTUM)
DATA = bytes(bytes_of(THETA)) + bytes(bytes_of(MOMENTUM))
BORDERS = state_borders(ELEMENTS)


def opened(folder: Path, digest: bytes = DIGEST) -> Incoming:
    return Incoming(folder / "incoming", ELEMENTS, 8, digest)


def put(state: Incoming, *pieces: int) -> None:
    for piece in pieces:
        state.data[BORDERS[piece] : BORDERS[piece + 1]] = DATA[BORDERS[piece] : BORDERS[piece + 1]]
        state.prove(piece)


def test_the_pieces_are_the_leaves_of_the_digest() -> None:
    pieces = [DATA[a:b] for a, b in itertools.pairwise(BORDERS)]
    assert [leaf_hash(piece) for piece in pieces] == state_leaves(THETA, MOMENTUM)
    assert state_borders(1) == (0, 4, 8)


def test_what_was_proven_and_synced_counts_after_a_restart(tmp_path: Path) -> None:
    state = opened(tmp_path)
    assert state.proven == ()
    put(state, 0, 4)
    state.sync()
    put(state, 5)  # and then the process is killed
    again = opened(tmp_path)
    assert again.proven == (0, 4)
    assert again.data[BORDERS[4] : BORDERS[5]] == DATA[BORDERS[4] : BORDERS[5]]


def test_it_is_synced_now_and_then_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "SYNC_PIECES", 2)
    state = opened(tmp_path)
    put(state, 0, 1, 2)
    assert opened(tmp_path).proven == (0, 1)
    assert SYNC_PIECES > 2


def test_where_pieces_come_slowly_time_has_it_synced(tmp_path: Path) -> None:
    now = [0.0]
    state = Incoming(tmp_path / "incoming", ELEMENTS, 8, DIGEST, lambda: now[0])
    put(state, 0)
    now[0] = SYNC_S
    put(state, 1)
    put(state, 2)
    assert opened(tmp_path).proven == (0, 1)


def test_a_whole_one_becomes_a_snapshot(tmp_path: Path) -> None:
    state = opened(tmp_path)
    put(state, *range(6))
    state.become(tmp_path / "00000008.safetensors")
    found = read_snapshot(tmp_path / "00000008.safetensors", ELEMENTS, 8)
    assert found.digest == DIGEST and torch.equal(found.state.theta, THETA)
    assert os.listdir(tmp_path / "incoming") == []


def test_words_about_a_state_that_is_gone_are_not_said_of_the_next(tmp_path: Path) -> None:
    """A crash in the midst of `become`."""
    state = opened(tmp_path)
    put(state, *range(6))
    state.sync()
    (file,) = (tmp_path / "incoming").glob("*.state")
    file.rename(tmp_path / "00000008.safetensors")
    assert opened(tmp_path).proven == ()
    assert opened(tmp_path).proven == ()


def test_what_is_missing_is_not_made_up(tmp_path: Path) -> None:
    state = opened(tmp_path)
    put(state, *range(5))
    with pytest.raises(AssertionError, match="missing"):
        state.become(tmp_path / "00000008.safetensors")


def test_what_is_doubted_is_fetched_again_after_a_restart_too(tmp_path: Path) -> None:
    state = opened(tmp_path)
    put(state, *range(6))
    state.doubt([2, 3])
    assert state.proven == opened(tmp_path).proven == (0, 1, 4, 5)


def test_another_state_takes_its_place(tmp_path: Path) -> None:
    state = opened(tmp_path)
    put(state, 0)
    state.sync()
    assert opened(tmp_path, b"\1" * 32).proven == ()
    assert {name[9:25] for name in os.listdir(tmp_path / "incoming")} == {"01" * 8}
    assert opened(tmp_path).proven == ()


@pytest.mark.parametrize("damage", [b"", b"x", b"\2", None])
def test_words_that_were_damaged_prove_nothing(tmp_path: Path, damage: bytes | None) -> None:
    state = opened(tmp_path)
    put(state, *range(6))
    state.sync()
    (proven,) = (tmp_path / "incoming").glob("*.proven")
    raw = proven.read_bytes()
    proven.write_bytes(raw[:-1] + damage if damage is not None else bytes(len(raw)))
    assert opened(tmp_path).proven == ()


def test_a_state_of_another_size_proves_nothing(tmp_path: Path) -> None:
    state = opened(tmp_path)
    put(state, 0)
    state.sync()
    (file,) = (tmp_path / "incoming").glob("*.state")
    with file.open("ab") as grown:
        grown.write(b"!")
    again = opened(tmp_path)
    assert again.proven == () and len(again.data) == len(DATA)


def test_what_came_before_the_disk_was_full_and_what_comes_after_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room, and that of the words about it, was taken before anything came."""
    state = opened(tmp_path)
    real = os.open

    def full(path: str | Path, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", full)
    put(state, 1, 2)
    state.sync()
    state.doubt([2])
    monkeypatch.undo()
    assert opened(tmp_path).proven == (1,)


def test_a_full_disk_is_told_before_anything_is_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left"):
        opened(tmp_path)
    assert os.listdir(tmp_path / "incoming") == []


def test_what_there_is_of_a_state_is_told_without_opening_it(tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    assert Incoming.begun_in(folder) is None
    state = opened(tmp_path)
    assert Incoming.begun_in(folder) == (8, DIGEST, 0)
    put(state, 0, 1, 3)
    state.sync()
    assert Incoming.begun_in(folder) == (8, DIGEST, 3 * LEAF_BYTES)
    for damaged in (b"", b"\xff" * 100):
        next(folder.glob("*.proven")).write_bytes(damaged)
        assert Incoming.begun_in(folder) is None
