"""Ninety rounds of one daemon: what it holds open, maps, keeps in memory and leaves on disk stays what it was."""

import gc
import os
from pathlib import Path

import trio.testing

from intellectd.daemon.store.budget import SNAPSHOT_ROUNDS, SNAPSHOTS_KEPT
from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import Host, Shell, shell
from tests.daemon.test_shell_swarm import finish_alike

ROUNDS = 90
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RSS_GROWTH_BYTES_MAX = 2 * 1024 * 1024  # of 60 rounds; one leaked update each would be 3.5 MiB, a state 28


def held(world: Shell, host: Host) -> tuple[int, int, int]:
    """(open files, mapped files of the host, resident bytes)."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count(str(host.state))
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    return len(os.listdir("/proc/self/fd")), maps, resident


async def test_nothing_grows_with_the_rounds(autojump_clock: trio.testing.MockClock) -> None:
    async with shell() as world:
        host = await world.host("a", trainer=FakeTrainer("a", round_s=0.5))
        run_id = await host.init(1, ROUNDS)
        await host.wait("round=30")
        files, maps, resident = held(world, host)
        await finish_alike([host], ROUNDS)
        files_after, maps_after, resident_after = held(world, host)
        assert files_after <= files
        assert maps_after <= maps <= 2
        assert resident_after - resident < RSS_GROWTH_BYTES_MAX
        folder = host.state / "runs" / run_id
        assert len(list((folder / "snapshots").iterdir())) == SNAPSHOTS_KEPT
        assert len(list((folder / "updates").iterdir())) <= 2 * SNAPSHOT_ROUNDS
        assert (folder / "log" / "votes").stat().st_size < 512 * 1024
        service = world.service(host)
        assert service.performer._transfers._incoming == {}
        assert len(service.store.updates._came_at) <= 2 * SNAPSHOT_ROUNDS
