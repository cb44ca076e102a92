"""Donors and members that serve what they should not, and plans and messages that no honest peer sends."""

import trio
import trio.testing

from intellectd.daemon.memory_bulk import Tamper
from intellectd.daemon.runs.driver import MESSAGES_PER_PEER_MAX
from intellectd.kernels.digest import update_root
from intellectd.protocol import effects as ef
from intellectd.protocol.events import MessageReceived
from intellectd.protocol.ids import encode
from tests.daemon.shell_world import Host, Shell, shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

Clock = trio.testing.MockClock


def flips(kind: str, served: list[str]) -> Tamper:
    """One bit of every object of this kind, on its way to whoever asks."""

    def tamper(reader: str, name: str, data: bytes) -> bytes:
        if not name.startswith(kind):
            return data
        served.append(name)
        return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]

    return tamper


async def joined_late(world: Shell, hosts: list[Host], run_id: str) -> Host:
    late = await world.host("late", hosts[0])
    await late.ask("join", run_id=run_id, peers=[hosts[0].address])
    return late


async def asked(world: Shell, late: Host, honest: Host, served: list[str]) -> None:
    """Until the liar was asked: the honest one is out of reach that long, and then it is not."""
    world.bulk.stall(honest.peer)
    await late.until(lambda run: bool(served))
    world.bulk.stall(honest.peer, False)


async def test_a_donor_of_wrong_states_is_passed_over(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=9)
        await hosts[0].wait("round=6")
        served: list[str] = []
        world.bulk.tamper[hosts[0].peer] = flips("snapshot", served)
        late = await joined_late(world, hosts, run_id)
        await asked(world, late, hosts[1], served)
        await late.wait("synced")
        await finish_alike([*hosts, late], 9)


async def test_with_only_wrong_donors_nothing_is_installed_until_an_honest_one_comes(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=11)
        await hosts[0].wait("round=6")
        served: list[str] = []
        for host in hosts:
            world.bulk.tamper[host.peer] = flips("snapshot", served)
        late = await joined_late(world, hosts, run_id)
        await hosts[0].wait("round=9")
        status = await late.status()
        assert served and status["state_digest"] is None and status["state"] == "joining"
        assert any("the state is not the one that the log proves" in warning for warning in status["warnings"])
        assert list((late.state / "runs" / run_id / "snapshots").iterdir()) == []
        world.bulk.tamper.clear()
        await late.wait("synced")
        await finish_alike([*hosts, late], 11)


async def test_wrong_updates_are_dropped_and_fetched_elsewhere(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=10)
        await hosts[0].wait("round=7")  # a snapshot of round 4, and updates behind it
        served: list[str] = []
        world.bulk.tamper[hosts[0].peer] = flips("update", served)
        late = await joined_late(world, hosts, run_id)
        await asked(world, late, hosts[1], served)
        await late.wait("synced")
        await finish_alike([*hosts, late], 10)
        store = world.service(late).store
        assert store.updates.held() and not list(store.updates.path.glob(".*"))
        for root in store.updates.held():
            assert update_root(store.updates.read(root)) == root


async def test_a_plan_that_cannot_be_is_refused_and_the_daemon_lives(autojump_clock: Clock) -> None:
    """What a lying leader may plan: members twice, no weights, too many at once. None of it may end a daemon."""
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=5)
        await hosts[0].until(lambda run: run["trainer"] == "frozen" or run["round"] >= 1)
        service = world.service(hosts[0])
        me, other = hosts[0].peer, hosts[1].peer
        plans = [((me, me), (1, 1)), ((me, other), (0, 0)), ((other,), (5,)), ((me, other), (1,))]
        for number, (members, weights) in enumerate(plans):
            plan = ef.StartTransfer(bytes([number]) * 32, members, weights, "int8", 4.0, 60.0)
            await service.performer(plan)
        for number in range(100):  # and more rings than the engine runs at once
            plan = ef.StartTransfer(bytes([50 + number]) * 32, (me, other), (1, 1), "int8", 4.0, 60.0)
            await service.performer(plan)
        await service.performer(ef.FetchUpdate(bytes([9]) * 32, 17, other))
        await finish_alike(hosts, 5)
        assert list(service.store.updates.path.glob(".*")) == []


async def test_whoever_breaks_the_protocol_is_banned_once_and_heard_again_later(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=12)
        await hosts[0].wait("round=2")
        one, two = (world.service(host) for host in hosts)
        garbage = encode([one.run, hosts[1].peer, b"not a message", bytes(64)])
        for _ in range(50):
            world.net.hosts[hosts[1].peer].post(hosts[0].peer, garbage)
        status = await hosts[0].until(lambda run: bool(run["warnings"]))
        assert len([w for w in status["warnings"] if "broke the protocol" in w]) == 1
        assert one.host.banned(hosts[1].peer) and not two.host.banned(hosts[0].peer)
        await finish_alike(hosts, 12)  # it is forgiven
        assert not one.host.banned(hosts[1].peer)


async def test_a_flood_of_messages_crowds_out_only_the_one_who_floods(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=4)
        driver = world.service(hosts[0]).driver
        heard: list[str] = []
        driver.ignores = lambda peer: heard.append(peer) or True  # type: ignore[func-returns-value]
        for number in range(2000):
            driver.post(MessageReceived("flooder", b"x"))
            if number % 1000 == 999:
                driver.post(MessageReceived("honest", b"x"))
        await trio.sleep(1)
        assert heard.count("flooder") == MESSAGES_PER_PEER_MAX
        assert heard.count("honest") == 2
        assert not driver._unread
