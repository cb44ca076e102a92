"""Snapshots in whole daemons: written while rounds go on, of the state as it was, and of no line that was left."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import trio
import trio.testing

from intellectd.daemon.metrics import Metrics
from intellectd.daemon.runs.compute import Compute, Work
from intellectd.daemon.runs.examine import examine, manifest_of
from intellectd.daemon.runs.examine_states import CONTRADICTED, check_state, states_of
from intellectd.daemon.runs.journal import Journal
from intellectd.daemon.runs.outer_state import OuterState
from intellectd.daemon.runs.snapshots import Snapshots
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.store.snapshot import State
from intellectd.daemon.store.snapshot_writer import SnapshotWriter
from intellectd.kernels.digest import state_digest
from intellectd.kernels.layout import Layout, TensorSpec
from tests.daemon.ram import ram_path
from tests.daemon.shell_made import copy_run
from tests.daemon.shell_world import Host, shell
from tests.daemon.test_shell_swarm import swarm

__all__ = ["ram_path"]

Clock = trio.testing.MockClock
WAIT_S = 20.0
SLOW_S = 25.0  # two rounds and a half


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Writing in the background begins late: outer steps find the state not written yet. The times of those."""
    found: list[float] = []
    aside, copy_out = Compute.aside, SnapshotWriter.copy_out

    async def later(self: Compute, work: Work) -> Any:
        if getattr(work, "__func__", None) is SnapshotWriter.write:
            await trio.sleep(SLOW_S)
        return await aside(self, work)

    def seen(self: SnapshotWriter) -> None:
        if self._next < 2 * self._per_vector:
            found.append(trio.current_time())
        copy_out(self)

    monkeypatch.setattr(Compute, "aside", later)
    monkeypatch.setattr(SnapshotWriter, "copy_out", seen)
    return found


def folder_of(host: Host, run_id: str) -> Path:
    return host.state / "runs" / run_id


def checked(folder: Path) -> list[int]:
    """Rounds of the states there, each of which has the digest that the log proves."""
    manifest = manifest_of(folder)
    found = states_of(folder, manifest, examine(folder))
    for state in found:
        check_state(state, manifest)
        assert state.standing != CONTRADICTED
    return [state.round for state in found]


async def test_rounds_go_on_while_a_state_is_written(autojump_clock: Clock, slow_disk: list[float]) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=14)
        await host.wait("round=4")
        began = trio.current_time()
        await host.wait("round=6")
        assert trio.current_time() - began < SLOW_S
        folder = folder_of(host, run_id)
        assert checked(folder) == [0]  # not whole yet
        await host.wait("finished")
        await host.until(lambda _run: (folder / "snapshots" / "00000012.safetensors").is_file())
        assert checked(folder) == [8, 12]
        assert len(slow_disk) >= 2  # outer steps that had to write first
        assert not any("no snapshot" in warning for warning in (await host.status())["warnings"])
        assert list((folder / "snapshots").glob(".*")) == []


async def test_a_daemon_that_dies_in_the_middle_starts_from_the_one_before(
    autojump_clock: Clock, slow_disk: list[float]
) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=12)
        await host.wait("round=9")
        folder = folder_of(host, run_id)
        assert checked(folder) == [0, 4]
        assert len(list((folder / "snapshots").glob(".*"))) == 1
        await host.kill()
        await host.start()
        assert (await host.wait("round=9"))["tokens_total"] >= 9 * 1000
        await host.wait("finished")
        await host.until(lambda _run: checked(folder) == [8, 12])
        assert list((folder / "snapshots").glob(".*")) == []


async def test_one_that_comes_while_another_is_written_is_left_out_and_told(
    autojump_clock: Clock, slow_disk: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.daemon.test_shell_snapshots.SLOW_S", 60.0)
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=14)
        status = await host.wait("round=9")
        assert any("no snapshot of round 8: the one before is still being written" in w for w in status["warnings"])
        await host.wait("finished")
        await host.until(lambda _run: (folder_of(host, run_id) / "snapshots" / "00000012.safetensors").is_file())
        assert checked(folder_of(host, run_id)) == [4, 12]


async def test_as_many_are_kept_as_this_host_is_told(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from intellectd.daemon.config import SnapshotsConfig

    real = Host.config.fget
    assert real is not None
    monkeypatch.setattr(Host, "config", property(lambda self: replace(real(self), snapshots=SnapshotsConfig(keep=3))))
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=18)
        await host.wait("finished")
        await host.until(lambda _run: checked(folder_of(host, run_id)) == [8, 12, 16])
        await host.kill()
        await host.start()
        assert checked(folder_of(host, run_id)) == [8, 12, 16]


@pytest.fixture
def made(ram_path: Path) -> Path:
    copy_run(ram_path / "made")
    (made,) = (ram_path / "made" / "runs").iterdir()
    return made


async def test_what_is_remembered_of_rounds_is_bounded_by_their_members(
    made: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """Thousands of rounds of a thousand members are hundreds of megabytes."""
    monkeypatch.setattr("intellectd.daemon.runs.journal.MEMBERS_KEPT", 3)  # there is one in each round
    store, journal = RunStore(made), Journal("r", Metrics(), "int8")
    journal.restore(store.entries()[:-2])
    assert list(journal.rounds) == [6, 7, 8]
    journal.left(7, None)
    for entry in store.entries()[8:]:
        journal.decided(entry)
    assert list(journal.rounds) == [8, 9, 10]
    monkeypatch.setattr("intellectd.daemon.runs.journal.MEMBERS_KEPT", 0)
    journal.restore(store.entries())
    assert list(journal.rounds) == [10]  # the newest in any case
    store.close()


@pytest.mark.parametrize("decided", [0, 1, 4])
async def test_a_replay_over_two_states_says_nothing_of_the_disk(
    made: Path, decided: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """Rounds that were decided long ago pass faster than any disk writes; it is slow if as many were decided meanwhile
    as lie between two states."""
    store, journal = RunStore(made), Journal("r", Metrics(), "int8")
    snapshots = Snapshots(store, OuterState(Layout([TensorSpec("w", (700,))])), Compute(), journal)
    length = store.length
    async with trio.open_nursery() as nursery:
        snapshots.start(4, bytes(32), nursery, lambda _event: None, lambda: True)  # its turn does not come
        monkeypatch.setattr(RunStore, "length", property(lambda _self: length + decided))
        snapshots.start(8, bytes(32), nursery, lambda _event: None, lambda: True)
    assert len(journal.warnings()) == (1 if decided == 4 else 0)
    store.close()


async def test_what_is_given_up_while_a_step_writes_a_chunk_of_it_does_not_hold_the_event_loop(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends as a snapshot begins; whoever lets go of it waits for the chunk, and nobody else does."""
    store, compute = RunStore(made), Compute()
    snapshots = Snapshots(
        store, OuterState(Layout([TensorSpec("w", (700,))])), compute, Journal("r", Metrics(), "int8")
    )
    state = State(torch.ones(768), torch.zeros(768))
    writer = store.begin_snapshot(state, 8, state_digest(state.theta, state.momentum), 0)
    held, opened, in_time = threading.Event(), threading.Event(), list[bool]()
    real = os.pwrite

    def gate(descriptor: int, data: memoryview, offset: int) -> int:
        held.set()
        in_time.append(opened.wait(WAIT_S))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", gate)
    step = threading.Thread(target=writer.copy_out)
    step.start()
    assert await trio.to_thread.run_sync(held.wait, WAIT_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(snapshots._finish, writer, 8, lambda _event: None, lambda: True)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()  # the loop goes round
            assert step.is_alive() and not in_time
            opened.set()
    step.join(WAIT_S)
    assert all(in_time), "the chunk had to wait for the loop"
    assert not list((made / "snapshots").glob(".*"))
    store.close()
