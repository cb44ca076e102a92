"""Room on a tight disk for a state that is fetched: what is of no more use gives way to it."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from intellectd.daemon.atomic import StorageFull
from intellectd.daemon.runs import snapshots
from intellectd.daemon.runs.compute import Compute
from intellectd.daemon.runs.journal import Journal
from intellectd.daemon.runs.outer_state import OuterState
from intellectd.daemon.runs.snapshots import Snapshots
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.store.snapshot import snapshot_bytes
from tests.daemon.shell_made import ROUNDS, copy_run
from tests.daemon.shell_trainer import LAYOUT

STATE_BYTES = snapshot_bytes(LAYOUT.elements)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Snapshots]:
    """Of a run of ten rounds with states 4 and 8, on a disk with so many bytes left beside what lies there now."""
    copy_run(tmp_path / "state")
    (folder,) = (tmp_path / "state" / "runs").iterdir()
    monkeypatch.setattr(snapshots, "LOG_SPARE_BYTES", 0)  # states are small here
    monkeypatch.setattr(snapshots, "SNAPSHOT_ROUNDS", 0)
    real = os.statvfs

    def used() -> int:
        return sum(path.stat().st_size for path in folder.rglob("*.s*") if path.is_file())

    def made(left: int) -> Snapshots:
        room = used() + left

        def statvfs(path: Any) -> os.statvfs_result:
            facts = list(real(path))
            facts[1], facts[4] = 1, room - used()  # f_frsize, f_bavail
            return os.statvfs_result(facts)

        monkeypatch.setattr(os, "statvfs", statvfs)
        journal = cast(Journal, SimpleNamespace(codec="int8"))
        return Snapshots(RunStore(folder), OuterState(LAYOUT), cast(Compute, None), journal)

    return made


def test_what_came_of_another_state_gives_way(disk: Callable[[int], Snapshots]) -> None:
    """It would be deleted anyhow when that begins to come; before, that was fetched into memory alone."""
    here = disk(STATE_BYTES)
    store = here._store
    before = here.incoming(ROUNDS + 4, bytes(32))
    here.serve(ROUNDS + 4, before)
    here.incoming(ROUNDS + 8, bytes(31) + b"1")
    assert [path.name[:8] for path in store.path.glob("incoming/*.state")] == [f"{ROUNDS + 8:08d}"]
    assert store.arriving is None, "or its room would not be free before the next is served"
    assert store.snapshots() == [4, 8]
    store.close()


def test_an_older_state_gives_way(disk: Callable[[int], Snapshots]) -> None:
    """Who comes back after a while has two that lead nowhere any more; memory for a third it may not have."""
    here = disk(STATE_BYTES // 2)
    store = here._store
    here.incoming(ROUNDS + 4, bytes(32))
    assert store.snapshots() == [8]
    with pytest.raises(StorageFull):
        disk(-1).incoming(ROUNDS + 8, bytes(31) + b"1")
    assert store.snapshots() == [8], "the newest that the log proves stays"
    store.close()
