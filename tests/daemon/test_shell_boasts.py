"""A member that claims what it never shows: anybody who knows the run's id may."""

import itertools

import msgspec
import trio
from trio.testing import MockClock

from intellectd.daemon.identity import Key
from intellectd.daemon.memory_net import MemoryNetwork
from intellectd.daemon.runs.service import RunService
from intellectd.protocol import events as ev
from intellectd.protocol.messages import Lineage, seal
from tests.daemon.shell_world import shell
from tests.daemon.test_shell_swarm import swarm


async def boast(service: RunService, key: Key, like: str, other: dict[str, object]) -> None:
    """Each few seconds, of more rounds each time."""
    for count in itertools.count(1):
        beacon = service.node.membership.beacon(like)
        assert beacon is not None
        more = {"sequence": count, "head_round": 900 + count, **other}
        data = seal(service.run, key.peer_id, msgspec.structs.replace(beacon, **more), Signer(key, service.secret))
        service.post(ev.MessageReceived(key.peer_id, data))
        await trio.sleep(4.0)


class Signer:
    def __init__(self, key: Key, secret: bytes) -> None:
        self.sign, self.secret = key.sign, secret

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool:
        raise NotImplementedError("it only speaks")


async def test_who_boasts_keeps_nobody_from_being_synced(autojump_clock: MockClock) -> None:
    async with shell() as world:
        _, (a, b) = await swarm(world, "ab", rounds=3)
        await b.wait("finished")
        service = world.service(a)
        world.nursery.start_soon(boast, service, Key.from_seed(b"1" * 32), b.peer, {})
        elsewhere = {"generation": b"g" * 32, "lineage": Lineage(1, 1, 2**50, True, True)}
        world.nursery.start_soon(boast, service, Key.from_seed(b"2" * 32), b.peer, elsewhere)
        await trio.sleep(30.0)
        assert len(service.node.membership.alive_beacons(trio.current_time())) == 3
        await a.wait("synced")


async def test_who_was_only_announced_is_no_member(autojump_clock: MockClock) -> None:
    """It is spoken to, as it may be one; when a host has too many connections, it is not."""
    async with shell() as world:
        _, (a, b) = await swarm(world, "ab", rounds=3)
        await a.wait("round=1")
        made_up, service = Key.from_seed(b"3" * 32).peer_id, world.service(a)
        service.post(ev.PeerLearned(made_up, (f"/ip4/10.0.0.1/tcp/4001/p2p/{made_up}",)))
        await trio.sleep(30.0)
        assert a.registry is not None
        network = a.registry.host.network
        assert isinstance(network, MemoryNetwork) and network._rpc.speaks_to(made_up)
        assert network._is_wanted(b.peer) and not network._is_wanted(made_up)
