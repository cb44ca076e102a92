"""Who does not know the run's id is told nothing of the run, and can say nothing in it. SPEC I6, W1, W10."""

from contextlib import AsyncExitStack
from functools import partial

import trio
from trio.testing import MockClock

from intellectd.daemon.identity import Key
from intellectd.daemon.memory_net import open_memory_network
from intellectd.daemon.net import Network
from intellectd.daemon.runs.journal import WARNINGS_KEPT
from intellectd.daemon.runs.service import RunService
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.ids import encode
from intellectd.protocol.manifest import decode_signed, manifest_hash
from intellectd.protocol.messages import (
    Beacon,
    EntriesAnswer,
    EntriesRequest,
    MembersAnswer,
    RunRequest,
    call_proof,
    decode,
    open_envelope,
    open_message,
    seal,
)
from tests.daemon.net_world import eventually
from tests.daemon.shell_world import Shell, shell
from tests.daemon.test_shell_boasts import Signer
from tests.daemon.test_shell_donors import faults
from tests.daemon.test_shell_swarm import swarm

SEED = b"s" * 32


async def stranger(
    world: Shell, stack: AsyncExitStack, service: RunService, seed: bytes = SEED
) -> tuple[Network, list[bytes]]:
    """It has seen the run's key in the hash table, stands there itself, and keeps all that it is sent."""
    heard: list[bytes] = []
    opening = open_memory_network(world.net, seed, ["/ip4/127.0.0.1/tcp/0"], [], service.host.network.addresses())
    network: Network = await stack.enter_async_context(opening)
    network.on_post(lambda _peer, body: heard.append(body))
    await network.dial(service.host.network.addresses()[0], 5.0)
    await network.announce(service.discovery_key)
    return network, heard


async def told(network: Network, service: RunService, proof: bytes) -> tuple[bytes, list[bytes], int]:
    """The manifest, beacons and how many records it is given for that proof."""
    member, ask = service.host.identity.peer_id, encode(RunRequest(service.run, proof))
    entries = encode(EntriesRequest(service.run, proof, service.node.head.generation, 0))
    manifest = await network.call(member, "manifest", ask, 5.0)
    members = decode(await network.call(member, "members", ask, 5.0), MembersAnswer).beacons
    records = decode(await network.call(member, "entries", entries, 5.0), EntriesAnswer).entries
    return manifest, members, len(records)


async def test_what_goes_to_strangers_does_not_admit(autojump_clock: MockClock) -> None:
    """Also before the opening, when the newest thing that there is is the manifest."""
    async with shell() as world, AsyncExitStack() as stack:
        first = await world.host("a")
        run_id = await first.init(2, 3)
        service = world.service(first)
        network, heard = await stranger(world, stack, service)
        await eventually(lambda: len(heard) > 0)
        secret = run_ids.parse(run_id)
        assert service.node.head.hash.startswith(secret)
        late = await world.host("b", first)
        await late.ask("join", run_id=run_id, peers=[first.address])
        await first.wait("finished")
        assert all(secret not in body and service.secret not in body for body in heard)
        beacons = [open_message(open_envelope(body), service.node.context.crypto) for body in heard]
        assert {type(beacon) for beacon in beacons} == {Beacon}
        assert {beacon.head for beacon in beacons if isinstance(beacon, Beacon) and beacon.head_round < 0} == {
            bytes(32)
        }
        assert network.peer_id not in service.node.membership.alive_beacons(trio.current_time())


async def test_questions_are_answered_to_those_who_know_the_id(autojump_clock: MockClock) -> None:
    async with shell() as world, AsyncExitStack() as stack:
        run_id, hosts = await swarm(world, "ab", rounds=3)
        await hosts[0].wait("finished")
        service, other = (world.service(host) for host in hosts)
        network, _heard = await stranger(world, stack, service)
        me, member = network.peer_id, hosts[0].peer
        for proof in (
            bytes(32),
            call_proof(service.run, me, member),
            call_proof(service.secret, hosts[1].peer, member),  # overheard, or told by one that was asked
            call_proof(service.secret, me, hosts[1].peer),
            call_proof(service.secret, member, me),
        ):
            assert await told(network, service, proof) == (b"", [], 0)
        manifest, members, records = await told(network, service, call_proof(service.secret, me, member))
        assert run_ids.from_manifest_hash(manifest_hash(decode_signed(manifest).manifest)) == run_id
        assert len(members) >= 1 and records == 4
        assert other.node.head.hash == service.node.head.hash


def is_known(service: RunService, peer: str) -> bool:
    return service.node.membership.beacon(peer) is not None


def is_judged(service: RunService, peer: str) -> bool:
    return is_known(service, peer) or service.host.banned(peer)


async def test_who_does_not_know_the_id_is_no_member_whatever_it_signs(autojump_clock: MockClock) -> None:
    async with shell() as world, AsyncExitStack() as stack:
        _run_id, hosts = await swarm(world, "ab", rounds=20)
        await hosts[0].wait("round=2")
        service = world.service(hosts[0])
        for seed, secret, admitted in ((SEED, service.run, False), (b"t" * 32, service.secret, True)):
            network, heard = await stranger(world, stack, service, seed)
            await eventually(lambda heard=heard: len(heard) > 0)  # type: ignore[misc]
            beacon = open_message(open_envelope(heard[0]), service.node.context.crypto)
            network.post(hosts[0].peer, seal(service.run, network.peer_id, beacon, Signer(Key.from_seed(seed), secret)))
            await eventually(partial(is_judged, service, network.peer_id))
            assert is_known(service, network.peer_id) is admitted
        await hosts[0].wait("finished")


async def test_strangers_do_not_crowd_out_what_this_host_has_to_say(autojump_clock: MockClock) -> None:
    """They are kept away and counted, and `status` keeps the newest few warnings."""
    async with shell() as world, AsyncExitStack() as stack:
        _run_id, hosts = await swarm(world, "ab", rounds=3)
        await hosts[0].wait("finished")
        service, seeds = world.service(hosts[0]), [bytes([number]) * 32 for number in range(WARNINGS_KEPT)]
        beacon = open_message(open_envelope(service.node.membership.own_envelope), service.node.context.crypto)
        service.journal.warn("the disk is slow")
        for seed in seeds:
            network, _heard = await stranger(world, stack, service, seed)
            false = seal(service.run, network.peer_id, beacon, Signer(Key.from_seed(seed), service.run))
            network.post(hosts[0].peer, false)
            await hosts[0].until(lambda _run, peer=network.peer_id: service.host.banned(peer))  # type: ignore[misc]
        assert (await hosts[0].status())["warnings"] == ["the disk is slow"]
        assert await faults(hosts[0], "envelope") == len(seeds)
