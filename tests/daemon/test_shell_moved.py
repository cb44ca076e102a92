"""A host that is reached elsewhere from one day on: a lease ended, a laptop went home."""

import pytest
import trio
from trio.testing import MockClock

from intellectd.daemon.bulk import sockets
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.memory_net import MemoryNetwork
from intellectd.daemon.runs.service import FIND_S_MAX
from tests.daemon.shell_world import shell
from tests.daemon.test_shell_swarm import swarm


async def test_who_moves_is_known_there(autojump_clock: MockClock) -> None:
    async with shell() as world:
        _, (a, b) = await swarm(world, "ab", rounds=1, start_peers=3)  # it waits for the third
        assert a.registry is not None
        network = a.registry.host.network
        assert isinstance(network, MemoryNetwork)
        await b.until(lambda status: a.peer in world.service(b).node.membership.peers)
        view = world.service(b).node.membership.peers[a.peer]
        for moved in (f"/ip4/10.0.0.7/tcp/4001/p2p/{a.peer}", f"/ip4/10.0.0.8/tcp/4001/p2p/{a.peer}"):
            network._own_addresses = [moved]
            await b.until(lambda status, moved=moved: view.addresses[0] == moved)  # type: ignore[misc]
        network._own_addresses = [f"/ip4/127.0.0.1/tcp/4001/p2p/{a.peer}"]  # offline for a moment
        await trio.sleep(2 * FIND_S_MAX)
        assert view.addresses[0] == moved


def test_the_bulk_plane_is_where_its_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    here = ["10.0.0.1"]
    monkeypatch.setattr(sockets, "interface_hosts", lambda family: here)
    engine = Engine("12D3KooW", "0.0.0.0:0")
    try:
        before = engine.endpoint
        here[:] = ["10.0.0.2"]
        after = engine.endpoint
        assert before.address.replace("10.0.0.1", "10.0.0.2") == after.address != before.address
        assert before.certificate == after.certificate
    finally:
        engine.close()
