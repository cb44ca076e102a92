"""Pieces that several joiners ask for are read from the disk once, within a bound."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import PiecesJob, ServedObject, TransferDone, whole
from intellectd.daemon.store import hot_pieces
from intellectd.daemon.store.hot_pieces import HOT_BYTES_MAX, FileObject, HotPieces
from intellectd.daemon.store.incoming import state_borders
from intellectd.daemon.store.snapshot import State, extent_of
from intellectd.daemon.store.snapshot_writer import write_snapshot
from intellectd.kernels.digest import LEAF_BYTES, state_digest, state_leaves
from tests.daemon.bulk_swarm import STALL_S, Events, transfer_id, trust_all

ELEMENTS = 3 * LEAF_BYTES // 4 + 1000  # of each vector: three leaves and a short one


def snapshot(folder: Path) -> tuple[Path, State]:
    state = State(torch.randn(ELEMENTS), torch.randn(ELEMENTS))
    path = folder / "00000004.safetensors"
    write_snapshot(path, state, 4, state_digest(state.theta, state.momentum))
    return path, state


def served(path: Path, hot: HotPieces) -> FileObject:
    return FileObject(path, *extent_of(path, "state"), hot)


def test_a_file_is_served_as_it_is(tmp_path: Path) -> None:
    path, state = snapshot(tmp_path)
    found = served(path, HotPieces())
    expected = state.theta.numpy().tobytes() + state.momentum.numpy().tobytes()
    assert whole(found) == expected
    for start, stop in ((0, 1), (LEAF_BYTES - 1, LEAF_BYTES + 1), (len(expected) - 5, len(expected))):
        part = found.part(start, stop)
        assert 0 < len(part) <= stop - start and part == expected[start : start + len(part)]


def test_ten_joiners_cost_one_reading_of_the_disk(tmp_path: Path) -> None:
    """Each on its own connection, through real engines, all at once."""
    path, state = snapshot(tmp_path)
    hot, borders = HotPieces(), state_borders(ELEMENTS)
    hashes = tuple(state_leaves(state.theta, state.momentum))
    names = [f"j{number}" for number in range(10)]
    engines = {name: Engine(name, "127.0.0.1:0") for name in ("donor", *names)}
    try:
        trust_all(engines)
        engines["donor"].serve(lambda _peer, _name: served(path, hot))
        waiting = []
        for name in names:
            into, events = bytearray(borders[-1]), Events()
            job = PiecesJob(
                transfer_id(name),
                ("donor",),
                "it",
                memoryview(into),
                borders,
                hashes,
                (),
                lambda _p: None,
                STALL_S,
                60.0,
            )
            engines[name].start_pieces(job, events)
            waiting.append((into, events))
        for into, events in waiting:
            assert isinstance(events.done(), TransferDone)
            assert into == state.theta.numpy().tobytes() + state.momentum.numpy().tobytes()
    finally:
        for engine in engines.values():
            engine.close()
    # Pieces of the cache lie on a grid of their own, beside which the leaves of momentum are shifted.
    assert hot.disk_reads == -(-borders[-1] // LEAF_BYTES)
    assert hot.bytes == borders[-1] <= HOT_BYTES_MAX


def test_it_keeps_no_more_than_its_bound_and_drops_what_was_asked_for_least_lately(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5 * LEAF_BYTES))
    hot = HotPieces(3 * LEAF_BYTES)
    found = FileObject(path, 0, 5 * LEAF_BYTES, hot)

    def ask(*pieces: int) -> int:
        before = hot.disk_reads
        for piece in pieces:
            found.part(piece * LEAF_BYTES, (piece + 1) * LEAF_BYTES)
            assert hot.bytes <= 3 * LEAF_BYTES
        return hot.disk_reads - before

    assert ask(0, 1, 2, 0, 1, 2) == 3
    assert ask(0, 3) == 1
    assert ask(0, 2, 3) == 0
    assert ask(1) == 1


def test_a_file_that_was_replaced_is_not_served_from_what_was_read_of_the_old(tmp_path: Path) -> None:
    path, hot = tmp_path / "file", HotPieces()
    path.write_bytes(b"a" * 100)
    old = FileObject(path, 0, 100, hot)
    assert whole(old) == b"a" * 100
    (tmp_path / "new").write_bytes(b"b" * 100)
    os.replace(tmp_path / "new", path)
    assert whole(FileObject(path, 0, 100, hot)) == b"b" * 100
    assert whole(old) == b"a" * 100


def test_a_disk_that_fails_is_said_to_every_one_that_waits_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hot = tmp_path / "file", HotPieces()
    path.write_bytes(b"a" * 100)
    found = FileObject(path, 0, 200, hot)  # longer than it is
    release, read = threading.Event(), hot_pieces._read

    def slow(descriptor: int, length: int, offset: int) -> bytes:
        assert release.wait(20)
        return read(descriptor, length, offset)

    monkeypatch.setattr(hot_pieces, "_read", slow)

    def ask(_number: int) -> str:
        try:
            return str(found.part(0, 200))
        except OSError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, number) for number in range(4)]
        release.set()
        assert {answer.result(20) for answer in answers} == {"the file is shorter than it was"}
    assert hot.bytes == 0 and not hot._reading
    object_: ServedObject = FileObject(path, 0, 100, hot)
    assert whole(object_) == b"a" * 100
