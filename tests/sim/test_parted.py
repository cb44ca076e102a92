"""Links that are cut between hosts that live: rounds go on, with everybody that can be in a ring. SPEC A10, C8."""

import pytest

from tests.sim.config import sim_config
from tests.sim.play import heads
from tests.sim.scenario import Weather, name_of
from tests.sim.world import World


def swarm(seed: int, count: int) -> World:
    world = World(seed, sim_config(start_peers=count))
    world.net.weather = Weather(loss=0.0)
    for number in range(count):
        world.add(name_of(number), ["PA"] if number else []).speed = 1.0
    assert world.run(60, lambda: min(heads(world)) >= 1)
    return world


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_that_cannot_reach_each_other_are_both_in_the_rounds(seed: int) -> None:
    world = swarm(seed, 6)
    world.net.cut([("PB", "PC"), ("PC", "PB")])
    newest = max(world.truth.entries)
    assert world.run(200, lambda: min(heads(world)) >= newest + 6)
    later = [world.truth.entries[newest + number] for number in range(2, 7)]
    counts = sorted(len(entry.blob.contributions) for entry in later)
    assert counts[0] >= 5 and counts[1] == 6, "one of the two that leads does not hear the other"


def test_some_that_hear_nobody_of_the_others_hold_no_round_up() -> None:
    """Nothing comes to three of eight, and everything from them: they seem to live, and answer nothing."""
    world = swarm(4, 8)
    deaf = ["PF", "PG", "PH"]
    world.net.cut([(name, other) for name in world.hosts if name not in deaf for other in deaf])
    rest = [host for host in world.hosts.values() if host.name not in deaf]
    newest = max(world.truth.entries)
    assert world.run(150, lambda: all(host.node and host.node.head.round >= newest + 2 for host in rest))


@pytest.mark.parametrize("seed", range(4))
def test_two_of_which_one_hears_nothing_are_not_all_that_is_tried(seed: int) -> None:
    """They are the whole roster, and each ring of theirs breaks; a third one, who could work, is named in time (A3)."""
    world = World(seed, sim_config(start_peers=3, min_peers=2))
    world.net.weather = Weather(loss=0.0)
    for number in range(3):
        world.add(name_of(number), ["PA"] if number else []).speed = 1.0
    assert world.run(60, lambda: min(heads(world)) >= 1)
    third = world.hosts["PC"]
    world.kill(third)
    newest = max(world.truth.entries)
    assert world.run(200, lambda: max(world.truth.entries) >= newest + 3)  # the other two alone
    world.net.cut([(name, "PB") for name in world.hosts])
    world.start(third)
    newest = max(world.truth.entries)
    rest = [world.hosts["PA"], third]
    assert world.run(160, lambda: all(host.node and host.node.head.round >= newest + 3 for host in rest))
