"""Whole daemons and their disks: cut off between two writes, full, damaged, and what is left behind."""

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from intellectd.daemon.atomic import StorageError, StorageFull
from intellectd.daemon.errors import EXIT_PERMISSION
from intellectd.daemon.runs.perform import Performer
from intellectd.daemon.store import frame_file, snapshot, snapshot_writer
from intellectd.daemon.store.run_store import snapshots_in
from intellectd.daemon.store.updates import Updates
from intellectd.protocol import effects as ef
from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import Host, Shell, digest_of, shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

Clock = trio.testing.MockClock
Patch = pytest.MonkeyPatch


async def one_host(world: Shell, rounds: int = 20) -> tuple[str, Host]:
    host = await world.host("a")
    return await host.init(1, rounds), host


class PowerCut(BaseException):
    """The daemon is gone between two effects."""


def cut_at(monkeypatch: Patch, when: Callable[[ef.Effect], bool]) -> None:
    """Die instead of performing the first effect that `when` picks."""
    original = Performer.__call__
    done: list[bool] = []

    async def cut(self: Performer, effect: ef.Effect) -> None:
        if not done and when(effect):
            done.append(True)
            raise PowerCut
        await original(self, effect)

    monkeypatch.setattr(Performer, "__call__", cut)


def picks(kind: type, **fields: Any) -> Callable[[ef.Effect], bool]:
    return lambda effect: isinstance(effect, kind) and all(getattr(effect, k) == v for k, v in fields.items())


CUTS = {
    "before a vote": lambda effect: isinstance(effect, ef.PersistVote) and effect.at.round == 3,
    "before the record": lambda effect: isinstance(effect, ef.AppendEntry) and effect.entry.record.round == 3,
    "between record and outer step": picks(ef.ApplyUpdate, round=3),
    "before the next training": picks(ef.StartTraining, round=4),
}


@pytest.mark.parametrize("place", CUTS)
async def test_a_power_cut_between_two_effects_loses_nothing(
    place: str, autojump_clock: Clock, monkeypatch: Patch
) -> None:
    async with shell() as world:
        run_id, host = await one_host(world, rounds=6)
        cut_at(monkeypatch, CUTS[place])
        assert isinstance(await host.died(), PowerCut)
        await host.start()
        status = await host.wait("finished")
        assert status["tokens_total"] == 6000
        rounds = (await host.ask("rounds", run_id=run_id))["rounds"]
        assert [seen["round"] for seen in rounds] == [1, 2, 3, 4, 5, 6]


async def test_a_full_disk_stops_snapshots_loudly_and_never_training(
    autojump_clock: Clock, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    async with shell() as world:
        run_id, host = await one_host(world, rounds=14)
        await host.wait("round=4")
        real = os.statvfs

        def full(path: Any) -> Any:
            free = list(real(path))
            free[4] = 10  # f_bavail, in blocks of 4 KiB
            return os.statvfs_result(free)

        monkeypatch.setattr(snapshot.os, "statvfs", full)
        status = await host.wait("round=9")
        assert any("no snapshot of round 8: cannot write a snapshot" in w for w in status["warnings"])
        assert any("are kept for the next rounds" in w and "free some space" in w for w in status["warnings"])
        folder = host.state / "runs" / run_id / "snapshots"
        assert sorted(path.name for path in folder.iterdir()) == ["00000000.safetensors", "00000004.safetensors"]
        monkeypatch.setattr(snapshot.os, "statvfs", real)  # somebody has freed some
        await host.wait("round=12")
        await host.until(lambda run: (folder / "00000012.safetensors").is_file())
        await host.kill()
        await host.start()
        assert (await host.status())["round"] >= 12
        await host.wait("finished")


async def test_a_disk_with_room_for_two_states_and_not_for_three_is_enough(
    autojump_clock: Clock, monkeypatch: Patch
) -> None:
    """Of what is kept the older state gives way to the next one. Else the updates since would fill the disk, round by
    round, and then no round goes on here."""
    monkeypatch.setattr("intellectd.daemon.runs.snapshots.LOG_SPARE_BYTES", 0)  # states are small here
    async with shell() as world:
        run_id, host = await one_host(world, rounds=28)
        folder = host.state / "runs" / run_id
        await host.wait("round=4")
        await host.until(lambda run: (folder / "snapshots" / "00000004.safetensors").is_file())
        sizes = {path.parent.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        room = int(2.5 * sizes["snapshots"]) + 12 * sizes["updates"] + 2 * snapshot.HEADER_BYTES_MAX
        real, real_statvfs = os.posix_fallocate, os.statvfs

        def left() -> int:
            return room - sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

        def statvfs(path: Any) -> Any:
            free = list(real_statvfs(path))
            free[1], free[4] = 1, left()  # f_frsize, f_bavail
            return os.statvfs_result(free)

        def fallocate(descriptor: int, offset: int, length: int) -> None:
            if length > left():
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor, offset, length)

        monkeypatch.setattr(os, "statvfs", statvfs)
        monkeypatch.setattr(os, "posix_fallocate", fallocate)
        status = await host.wait("finished")
        assert not any("no snapshot" in warning for warning in status["warnings"])
        assert snapshots_in(folder)[-1] >= 24
        await host.end()
        monkeypatch.undo()
        await host.start()
        assert (await host.status())["round"] == 28


async def test_a_joiner_whose_disk_takes_no_snapshot_trains_all_the_same(
    autojump_clock: Clock, monkeypatch: Patch
) -> None:
    async with shell() as world:
        run_id, host = await one_host(world, rounds=9)
        await host.wait("round=5")
        late = await world.host("late", host)
        real = os.statvfs

        def full_there(path: Any) -> Any:
            free = list(real(path))
            free[4] = 10 if Path(path).is_relative_to(late.state) else free[4]  # f_bavail, in blocks of 4 KiB
            return os.statvfs_result(free)

        monkeypatch.setattr(snapshot.os, "statvfs", full_there)
        await late.ask("join", run_id=run_id, peers=[host.address])
        await late.wait("synced")
        warnings = (await late.status())["warnings"]
        assert any("the state is fetched into memory alone" in warning for warning in warnings)
        assert any("no snapshot of round 4" in warning for warning in warnings)
        assert (await late.wait("finished"))["state_digest"] == (await host.wait("finished"))["state_digest"]
        assert late.peer in (await host.status())["roster"]
        assert list((late.state / "runs" / run_id / "snapshots").iterdir()) == []


async def test_a_disk_that_fills_up_while_a_snapshot_is_written_keeps_the_older_one(
    autojump_clock: Clock, monkeypatch: Patch
) -> None:
    async with shell() as world:
        run_id, host = await one_host(world, rounds=9)
        await host.wait("round=5")

        def fails(descriptor: int, data: memoryview, offset: int) -> None:
            os.pwrite(descriptor, data[:1000], offset)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(snapshot_writer, "_write_whole", fails)
        status = await host.wait("finished")
        assert any("No space left on device" in warning for warning in status["warnings"])
        folder = host.state / "runs" / run_id / "snapshots"
        assert sorted(path.name for path in folder.iterdir()) == ["00000000.safetensors", "00000004.safetensors"]


@pytest.mark.parametrize("name", ["records", "votes"])
async def test_a_full_disk_for_log_or_votes_ends_the_daemon_and_loses_nothing(
    name: str, autojump_clock: Clock, monkeypatch: Patch
) -> None:
    async with shell() as world:
        run_id, host = await one_host(world, rounds=6)
        await host.wait("round=2")
        path = host.state / "runs" / run_id / "log" / name
        real = frame_file._write_whole

        def fails(descriptor: int, data: bytes) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
                real(descriptor, data[: len(data) // 2])  # as much as fitted
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor, data)

        monkeypatch.setattr(frame_file, "_write_whole", fails)
        before = path.read_bytes()
        failure = await host.died()
        assert isinstance(failure, StorageFull)
        assert failure.exit_code == EXIT_PERMISSION
        assert str(path) in failure.message and "free some space" in failure.hint
        assert path.read_bytes() == before  # the half frame was taken back
        monkeypatch.setattr(frame_file, "_write_whole", real)
        await host.start()
        status = await host.wait("finished")
        assert status["tokens_total"] == 6000


async def test_a_full_disk_for_a_rounds_result_ends_the_daemon(autojump_clock: Clock, monkeypatch: Patch) -> None:
    """Who cannot keep a result cannot vote for it: the others go on without this host, and it says why it ended."""
    async with shell() as world:
        _, host = await one_host(world, rounds=6)
        await host.wait("round=1")

        def full(descriptor: int, offset: int, length: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        failure = await host.died()
        assert isinstance(failure, StorageFull) and failure.exit_code == EXIT_PERMISSION


@pytest.mark.parametrize(("what", "code"), [("snapshots/0*", errno.EROFS), ("updates/*.bin", errno.EIO)])
async def test_a_disk_that_lets_nothing_be_deleted_ends_the_daemon_with_its_words(
    what: str, code: int, autojump_clock: Clock, monkeypatch: Patch
) -> None:
    """Between two votes a file system becomes read-only: what ends the daemon is the disk's error, which is no bug."""
    async with shell() as world:
        run_id, host = await one_host(world)
        await host.wait("round=5")
        folder, real = host.state / "runs" / run_id, os.unlink

        def refuses(path: Any, **how: Any) -> None:
            if Path(path).is_relative_to(folder) and Path(path).match(what):
                raise OSError(code, os.strerror(code))
            real(path, **how)

        monkeypatch.setattr(os, "unlink", refuses)
        failure = await host.died()
        assert isinstance(failure, StorageError) and failure.exit_code == EXIT_PERMISSION
        assert os.strerror(code) in failure.message and str(folder) in failure.message
        monkeypatch.setattr(os, "unlink", real)
        await host.start()
        await host.wait("finished")


async def test_what_a_snapshot_leaves_on_a_read_only_disk_is_told_and_goes_at_the_next_start(
    autojump_clock: Clock, monkeypatch: Patch
) -> None:
    async with shell() as world:
        run_id, host = await one_host(world)
        await host.wait("round=5")
        folder, real_pwrite, real_unlink = host.state / "runs" / run_id / "snapshots", os.pwrite, os.unlink

        def read_only(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        def unlink(path: Any, **how: Any) -> None:
            return read_only() if Path(path).parent == folder else real_unlink(path, **how)

        def pwrite(descriptor: int, data: Any, offset: int) -> int:
            if offset and Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent == folder:
                read_only()
            return real_pwrite(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "unlink", unlink)
        status = await host.until(lambda run: len(run["warnings"]) >= 2)
        assert any("what was written of a snapshot is not deleted" in text for text in status["warnings"])
        left = list(folder.glob(".*.tmp"))
        monkeypatch.undo()
        await host.kill()
        await host.start()
        assert left and not any(path.exists() for path in left)


async def test_a_joiner_without_room_for_updates_says_so_and_goes_on_when_there_is(
    autojump_clock: Clock, monkeypatch: Patch
) -> None:
    """SPEC K13: several are fetched ahead; that there is no room for these is no reason to end a daemon."""
    async with shell() as world:
        run_id, host = await one_host(world, rounds=14)
        await host.wait("round=6")
        late, real, has_room = await world.host("late", host), Updates.new, list[bool]()

        def new(updates: Updates, name: bytes, length: int) -> mmap.mmap:
            if not has_room and updates.path.is_relative_to(late.state):
                raise StorageFull("No space left on device", "free some")
            return real(updates, name, length)

        monkeypatch.setattr(Updates, "new", new)
        await late.ask("join", run_id=run_id, peers=[host.address])
        whole = "there is no room for it here: No space left on device; free some"  # with what to do, on one line
        await late.until(lambda run: any(text.endswith(whole) for text in run["warnings"]))
        assert (await late.status())["state"] != "halted"
        has_room.append(True)
        await late.wait("synced")
        await finish_alike([host, late], 14)


async def test_a_damaged_or_missing_update_is_fetched_again(autojump_clock: Clock) -> None:
    """It lay on the disk and is not what it was: the peers have it."""
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=6)
        updates = world.service(hosts[1]).store.updates
        ruined: dict[str, bytes] = {}

        def ruin(name: bytes, memory: Any, root: bytes, log_length: int) -> None:
            keep(name, memory, root, log_length)
            path = updates.path_of(root)
            if len(ruined) == 0:
                ruined[path.name] = b"damaged"
                body = bytearray(path.read_bytes())
                body[1000] ^= 1
                path.write_bytes(body)
            elif len(ruined) == 1 and path.name not in ruined:
                ruined[path.name] = b"gone"
                path.unlink()

        keep, updates.keep = updates.keep, ruin  # type: ignore[method-assign]
        status = await hosts[1].until(lambda run: any("cannot be read: [Errno 2]" in w for w in run["warnings"]))
        assert any("was damaged; it is now damaged there, and fetched again" in w for w in status["warnings"])
        await finish_alike(hosts, 6)
        assert len(ruined) == 2
        assert hosts[1].peer in (await hosts[0].status())["roster"]


async def test_a_log_that_is_damaged_while_it_is_used_halts_its_run_and_no_other(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a", trainer=FakeTrainer("a", run="shell"))
        run_id = await host.init()
        trainer = FakeTrainer("other", run="other")
        trainer.serve(world.nursery, host.config.socket)
        other = (await host.ask("init", toml='name = "other"\n[model]\nkind = "external"\n'))["run_id"]
        service = host.services[run_id]
        await host.wait("round=2", run_id)
        path = host.state / "runs" / run_id / "log" / "records"
        body = bytearray(path.read_bytes())
        body[-100] ^= 1
        path.write_bytes(body)
        answer = await host.ask("wait", **{"run_id": run_id, "for": "round=100", "timeout_s": 300})
        assert (answer["reached"], answer["run"]["state"]) == (False, "halted")
        assert str(path) in answer["run"]["reason"] and "restore" in answer["run"]["reason"]
        before = digest_of(host.state / "runs" / run_id)
        seen = (await host.wait("round=2", other))["round"]
        await host.wait(f"round={seen + 3}", other)
        assert digest_of(host.state / "runs" / run_id) == before  # left as it is
        assert service.stuck_s == 0.0  # and the watchdog has no reason to bark
        refused = FakeTrainer("late", run=run_id)
        assert host.trainer is not None
        await host.trainer.end()
        refused.serve(world.nursery, host.config.socket)
        await host.until(lambda run: bool(refused.refused))
        assert refused.refused[0]["code"] == "halted"
        await host.ask("leave", run_id=run_id)  # it can still be left
        assert [run["run_id"] for run in (await host.ask("runs"))["runs"]] == [other]
