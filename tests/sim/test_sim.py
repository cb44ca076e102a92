"""The production machines under faults: one history, everybody on it, and it goes on. SPEC A*, K*, R*.

`python -m tests.sim explore` plays more seeds; one that fails prints the line that replays it.
"""

from contextlib import nullcontext

import pytest

from tests.sim.config import sim_config
from tests.sim.drawing import draw
from tests.sim.explore import Plan, again, explore
from tests.sim.play import applied, heads, play
from tests.sim.scenario import name_of
from tests.sim.world import World


def swarm(seed: int, count: int, start: int, until: int | None = None, least: int = 1, attempt_s: float = 4.0) -> World:
    world = World(seed, sim_config(until, attempt_s, start_peers=start, min_peers=least))
    for n in range(count):
        world.add(name_of(n), ["PA"] if n else [])
    return world


def contributors(world: World, name: str = "PA") -> list[list[str]]:
    return [[c.peer for c in entry.blob.contributions] for entry in world.hosts[name].disk.entries]


def test_one_host_trains_alone() -> None:
    world = swarm(1, 1, 1)
    assert world.run(100, lambda: applied(world) == [5])


def test_four_hosts_contribute_each_round() -> None:
    world = swarm(2, 4, 4)
    for host in world.hosts.values():
        host.speed = 1.0  # nobody is slower than a grace
    assert world.run(120, lambda: min(applied(world)) >= 6)
    assert all(len(peers) == 4 for peers in contributors(world)[1:6])
    assert world.truth.entries[5].record.next_voters == ["PA", "PB", "PC", "PD"]


def test_the_founder_dies_and_a_late_joiner_contributes() -> None:
    world = swarm(3, 4, 4)
    assert world.run(120, lambda: min(applied(world)) >= 4)
    world.kill(world.hosts["PA"])
    assert world.run(120, lambda: min(heads(world)) >= 7)
    world.add("PZ", ["PB"])
    assert world.run(200, lambda: min(applied(world)) >= 13)
    assert sum("PZ" in peers for peers in contributors(world, "PB")) >= 2


def test_a_slow_host_is_left_out_and_its_work_carried_over() -> None:
    world = swarm(4, 4, 4)
    world.hosts["PD"].speed = 1.6
    assert world.run(300, lambda: min(applied(world)) >= 10)
    seen = ["PD" in peers for peers in contributors(world)[2:]]
    assert any(seen) and not all(seen)


def test_everybody_restarts_from_disk() -> None:
    world = swarm(5, 3, 3)
    assert world.run(120, lambda: min(applied(world)) >= 5)
    for host in world.hosts.values():
        world.kill(host)
    for host in world.hosts.values():
        world.start(host)
    assert world.run(200, lambda: min(applied(world)) >= 8)


@pytest.mark.parametrize(
    "moment", [0.4, 0.8, *(pytest.param(moment, marks=pytest.mark.slow) for moment in (0.6, 1.0, 1.3))]
)
def test_everybody_restarts_in_the_middle_of_the_opening(moment: float) -> None:
    """SPEC A13: new seats are not mistaken for lost ones."""
    world = swarm(6, 4, 4)
    world.run(60, lambda: bool(world.truth.entries) or world.now > 50)
    world.run(moment - 0.4)
    for host in world.hosts.values():
        world.kill(host)
        world.start(host)
    assert world.run(100, lambda: min(applied(world)) >= 3)


def test_who_comes_back_after_the_end_still_finishes() -> None:
    """SPEC K7: the last round has no record after it that proves it; its update is fetched and applied."""
    world = swarm(7, 4, 4, until=8)
    assert world.run(60, lambda: min(applied(world)) >= 3)
    world.kill(world.hosts["PC"])
    alive = lambda: [h.node.state for h in world.hosts.values() if h.node]  # noqa: E731
    assert world.run(200, lambda: alive() == ["finished"] * 3)
    world.add("PZ", ["PB"])
    world.start(world.hosts["PC"])
    assert world.run(60, lambda: alive() == ["finished"] * 5)
    assert world.truth.largest < 60 and max(world.truth.entries) == 8


def test_two_need_each_other_and_one_is_replaced() -> None:
    """SPEC A3: min_peers 2, and one of two is gone for good: the third, which was never named, takes its place."""
    world = swarm(8, 2, 2, least=2)
    assert world.run(60, lambda: min(applied(world)) >= 2)
    world.kill(world.hosts["PB"])
    world.add("PC", ["PA"])
    assert world.run(150, lambda: min(applied(world)) >= 6)
    assert contributors(world)[-1] in (["PA", "PC"], ["PC", "PA"])


def test_a_host_that_leaves_has_no_seat_when_it_goes() -> None:
    """SPEC R10."""
    world = swarm(9, 4, 4)
    assert world.run(60, lambda: min(applied(world)) >= 2)
    host = world.hosts["PB"]
    world.leave(host)
    assert world.run(60, lambda: host.node is None)
    assert "PB" not in world.newest_voters()
    assert world.run(60, lambda: min(applied(world)) >= 7)


def test_a_lost_disk_costs_a_seat_and_nothing_else() -> None:
    """SPEC A13: and the host contributes and votes again."""
    world = swarm(10, 4, 4)
    assert world.run(60, lambda: min(applied(world)) >= 3)
    host = world.hosts["PB"]
    world.kill(host)
    host.disk, host.joined = type(host.disk)(), ["PA", "PC", "PD"]
    world.start(host)
    assert world.run(60, lambda: "PB" not in world.newest_voters())
    assert world.run(120, lambda: world.newest_voters()[-1] == "PB")
    assert world.run(60, lambda: "PB" in contributors(world)[-1])


def test_what_is_decoded_once_changes_no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = draw(3, (5, 5), 2.5, "storm")
    first = play(scenario, trace=True)
    monkeypatch.setattr("tests.sim.world.once", nullcontext)
    second = play(scenario, trace=True)
    assert first.events > 2000 and first.log == second.log and first.events == second.events


def explored(plan: Plan) -> None:
    tally, found = explore(plan, jobs=1)
    assert found is None, f"{found.problem}\n{again(plan, found.seed)}"
    assert tally.commits


@pytest.mark.parametrize("seed", [1000, 1003, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1001, 1002))])
def test_a_short_chaos(seed: int) -> None:
    explored(Plan(seed, 1, (2, 5), 2.0))
