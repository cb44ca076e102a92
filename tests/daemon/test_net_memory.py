"""What only the in-memory network can do: links cut and slowed, hosts killed and frozen, in jumping time."""

from collections import Counter

import pytest
import trio
import trio.testing

from intellectd.daemon.net import CallTimeout, Contact, PeerUnreachable
from intellectd.daemon.p2p import limits
from intellectd.daemon.p2p.addresses import Address
from intellectd.daemon.p2p.wire import Preamble
from tests.daemon.net_world import NOBODY, connect, dead_address, echo, world_of

KEY = "/intellectd/0123456789abcdef01234567"
pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_a_call_takes_a_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    async with world_of("memory") as world:
        here, there = await world.open(), await world.open()
        there.on_call("echo", echo)
        await connect(here, there)
        world.hub.delay(here.peer_id, there.peer_id, 0.15)
        started_at = trio.current_time()
        assert await here.call(there.peer_id, "echo", b"hi", 5) == b"hi"
        assert trio.current_time() - started_at == pytest.approx(0.3)


async def test_who_was_never_there_is_dialled_ever_more_seldom(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody announces names, with the address of somebody who would be dialled by every host of the run."""
    async with world_of("memory") as world:
        here, friend = await world.open(), await world.open()
        await connect(here, friend)
        dialled: Counter[str] = Counter()
        reach = type(here)._reach

        async def counted(self: object, target: Address) -> None:
            dialled[target.peer] += 1
            await reach(self, target)  # type: ignore[arg-type]

        monkeypatch.setattr(type(here), "_reach", counted)
        await world.close(friend)
        here.learn(NOBODY, [dead_address()])
        for _ in range(240):  # beacons of 20 minutes
            for peer in (NOBODY, friend.peer_id):
                here.post(peer, b"")
            await trio.sleep(5)
        assert dialled[NOBODY] < 25
        assert dialled[friend.peer_id] > 100  # who was there is missed


async def test_posts_keep_their_order_when_the_link_gets_faster(autojump_clock: trio.testing.MockClock) -> None:
    async with world_of("memory") as world:
        here, there = await world.open(), await world.open()
        got: list[bytes] = []
        there.on_post(lambda peer, body: got.append(body))
        await connect(here, there)
        for latency_s, body in ((0.5, b"1"), (0.1, b"2"), (0.0, b"3")):
            world.hub.delay(here.peer_id, there.peer_id, latency_s)
            here.post(there.peer_id, body)
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert got == [b"1", b"2", b"3"]


async def test_a_cut_link_is_silent_and_delivers_when_it_heals(autojump_clock: trio.testing.MockClock) -> None:
    async with world_of("memory") as world:
        here, there = await world.open(), await world.open()
        got: list[bytes] = []
        there.on_post(lambda peer, body: got.append(body))
        there.on_call("echo", echo)
        await connect(here, there)
        world.hub.cut(here.peer_id, there.peer_id)
        here.post(there.peer_id, b"late")
        with pytest.raises(CallTimeout):
            await here.call(there.peer_id, "echo", b"", 2)
        assert (got, here.connected()) == ([], [there.peer_id])
        world.hub.heal(here.peer_id, there.peer_id)
        assert await here.call(there.peer_id, "echo", b"again", 2) == b"again"
        assert got == [b"late"]


async def test_a_link_that_stays_cut_is_given_up_by_who_writes(autojump_clock: trio.testing.MockClock) -> None:
    async with world_of("memory") as world:
        here, there = await world.open(), await world.open()
        await connect(here, there)
        gone: list[tuple[str, float]] = []
        here.on_disconnect(lambda peer: gone.append((peer, trio.current_time())))
        world.hub.cut(here.peer_id, there.peer_id)
        cut_at = trio.current_time()
        for _ in range(4):
            here.post(there.peer_id, bytes(200_000))
        await trio.sleep(2 * limits.WRITE_SECONDS_MAX)
        assert gone == [(there.peer_id, pytest.approx(cut_at + limits.WRITE_SECONDS_MAX, abs=0.1))]
        # The other side learns of it when something passes again.
        assert there.connected() == [here.peer_id]
        world.hub.heal(here.peer_id, there.peer_id)
        await trio.testing.wait_all_tasks_blocked()
        assert there.connected() == []


async def test_dialling_over_a_cut_link_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with world_of("memory") as world:
        here, there = await world.open(), await world.open()
        world.hub.cut(here.peer_id, there.peer_id)
        here.learn(there.peer_id, there.addresses())
        started_at = trio.current_time()
        with pytest.raises(PeerUnreachable, match="did not answer within"):
            await here.call(there.peer_id, "echo", b"", 60)
        assert trio.current_time() - started_at == pytest.approx(limits.DIAL_SECONDS_MAX)


async def test_a_killed_host_is_gone_for_the_others_and_can_start_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world_of("memory") as world:
        here, there = await world.open(), await world.open(seed=b"s" * 32)
        gone: list[str] = []
        here.on_disconnect(gone.append)
        await there.announce(KEY)
        await connect(here, there)
        world.hub.kill(there.peer_id)
        await trio.testing.wait_all_tasks_blocked()
        assert gone == [there.peer_id]
        assert await here.find(KEY) == {}
        with pytest.raises(PeerUnreachable, match="shutting down"):
            await there.call(here.peer_id, "echo", b"", 5)
        again = await world.open(seed=b"s" * 32, listen=[there.addresses()[0].rsplit("/p2p/")[0]])
        again.on_call("echo", echo)
        assert await here.call(again.peer_id, "echo", b"back", 5) == b"back"


async def test_a_frozen_host_is_connected_and_answers_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with world_of("memory") as world:
        hosts = [await world.open() for _ in range(3)]
        await connect(hosts[0], hosts[2])
        await connect(hosts[1], hosts[2])
        world.hub.freeze(hosts[2].peer_id)
        for host in hosts[:2]:
            with pytest.raises(CallTimeout):
                await host.call(hosts[2].peer_id, "echo", b"", 1)
            await host.evict(hosts[2].peer_id)
            assert host.connected() == []


async def test_a_contact_tells_its_version_and_how_long_a_round_trip_takes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """SPEC W7."""
    async with world_of("memory") as world:
        here, there = await world.open(), await world.open(preamble=Preamble(software="intellectd/9.9.9"))
        assert here.contact(there.peer_id) == Contact()
        world.hub.delay(here.peer_id, there.peer_id, 0.15)
        await connect(here, there)
        assert here.contact(there.peer_id) == Contact("intellectd/9.9.9", None)
        await trio.sleep(2)
        assert here.contact(there.peer_id).round_trip_s == pytest.approx(0.3)
        world.hub.delay(here.peer_id, there.peer_id, 0.5)
        await trio.sleep(limits.PING_SECONDS + 2)
        assert here.contact(there.peer_id).round_trip_s == pytest.approx(1.0)
        world.hub.cut(here.peer_id, there.peer_id)
        await trio.sleep(2 * limits.PING_SECONDS + 2)
        assert here.contact(there.peer_id) == Contact("intellectd/9.9.9", None)


async def test_calls_and_posts_are_counted_both_ways(autojump_clock: trio.testing.MockClock) -> None:
    async with world_of("memory") as world:
        here, there = await world.open(), await world.open()
        counted: Counter[tuple[str, str]] = Counter()
        here.on_traffic(lambda direction, size: counted.update({("here", direction): size}))
        there.on_traffic(lambda direction, size: counted.update({("there", direction): size}))
        there.on_call("echo", echo)
        await connect(here, there)
        counted.clear()
        await here.call(there.peer_id, "echo", b"x" * 1000, 5)
        here.post(there.peer_id, b"y" * 5000)
        await trio.sleep(0.1)
        assert 1000 < counted["here", "in"] == counted["there", "out"] < 1100
        assert 6000 < counted["here", "out"] == counted["there", "in"] < 6100
