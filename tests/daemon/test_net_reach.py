"""Coming and going: dialling, disconnects, eviction, redialling, and addresses that are of no use."""

import pytest
import trio

from intellectd.daemon.net import AddressInUse, BadAddress, PeerUnreachable
from intellectd.daemon.p2p import limits
from tests.daemon.net_world import (
    LOOPBACK,
    NOBODY,
    PATIENCE_S,
    connect,
    dead_address,
    echo,
    eventually,
    world_of,
)


async def test_a_disconnect_is_told_once_and_again_after_the_next_one(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        gone: list[str] = []
        here.on_disconnect(gone.append)
        for count in (1, 2):
            await connect(here, there)
            await there.evict(here.peer_id)
            await eventually(lambda count=count: gone == [there.peer_id] * count)  # type: ignore[misc]
            assert here.connected() == []


async def test_a_host_that_closes_is_gone_for_all_its_peers(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        hosts = [await world.open() for _ in range(4)]
        gone: list[str] = []
        for host in hosts[1:]:
            host.on_disconnect(gone.append)
            await connect(host, hosts[0])
        await world.close(hosts[0])
        await eventually(lambda: gone == [hosts[0].peer_id] * 3)
        with pytest.raises(PeerUnreachable):
            await hosts[1].call(hosts[0].peer_id, "echo", b"", PATIENCE_S)


async def test_a_failing_disconnect_handler_keeps_nobody_from_the_news(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        gone: list[str] = []
        here.on_disconnect(lambda peer: gone.extend([peer, str(1 / 0)]))
        here.on_disconnect(gone.append)
        await connect(here, there)
        await world.close(there)
        await eventually(lambda: gone == [there.peer_id])


async def test_an_evicted_peer_can_be_called_again(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        there.on_call("echo", echo)
        await connect(here, there)
        await here.evict(there.peer_id)
        assert here.connected() == []
        assert await here.call(there.peer_id, "echo", b"again", PATIENCE_S) == b"again"


async def test_a_call_in_progress_fails_when_the_connection_goes(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        asked = trio.Event()

        async def never(peer: str, body: bytes) -> bytes:
            asked.set()
            await trio.sleep_forever()
            return b""

        async def close_when_asked() -> None:
            await asked.wait()
            await world.close(there)

        there.on_call("never", never)
        await connect(here, there)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_when_asked)
            with pytest.raises(PeerUnreachable, match="ended"):
                await here.call(there.peer_id, "never", b"", PATIENCE_S)


async def test_a_handler_ends_with_the_stream_of_its_caller(kind: str, clock: object) -> None:
    """libp2p cancels no handler when its peer goes: each would stay for ever."""
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        asked, ended = trio.Event(), trio.Event()

        async def never(peer: str, body: bytes) -> bytes:
            asked.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()
            return b""

        async def close_when_asked() -> None:
            await asked.wait()
            await world.close(here)

        there.on_call("never", never)
        await connect(here, there)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_when_asked)
            with pytest.raises(PeerUnreachable):
                await here.call(there.peer_id, "never", b"", PATIENCE_S)
        with trio.fail_after(PATIENCE_S):
            await ended.wait()


async def test_a_peer_that_came_back_elsewhere_is_reached_at_what_was_learned(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, before = await world.open(), await world.open(seed=b"s" * 32)
        await connect(here, before)
        await world.close(before)
        await eventually(lambda: not here.connected())
        after = await world.open(seed=b"s" * 32)
        after.on_call("echo", echo)
        assert after.peer_id == before.peer_id
        with pytest.raises(PeerUnreachable):
            await here.call(after.peer_id, "echo", b"", PATIENCE_S)
        here.learn(after.peer_id, after.addresses())
        assert await here.call(after.peer_id, "echo", b"found", PATIENCE_S) == b"found"


async def test_posts_to_a_peer_that_refuses_back_off_until_there_is_news_of_it(
    kind: str, clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intellectd.daemon.p2p.link.BACKOFF_SECONDS_MAX", 60.0)  # 16 s at the least, after 8 failures
    async with world_of(kind) as world:
        here, before = await world.open(), await world.open(seed=b"s" * 32)
        await connect(here, before)
        await world.close(before)
        await eventually(lambda: not here.connected())
        for _ in range(8):  # the pause is now longer than anybody's patience
            with pytest.raises(PeerUnreachable):
                await here.call(before.peer_id, "echo", b"", PATIENCE_S)
        after = await world.open(seed=b"s" * 32)
        got: list[bytes] = []
        after.on_post(lambda peer, body: got.append(body))
        assert here.post(after.peer_id, b"waiting")
        with trio.fail_after(10.0):
            await connect(after, here)
            await eventually(lambda: got == [b"waiting"])


async def test_a_dead_address_does_not_hide_a_live_one(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        there.on_call("echo", echo)
        dead = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{there.peer_id}" for port in (9, 11, 13)]
        here.learn(there.peer_id, [*dead, *there.addresses()])
        with trio.fail_after(limits.DIAL_SECONDS_MAX / 2 if kind == "memory" else PATIENCE_S):
            assert await here.call(there.peer_id, "echo", b"alive", PATIENCE_S) == b"alive"


async def test_a_dial_ends_in_time(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here = await world.open()
        silent, nursery = trio.Event(), None
        del silent, nursery
        there = await world.open()
        if kind == "memory":
            world.hub.cut(here.peer_id, there.peer_id)
            address = there.addresses()[0]
        else:
            address = await _silent_address(world._nursery)
        with pytest.raises(PeerUnreachable, match=r"did not answer within 0\.3 s"):
            await here.dial(address, 0.3)


async def _silent_address(nursery: trio.Nursery) -> str:
    """A socket that takes connections and never says a word, as a frozen host's kernel does."""

    async def say_nothing(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    listeners = await nursery.start(trio.serve_tcp, say_nothing, 0)
    port = listeners[0].socket.getsockname()[1]
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{NOBODY}"


async def test_addresses_are_dialable_and_never_a_wildcard(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        host = await world.open(listen=["/ip4/0.0.0.0/tcp/0"])
        addresses = host.addresses()
        assert addresses
        assert all(address.endswith(f"/p2p/{host.peer_id}") for address in addresses)
        assert not any("0.0.0.0" in address or "/tcp/0/" in address for address in addresses)
        behind_nat = await world.open(announce=["/ip4/198.51.100.7/tcp/4001"])
        assert behind_nat.addresses() == [f"/ip4/198.51.100.7/tcp/4001/p2p/{behind_nat.peer_id}"]


async def test_a_port_in_use_is_named(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        first = await world.open()
        taken = first.addresses()[0].rsplit("/p2p/")[0]
        # A second daemon of the same user, too: with SO_REUSEPORT both would listen and share connections.
        with pytest.raises(AddressInUse, match=f"{taken} is in use"):
            async with world._opener(bytes(32), [LOOPBACK, taken], [], []):
                pytest.fail("both listen")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("127.0.0.1:4001", "no TCP multiaddr"),
        ("", "no TCP multiaddr"),
        ("/ip4/127.0.0.1/udp/4001/quic-v1", "no TCP multiaddr"),
        ("/ip4/127.0.0.1/tcp/4001", "does not end in /p2p/"),
        (f"/ip4/300.0.0.1/tcp/4001/p2p/{NOBODY}", "names no host"),
        (f"/ip4/127.0.0.1/tcp/70000/p2p/{NOBODY}", "no TCP port"),
        (f"/ip4/0.0.0.0/tcp/4001/p2p/{NOBODY}", "not one to dial"),
        ("/ip4/127.0.0.1/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "12D3Koo"),
    ],
)
async def test_a_bad_address_is_explained_with_a_good_one(
    kind: str, clock: object, address: str, complaint: str
) -> None:
    async with world_of(kind) as world:
        here = await world.open()
        with pytest.raises(BadAddress, match=complaint) as caught:
            await here.dial(address, PATIENCE_S)
        assert "/ip4/203.0.113.7/tcp/4001/p2p/" in str(caught.value)
        with pytest.raises(BadAddress):
            await here.bootstrap([dead_address(), address])


async def test_dialling_oneself_is_a_mistake(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here = await world.open()
        with pytest.raises(BadAddress, match="own address"):
            await here.dial(here.addresses()[0], PATIENCE_S)
