"""Announcing and finding: alone, together, after a change, beside dead addresses and silent peers."""

import pytest
import trio

from intellectd.daemon.net import NetworkError
from intellectd.daemon.p2p import limits, lookup
from intellectd.daemon.p2p.patches import KAD_PROTOCOL
from tests.daemon.net_world import PATIENCE_S, World, connect, dead_address, echo, eventually, patient, world_of

KEY = "/intellectd/0123456789abcdef01234567"


async def test_who_is_alone_finds_nobody_and_is_found_by_who_comes(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        first = await world.open()
        await first.announce(KEY)
        assert await first.find(KEY) == {}
        late = await world.open(bootstrap=first.addresses())
        await eventually(lambda: late.connected() == [first.peer_id])
        assert await late.find(KEY) == {first.peer_id: first.addresses()}


async def test_a_bootstrap_address_may_come_up_later(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        seed = await world.open(seed=b"s" * 32)
        address = seed.addresses()[0]
        await world.close(seed)
        early = await world.open(bootstrap=[address])
        await early.announce(KEY)
        seed = await world.open(seed=b"s" * 32, listen=[address.rsplit("/p2p/")[0]])
        await eventually(lambda: early.connected() == [seed.peer_id])
        await eventually_finds(seed, [early.peer_id])


async def test_bootstrap_addresses_may_be_given_later(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        await there.announce(KEY)
        await here.bootstrap(there.addresses())
        await eventually(lambda: here.connected() == [there.peer_id])
        assert await here.find(KEY) == {there.peer_id: there.addresses()}


async def test_what_was_announced_after_the_first_look_is_found_by_the_second(kind: str, clock: object) -> None:
    """libp2p answers from its cache: who looked once, or announces itself, sees the same for 48 h."""
    async with world_of(kind) as world:
        hosts = [await world.open() for _ in range(4)]
        for host in hosts[1:]:
            await connect(host, hosts[0])
        await hosts[1].announce(KEY)
        await eventually_finds(hosts[2], [hosts[1].peer_id])
        await hosts[2].announce(KEY)
        await hosts[3].announce(KEY)
        await eventually_finds(hosts[2], [hosts[1].peer_id, hosts[3].peer_id])
        await eventually_finds(hosts[0], [host.peer_id for host in hosts[1:]])


async def test_a_withdrawn_key_is_not_served_by_its_host(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        await there.announce(KEY)
        there.withdraw(KEY)
        await connect(here, there)
        assert await here.find(KEY) == {}


async def test_what_is_found_can_be_called(kind: str, clock: object) -> None:
    """The finder was never told an address: the directory's will do."""
    async with world_of(kind) as world:
        seed = await world.open()
        here, there = await world.open(bootstrap=seed.addresses()), await world.open(bootstrap=seed.addresses())
        there.on_call("echo", echo)
        await eventually(lambda: bool(here.connected() and there.connected()))
        await there.announce(KEY)
        await eventually_finds(here, [there.peer_id])
        assert await here.call(there.peer_id, "echo", b"hi", PATIENCE_S) == b"hi"


async def test_a_key_too_long_for_other_nodes_is_refused_here(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        host = await world.open()
        longest = "k" * limits.KEY_BYTES_MAX
        await host.announce(longest)
        for key in (longest + "k", "é" * 26, "k"):
            with pytest.raises(ValueError, match="2 to 50 bytes"):
                await host.announce(key)
            with pytest.raises(ValueError, match="2 to 50 bytes"):
                await host.find(key)
        with pytest.raises(NetworkError, match="withdraw one"):
            for number in range(limits.KEYS_ANNOUNCED_MAX):
                await host.announce(f"key {number}")


async def test_hosts_that_start_together_all_find_each_other(kind: str, clock: object) -> None:
    """Everybody shakes hands with everybody: each host more costs as much as all before it."""
    async with world_of(kind) as world:
        seed = await world.open()
        hosts = [seed, *await world.open_all(4, bootstrap=seed.addresses())]
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(host.announce, KEY)
        for host in hosts:
            await eventually_finds(host, [other.peer_id for other in hosts if other is not host])


async def test_a_dead_bootstrap_address_delays_nobody(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        seed = await world.open()
        await seed.announce(KEY)
        dead = [dead_address(port) for port in (9, 11, 13)]
        with trio.fail_after(limits.DIAL_SECONDS_MAX / 2 if kind == "memory" else PATIENCE_S):
            late = await world.open(bootstrap=[*dead, *seed.addresses()])
            await eventually(lambda: late.connected() == [seed.peer_id])
            assert list(await late.find(KEY)) == [seed.peer_id]


async def test_two_halves_that_started_apart_merge(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        left, right = await world.open(), await world.open()
        hosts = [
            left,
            right,
            await world.open(bootstrap=left.addresses()),
            await world.open(bootstrap=right.addresses()),
        ]
        await eventually(lambda: all(host.connected() for host in hosts))
        for host in hosts:
            await host.announce(KEY)
        assert right.peer_id not in await hosts[2].find(KEY)
        await hosts[3].bootstrap(left.addresses())
        for host in hosts:
            await eventually_finds(host, [other.peer_id for other in hosts if other is not host])


async def test_a_silent_peer_costs_one_query_and_hides_nobody(
    kind: str, clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock, a frozen peer stays in the table and costs 10 s in each round of each lookup."""
    if kind == "libp2p":
        monkeypatch.setattr(lookup, "QUERY_SECONDS_MAX", 2.0)
    async with world_of(kind) as world:
        here, silent, there = [await world.open() for _ in range(3)]
        await connect(here, silent)
        await connect(here, there)
        await there.announce(KEY)
        _silence(world, here, silent)
        with trio.fail_after(3.5 if kind == "memory" else 6.0):
            assert list(await here.find(KEY)) == [there.peer_id]


async def test_a_host_whose_clock_was_set_back_finds_and_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock, its signed record is older than that of its former life, so each node refuses it until its clock is there
    again."""
    patient(monkeypatch)
    async with world_of("libp2p") as world:
        here, before = await world.open(), await world.open(seed=b"s" * 32)
        await here.announce(KEY)
        await connect(before, here)
        await eventually_finds(before, [here.peer_id])
        await world.close(before)
        monkeypatch.setattr("libp2p.peer.peer_record.timestamp_seq", lambda: 1)
        after = await world.open(seed=b"s" * 32)
        await connect(after, here)
        await eventually_finds(after, [here.peer_id])
        await after.announce(KEY)
        await eventually_finds(here, [after.peer_id])


async def test_who_is_gone_leaves_the_table() -> None:
    async with world_of("libp2p") as world:
        here, gone, there = [await world.open() for _ in range(3)]
        await connect(here, gone)
        await connect(here, there)
        assert here.directory_peers() == 2
        await world.close(gone)
        await eventually(lambda: here.connected() == [there.peer_id])
        await here.find(KEY)
        assert here.directory_peers() == 1
        await world.close(there)
        await eventually(lambda: here.connected() == [])
        await here.find(KEY)
        assert here.directory_peers() == 1, "nobody answers: it may be our own network that is down"


def _silence(world: World, here: object, silent: object) -> None:
    if world.kind == "memory":
        world.hub.freeze(silent.peer_id)  # type: ignore[attr-defined]
        return

    async def say_nothing(stream: object) -> None:
        await trio.sleep_forever()

    silent._host.set_stream_handler(KAD_PROTOCOL, say_nothing)  # type: ignore[attr-defined]


async def eventually_finds(host: object, peers: list[str]) -> None:
    with trio.fail_after(PATIENCE_S):
        while True:
            found = await host.find(KEY)  # type: ignore[attr-defined]
            if sorted(found) == sorted(peers):
                break
            await trio.sleep(0.02)
    assert all(address.endswith(f"/p2p/{peer}") for peer, known in found.items() for address in known)
    assert all(found.values())
