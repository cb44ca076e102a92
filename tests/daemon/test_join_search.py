"""Whom a host asks that joins: not everybody that it is connected to answers."""

from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from intellectd.daemon.memory_net import open_memory_network
from intellectd.daemon.net import WIRE_VERSION, Network
from intellectd.daemon.p2p.wire import Preamble
from intellectd.daemon.runs.joining import ASKED_AT_ONCE_MAX
from tests.daemon.net_world import eventually
from tests.daemon.shell_world import Host, shell
from tests.daemon.test_shell_swarm import swarm


async def test_frozen_neighbours_do_not_keep_a_host_from_joining(autojump_clock: MockClock) -> None:
    """Suspended laptops, say: connected, as far as anybody knows, and each question of them takes its whole time."""
    async with shell() as world, AsyncExitStack() as stack:
        run_id, hosts = await swarm(world, "a", rounds=7)
        late = await world.host("late")
        network = _network(late)
        for number in range(5):
            opening = open_memory_network(world.net, bytes([number]) * 32, ["/ip4/127.0.0.1/tcp/0"], [], [])
            frozen = await stack.enter_async_context(opening)
            await network.dial(frozen.addresses()[0], 5.0)
            world.net.freeze(frozen.peer_id)
        assert len(network.connected()) == 5
        await late.ask("join", run_id=run_id, peers=[hosts[0].address])
        assert list(late.services) == [run_id]


@pytest.mark.parametrize(("count", "late_by_s"), [(ASKED_AT_ONCE_MAX, 0.0), (1, 0.5)])
async def test_strangers_of_another_version_do_not_end_the_search(
    autojump_clock: MockClock, count: int, late_by_s: float
) -> None:
    """Any node will do to meet the directory through, so they stand beside the run's own, and may answer first."""
    async with shell() as world, AsyncExitStack() as stack:
        run_id, hosts = await swarm(world, "a", rounds=7)
        late = await world.host("late")
        network = _network(late)
        for number in range(count):
            opening = open_memory_network(
                world.net, bytes([number]) * 32, ["/ip4/127.0.0.1/tcp/0"], [], [], preamble=Preamble(WIRE_VERSION + 1)
            )
            foreign = await stack.enter_async_context(opening)
            await network.bootstrap(foreign.addresses())  # type: ignore[attr-defined]
        await eventually(lambda: len(network.connected()) == count)

        async def meet_a_member() -> None:
            await trio.sleep(late_by_s)
            await network.bootstrap([hosts[0].address])  # type: ignore[attr-defined]

        world.nursery.start_soon(meet_a_member)
        if not late_by_s:
            await eventually(lambda: len(network.connected()) == count + 1)
        await late.ask("join", run_id=run_id)
        assert list(late.services) == [run_id]


def _network(host: Host) -> Network:
    assert host.registry is not None
    return host.registry.host.network
