"""Whom a host asks that joins: not everybody that it is connected to answers."""

from contextlib import AsyncExitStack

from trio.testing import MockClock

from intellectd.daemon.memory_net import open_memory_network
from intellectd.daemon.net import Network
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


def _network(host: Host) -> Network:
    assert host.registry is not None
    return host.registry.host.network
