"""A late host in a run with `swarm.warmup_rounds`: it takes part at once, and counts later. SPEC R15."""

import trio.testing

from tests.daemon.shell_world import RUN_TOML, shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

Clock = trio.testing.MockClock


async def test_a_late_host_counts_after_its_warm_up(autojump_clock: Clock) -> None:
    toml = RUN_TOML.format(start_peers=2, rounds=11).replace("[timers]", "warmup_rounds = 2\n[timers]")
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", 11, toml=toml)
        await hosts[0].wait("round=3")
        late = await world.host("late", hosts[0])
        await late.ask("join", run_id=run_id, peers=[hosts[0].address])
        await late.until(lambda run: run["warmup_left"] == 1)
        await finish_alike([*hosts, late], 11)
        rounds = (await hosts[0].ask("rounds", run_id=run_id))["rounds"]
        its = [seen["weights"][late.peer] for seen in rounds if late.peer in seen["weights"]]
        assert len(its) >= 4 and its[:2] == [0, 0] and all(its[2:]), its
        assert all(seen["tokens"] == sum(seen["weights"].values()) for seen in rounds)
        assert (await late.status())["warmup_left"] == 0
