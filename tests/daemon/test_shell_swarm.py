"""Whole daemons in one swarm: they train, die, come late, come back, and end with the same bits."""

from typing import Any

import pytest
import trio
import trio.testing

from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import RUN_TOML, Host, Refused, Shell, shell

Clock = trio.testing.MockClock


async def swarm(world: Shell, names: str, rounds: int, start_peers: int = 0, toml: str = "") -> tuple[str, list[Host]]:
    """Hosts named by single letters, all in one run."""
    first = await world.host(names[0])
    run_id = await first.init(start_peers or len(names), rounds, toml)
    hosts = [first, *[await world.host(name, first) for name in names[1:]]]
    for host in hosts[1:]:
        await host.ask("join", run_id=run_id, peers=[first.address])
    return run_id, hosts


async def finish_alike(hosts: list[Host], rounds: int) -> dict[str, object]:
    statuses = [await host.wait("finished") for host in hosts]
    assert {status["state_digest"] for status in statuses} == {statuses[0]["state_digest"]}
    assert [status["round"] for status in statuses] == [rounds] * len(hosts)
    assert statuses[0]["state_digest"]
    return statuses[0]


async def refusal(host: Host, op: str, **fields: Any) -> Refused:
    with pytest.raises(Refused) as raised:
        await host.ask(op, **fields)
    return raised.value


async def rosters(host: Host, run_id: str) -> dict[int, list[str]]:
    rounds = (await host.ask("rounds", run_id=run_id, since=0))["rounds"]
    return {seen["round"]: seen["roster"] for seen in rounds}


async def test_three_hosts_train_and_end_with_equal_digests(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=5)
        status = await finish_alike(hosts, 5)
        seen = await rosters(hosts[0], run_id)
        assert all(sorted(seen[round_]) == sorted(host.peer for host in hosts) for round_ in range(1, 6))
        assert status["tokens_total"] == 5 * 3 * 1000
        assert status["loss"] is not None
        for host in hosts:
            assert host.trainer is not None
            await host.trainer.finished.wait()


async def test_with_bf16_and_plain_averaging_there_is_no_momentum(autojump_clock: Clock) -> None:
    async with shell() as world:
        toml = RUN_TOML.format(start_peers=2, rounds=3) + '[outer]\ncodec = "bf16"\noptimizer = "average"\n'
        _, hosts = await swarm(world, "ab", rounds=3, toml=toml)
        await finish_alike(hosts, 3)
        for host in hosts:
            state = world.service(host).state
            assert state.theta is not None and bool(state.theta.any())
            assert state.momentum is not None and not bool(state.momentum.any())


async def test_one_is_killed_and_one_joins_late_and_contributes(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=9)
        await hosts[1].wait("round=2")
        await hosts[0].kill()  # the founder, which everybody knew first
        late = await world.host("late", hosts[1])
        await hosts[1].wait("round=5")
        await late.ask("join", run_id=run_id, peers=[hosts[1].address])
        await late.wait("synced")
        await finish_alike([hosts[1], hosts[2], late], 9)
        seen = await rosters(hosts[1], run_id)
        assert late.peer in seen[9]
        assert hosts[0].peer not in seen[9]
        catchup = (await late.status())["catchup"]
        assert catchup["done"] and catchup["bytes"] > 0


async def test_a_host_restarts_from_its_own_disk_and_needs_no_bootstrap_address(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=7)
        back = hosts[2]
        await back.wait("round=5")
        await back.kill()
        back.bootstrap = []
        before = world.bulk.reduced[:]
        await back.start()
        # The snapshot of round 4 is on its disk, and so are the updates after it: nothing has to be fetched for them.
        assert (await back.status())["round"] >= 4
        await finish_alike(hosts, 7)
        assert back.peer in (await rosters(hosts[0], run_id))[7]
        assert len(world.bulk.reduced) > len(before)


async def test_the_whole_swarm_dies_and_goes_on(autojump_clock: Clock) -> None:
    async with shell() as world:
        _run_id, hosts = await swarm(world, "abc", rounds=6)
        await hosts[0].wait("round=3")
        for host in hosts:
            await host.kill()
            host.bootstrap = []
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(host.start)
        await finish_alike(hosts, 6)


async def test_one_alone_restarts_again_and_again(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=12)
        reached = []
        for _ in range(3):
            status = await host.wait(f"round={(reached[-1] if reached else 0) + 3}")
            reached.append(status["round"])
            await host.kill()
            await host.start()
        status = await finish_alike([host], 12)
        assert status["tokens_total"] == 12_000  # nothing was counted twice or lost


async def test_an_update_with_a_nan_names_its_tensor_and_the_round_goes_on(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=6)
        assert hosts[2].trainer is not None
        hosts[2].trainer.nan_rounds = [3]
        status = await hosts[2].until(lambda run: run["round"] >= 4)
        assert any("tensor 'bias' holds a NaN" in warning for warning in status["warnings"])
        await finish_alike(hosts, 6)
        seen = await rosters(hosts[0], run_id)
        assert hosts[2].peer not in seen[3]
        assert hosts[2].peer in seen[5]


async def test_a_trainer_that_detaches_in_mid_round_comes_back_to_it(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=6)
        trainer = hosts[1].trainer
        assert trainer is not None
        trainer.dies_in = [3]
        await finish_alike(hosts, 6)
        assert trainer.attached == 2
        assert 3 in trainer.delivered  # resumed: it is given no second order for that round
        assert [frame["round"] for frame in trainer.frames if frame["op"] == "round"].count(3) == 1
        assert hosts[1].peer in (await rosters(hosts[0], run_id))[3]


async def test_a_straggler_contributes_its_work_to_a_later_round(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=6)
        slow = hosts[2]
        assert slow.trainer is not None
        slow.trainer.slow_rounds = {3: 16.0}  # the others need 10 s and wait for 1
        await finish_alike(hosts, 6)
        seen = await rosters(hosts[0], run_id)
        assert slow.peer not in seen[3]
        late = next(round_ for round_ in range(4, 7) if slow.peer in seen[round_])
        assert late <= 5  # not older than two rounds
        weights = {r["round"]: r["weights"] for r in (await hosts[0].ask("rounds", run_id=run_id))["rounds"]}
        assert weights[late][slow.peer] >= 1000


async def test_a_second_trainer_is_refused_and_disturbs_nothing(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=4)
        await host.wait("round=1")
        second = FakeTrainer("second")
        second.serve(world.nursery, host.config.socket)
        await host.until(lambda run: bool(second.refused))
        assert second.refused[0]["code"] == "trainer_attached"
        await host.wait("round=3")
        await second.end()
        # What was averaged is the first trainer's work: the parameters are where it pulls them.
        await host.wait("finished")
        theta = world.service(host).state.theta
        assert theta is not None
        assert float(theta[:60_000].abs().max()) > 0.2  # not the empty memory of the second


async def test_a_late_joiner_gets_a_newer_state_when_the_updates_are_gone(autojump_clock: Clock) -> None:
    """It fell asleep with an old state on its disk; what lies between was pruned everywhere."""
    async with shell() as world:
        _run_id, hosts = await swarm(world, "abc", rounds=19)
        sleeper = hosts[2]
        await sleeper.wait("round=5")
        await sleeper.kill()
        await hosts[0].wait("round=17")
        await sleeper.start()
        await sleeper.wait("synced")
        await finish_alike(hosts, 19)
        # It does not offer to others what it never had.
        held = world.service(sleeper).store.updates_from(19)
        assert held > 12


async def test_a_joiner_without_any_state_waits_for_a_donor(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=11)
        await hosts[0].wait("round=6")
        for host in hosts:
            for path in (host.state / "runs" / run_id / "snapshots").iterdir():
                path.unlink()  # behind the daemons' backs: nothing can be served until they write the next one
        late = await world.host("late", hosts[0])
        await late.ask("join", run_id=run_id, peers=[hosts[0].address])
        assert (await late.status())["state"] in ("joining", "catching-up")
        assert (await late.status())["state_digest"] is None
        await late.wait("synced")
        await finish_alike([*hosts, late], 11)
