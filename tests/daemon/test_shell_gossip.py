"""Whole daemons whose rounds are decided in groups: anchors part, and are made equal in bits. SPEC E1, E2, E5."""

import torch
import trio.testing

from intellectd.protocol.entries import groups_of
from intellectd.protocol.ids import encode
from intellectd.protocol.records import Entry, decode_entry
from tests.daemon.shell_world import RUN_TOML, Host, Shell, shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

Clock = trio.testing.MockClock
GOSSIP = '[outer]\nschedule = "gossip"\n[outer.gossip]\nexact_every = 3\ngroup_size = 2\n'


def toml(peers: int, rounds: int) -> str:
    return RUN_TOML.format(start_peers=peers, rounds=rounds) + GOSSIP


def entries(world: Shell, host: Host) -> list[Entry]:
    store = world.service(host).store
    return [store.entry(index) for index in range(store.length)]


def anchor(world: Shell, host: Host) -> torch.Tensor:
    found = world.service(host).state.anchor
    assert found is not None
    return found


async def stand(world: Shell, hosts: list[Host], round_: int) -> None:
    """Until they all stand after this round, and none of them further."""
    for host in hosts:
        await host.until(lambda run: run["round"] >= round_ and run["trainer"] == "training")
    assert {world.service(host).node.catchup.applied for host in hosts} == {round_}


async def test_anchors_part_by_groups_and_an_exact_round_makes_their_bits_equal(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, hosts = await swarm(world, "abcd", rounds=5, toml=toml(4, 5))
        await stand(world, hosts, 2)
        record = entries(world, hosts[0])[2]
        groups = [members for _, members in groups_of(record.record, record.blob)]
        assert [len(members) for members in groups] == [2, 2]
        by_peer = {host.peer: anchor(world, host) for host in hosts}
        for members in groups:
            assert torch.equal(by_peer[members[0]], by_peer[members[1]])
        assert not torch.equal(by_peer[groups[0][0]], by_peer[groups[1][0]])
        states = [world.service(host).state for host in hosts]
        assert all(state.theta is not None and torch.equal(state.theta, states[0].theta) for state in states)
        spreads = [(await host.status())["anchor_spread"] for host in hosts]
        assert all(spread > 0 for spread in spreads)

        await stand(world, hosts, 3)
        first = anchor(world, hosts[0])
        assert all(torch.equal(anchor(world, host), first) for host in hosts)
        assert all(anchor(world, host) is world.service(host).state.theta for host in hosts)
        assert [(await host.status())["anchor_spread"] for host in hosts] == [0.0] * 4
        status = await finish_alike(hosts, 5)
        assert status["tokens_total"] == 5 * 4 * 1000
        kinds = [entry.record.schedule for entry in entries(world, hosts[0])[1:]]
        assert kinds == ["gossip", "gossip", "ring", "gossip", "ring"], "the last is exact"


async def test_who_restarts_between_exact_rounds_and_who_joins_there_go_on(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abcd", rounds=7, toml=toml(4, 7))
        back = hosts[3]
        await stand(world, hosts, 5)  # of an exact round, its state is on disk, and of the groups' since the updates
        before = anchor(world, back).clone()
        await back.kill()
        await back.start()
        status = await back.until(lambda run: run["round"] >= 5)
        assert status["round"] == 5 and torch.equal(anchor(world, back), before)
        late = await world.host("late", hosts[1])
        await late.ask("join", run_id=run_id, peers=[hosts[1].address])
        await finish_alike([*hosts, late], 7)
        last = entries(world, hosts[0])[7]
        assert last.record.schedule != "gossip" and decode_entry(encode(last)) == last
