"""Whole daemons that come back after a short and after a long absence: by updates, and by a state. SPEC K12, K13."""

import pytest
import trio.testing

from intellectd.daemon.store.budget import Retention
from tests.daemon.shell_world import shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

Clock = trio.testing.MockClock


@pytest.mark.parametrize(("until", "by_state"), [(8, False), (20, True)])
async def test_who_was_away_takes_the_shorter_way(until: int, by_state: bool, autojump_clock: Clock) -> None:
    async with shell() as world:
        _, hosts = await swarm(world, "abc", until + 5)
        away, others = hosts[2], hosts[:2]
        for host in others:
            world.service(host).store.retention = Retention(count=16)  # the updates are there in any case
        await away.wait("round=5")
        await away.end()
        await others[0].wait(f"round={until}")
        given: list[str] = []

        def note(reader: str, name: str, data: bytes) -> bytes:
            given.append(name.split("/", maxsplit=1)[0] if reader == away.peer else "")
            return data

        for host in others:
            world.bulk.tamper[host.peer] = note
        await away.start()
        await away.wait("synced")
        assert all(world.service(host).store.updates_from(until) == 1 for host in others)
        assert ("snapshot" in given) is by_state and "update" in given, given
        await finish_alike(hosts, until + 5)
