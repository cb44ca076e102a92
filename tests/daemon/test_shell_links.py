"""Links in whole daemons: a round's measurement reaches the machine, the beacons and the operator; probes; netcheck."""

from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from intellectd.daemon.bulk.interface import Endpoint, PeerLink
from intellectd.daemon.runs import netcheck as netchecks
from intellectd.protocol import effects as ef
from intellectd.protocol.links import rate_of, rtt_of
from tests.daemon.shell_world import Host, Refused, Shell, shell
from tests.daemon.test_shell_status import samples
from tests.daemon.test_shell_swarm import finish_alike, refusal, swarm

Clock = trio.testing.MockClock
RATE, RTT_S = 5e6, 0.05
STEP = 2 ** (1 / 8)  # half a step in which links are told


def told(world: Shell, of: Host, to: Host) -> dict[str, tuple[float, float]]:
    """The links in the newest beacon of a host, as another one has it."""
    beacon = world.service(to).node.membership.beacon(of.peer)
    assert beacon is not None
    return {link.to: (rate_of(link.rate), rtt_of(link.rtt)) for link in beacon.links}


async def test_a_rounds_measurement_reaches_the_machine_and_the_next_beacon(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (a, b) = await swarm(world, "ab", rounds=1000)
        world.bulk.rates[a.peer, b.peer] = (RATE, RTT_S)
        await a.wait("round=1")
        assert world.service(a).node.membership.links.knows(b.peer, trio.current_time())
        assert not world.service(b).node.membership.links.knows(a.peer, trio.current_time())
        await trio.sleep(2 * world.service(a).config.timers.beacon_s)
        rate, rtt_s = told(world, a, b)[b.peer]
        assert RATE / STEP <= rate <= RATE * STEP and RTT_S / STEP <= rtt_s <= RTT_S * STEP
        assert told(world, b, a) == {}
        # What was told stands in the metrics, without a name.
        metrics = await samples(a)
        assert metrics['intellectd_link_bytes_per_second{stat="median"}'] == RATE
        assert not [line for line in metrics if b.peer in line]


async def test_a_swarm_whose_links_are_known_ends_alike(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, hosts = await swarm(world, "abcd", rounds=4)
        for number, one in enumerate(hosts):
            for place, other in enumerate(hosts):
                world.bulk.rates[one.peer, other.peer] = (1e6 * (1 + (number * 7 + place * 3) % 5), 0.02)
        await finish_alike(hosts, 4)


async def test_a_probe_is_carried_out_and_what_comes_to_nothing_is_silent(
    autojump_clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with shell() as world:
        _, (a, b, c) = await swarm(world, "abc", rounds=1000)
        world.bulk.rates[a.peer, b.peer] = (RATE, RTT_S)
        await a.wait("round=1")
        service = world.service(a)
        links = service.node.membership.links
        links._own.clear()
        for peer in (b.peer, c.peer, "nobody"):
            await service.performer(ef.ProbeLink(peer))
        await service.performer(ef.ProbeLink(b.peer))  # it runs already
        await trio.sleep(1.0)
        assert links.knows(b.peer, trio.current_time())
        assert not links.knows(c.peer, trio.current_time())
        assert (await a.status())["warnings"] == (await b.status())["warnings"] == []
        assert "measured" not in capsys.readouterr().err


async def test_no_probe_begins_while_a_transfer_runs_here(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (a, b) = await swarm(world, "ab", rounds=1000)
        await a.wait("round=1")
        service, engine = world.service(a), world.bulk.engines[a.peer]
        with trio.fail_after(600):
            while not service.performer._transfers._incoming:
                await trio.sleep(0.02)
        running = dict(engine._running)
        await service.performer(ef.ProbeLink(b.peer))
        assert engine._running == running


# ---- netcheck


async def test_netcheck_tells_who_came_how_fast_and_what_holds_it_back(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, (a, b) = await swarm(world, "ab", rounds=1000)
        world.bulk.rates[a.peer, b.peer] = (RATE, RTT_S)
        await a.wait("round=1")
        answer = await a.ask("netcheck")
        assert answer["runs"] == ["shell"] and answer["uptime_s"] > 0
        assert answer["control"] == {"addresses": [a.address], "announced": False, "came": [b.peer]}
        assert answer["tensors"]["address"] == world.bulk.engines[a.peer].endpoint.address
        assert answer["tensors"]["came"] == [b.peer]
        (row,) = answer["peers"]
        assert (row["peer"], row["state"], row["runs"]) == (b.peer, "alive", ["shell"])
        assert row["control"]["connected"] and row["control"]["came"]
        tensors = row["tensors"]
        assert (tensors["reach"], tensors["wires"], tensors["limit"]) == ("both", 1, "bbr")
        assert (tensors["bytes_per_s"], tensors["round_trip_s"]) == (RATE, RTT_S)
        assert tensors["address"] == world.bulk.engines[b.peer].endpoint.address
        assert answer["problems"] == answer["notes"] == []
        assert (await a.ask("netcheck", run_id=run_id))["peers"][0]["peer"] == b.peer
        assert (await a.ask("netcheck", run_id="shell"))["runs"] == ["shell"]
        assert (await refusal(a, "netcheck", run_id="another")).code == "no_such_run"
        # The first host was dialled by the other; who dials only hears nobody, and is told so once that is odd.
        assert (await b.ask("netcheck"))["control"]["came"] == []
        await trio.sleep(netchecks.QUIET_S)
        (note,) = (await b.ask("netcheck"))["notes"]
        assert "nobody has connected to this host's control plane" in note and "network.announce" in note


async def test_netcheck_on_a_host_without_runs_tells_of_the_host(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a")
        answer = await host.ask("netcheck")
        assert answer["runs"] == answer["peers"] == answer["problems"] == answer["notes"] == []
        assert answer["control"]["addresses"] == [host.address]
        with pytest.raises(Refused):
            await host.ask("netcheck", run_id="mini")


async def advice(world: Shell, host: Host, link: PeerLink, own: str, theirs: str) -> tuple[list[str], list[str]]:
    """Of a host of two, if its engine said so of the other, and both announced such addresses."""
    (other,) = [peer for peer in world.bulk.engines if peer != host.peer]
    engine = world.bulk.engines[host.peer]
    engine._endpoint, engine._links = Endpoint(own, b""), {other: link}
    view = world.service(host).node.membership.peers[other]
    assert view.beacon is not None
    view.beacon = msgspec.structs.replace(view.beacon, bulk=theirs)
    answer: dict[str, Any] = await host.ask("netcheck")
    return answer["problems"], answer["notes"]


async def test_netcheck_says_what_keeps_bytes_from_passing_and_what_to_do(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (a, _b) = await swarm(world, "ab", rounds=1000)
        await a.wait("round=1")
        private = "192.168.1.7:4002"
        both = PeerLink(1, came_s=1.0, reached_s=1.0, address="x:1")
        assert await advice(world, a, both, "203.0.113.5:4002", "peer.example:4002") == ([], [])

        failed = PeerLink(address="x:1", failure="it did not answer the connection")
        problems, _ = await advice(world, a, failed, "203.0.113.5:4002", "x:1")
        assert len(problems) == 1 and "x:1 (it did not answer the connection)" in problems[0]
        problems, notes = await advice(world, a, PeerLink(), "", "")
        assert len(problems) == 1 and "can be dialled" in problems[0] and "network.bulk_announce" in problems[0]
        assert len(notes) == 1 and "announces no address" in notes[0]

        for limit, word in (("sndbuf", "wmem"), ("rwnd", "rmem"), ("loss", "tcp_bbr")):
            held = PeerLink(1, 1.0, 1.0, "x:1", "", RATE, RTT_S, limit, 1.0)
            _, (note,) = await advice(world, a, held, "peer.example:1", "x:1")
            assert word in note
        abroad = "1.2.3.4:4002"
        _, (note,) = await advice(world, a, both, private, abroad)
        assert private in note and "only its own network" in note
        assert await advice(world, a, both, private, "192.168.1.9:4002") == ([], [])

        await trio.sleep(netchecks.QUIET_S)
        _, (note,) = await advice(world, a, PeerLink(1, None, 1.0, "x:1"), "peer.example:1", "x:1")
        assert "nobody has connected to this host for tensors in the" in note and "forward the port" in note
