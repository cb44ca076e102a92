"""Swarms in which not everybody tells everybody; `python -m tests.sim scale` has large ones. SPEC A16, B9-B12, W11."""

import pytest

from tests.sim import scale
from tests.sim.config import sim_config
from tests.sim.drawing import draw
from tests.sim.play import applied, heads, play
from tests.sim.scenario import Weather, name_of
from tests.sim.world import World


def swarm(seed: int, count: int) -> World:
    world = World(seed, sim_config(start_peers=count))
    world.net.weather = Weather(loss=0.01)
    for number in range(count):
        world.add(name_of(number), ["PA"] if number else []).speed = 1.0
    return world


def test_forty_hosts_contribute_each_round_and_few_tell_everybody() -> None:
    world = swarm(1, 40)
    assert world.run(30, lambda: min(heads(world)) >= 1)
    before, at = dict(world.net.sent_by), world.now
    assert world.run(60, lambda: min(applied(world)) >= 3)
    newest = max(world.truth.entries)
    assert all(len(world.truth.entries[round_].blob.contributions) == 40 for round_ in range(1, newest + 1))
    voters = world.truth.entries[newest].record.next_voters
    members = [name for name in world.hosts if name not in voters]
    sent = [(world.net.sent_by[name] - before[name]) / (world.now - at) for name in members]
    assert len(members) == 9 and max(sent) < 39 / 2, "in a dense swarm it were 39 a second with each beacon"


@pytest.mark.slow
def test_the_told_leaders_die_together() -> None:
    """SPEC B10: then those are told that come after them."""
    world = swarm(2, 40)
    assert world.run(30, lambda: min(heads(world)) >= 1)
    node = world.hosts["PA"].node
    assert node is not None
    for leader in node.membership.audience.first():
        world.kill(world.hosts[leader])
    newest = max(world.truth.entries)
    assert world.run(120, lambda: min(heads(world)) >= newest + 2)


@pytest.mark.slow
def test_a_plan_is_lost_with_the_voter_that_should_pass_it_on() -> None:
    """SPEC A12: the leader says it again to those that do not show the transfer."""
    world = swarm(3, 40)
    assert world.run(30, lambda: min(heads(world)) >= 1)
    voters = world.newest_voters()
    members = [name for name in world.hosts if name not in voters]
    world.net.cut([(voter, name) for voter in voters[:7] for name in members])
    newest = max(world.truth.entries)
    assert world.run(120, lambda: min(heads(world)) >= newest + 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_sixty_hosts_under_faults(seed: int) -> None:
    outcome = play(draw(seed, (60, 60), 2.0))
    assert outcome.problem is None and outcome.commits > 3


@pytest.mark.slow
def test_what_a_host_sends_does_not_grow_with_the_swarm() -> None:
    """From 48 hosts to 120 at the manifest's timers; with everybody telling everybody it were 2.5 times as much."""
    few, many = scale.grow(48, 3.0), scale.grow(120, 3.0)
    assert many.messages_s < 1.2 * few.messages_s and many.rounds >= 1
