"""Lost quorums: waiting, forking, the owner's word; and one history again when the lines meet. SPEC G*."""

from itertools import product

import pytest

from intellectd.protocol.recovery import NoRecovery
from tests.sim.config import sim_config
from tests.sim.drawing import draw
from tests.sim.faults import recover
from tests.sim.host import Disk
from tests.sim.play import generations, play
from tests.sim.world import World


def forking(seed: int, names: str, **swarm: int) -> World:
    world = World(seed, sim_config(on_quorum_loss="fork", start_peers=len(names), **swarm))
    for n, letter in enumerate(names):
        world.add("P" + letter, ["PA"] if n else [])
    return world


def heads(world: World, names: str | None = None) -> list[bytes]:
    hosts = [world.hosts["P" + n] for n in names] if names else list(world.hosts.values())
    return [h.node.head.hash for h in hosts if h.node]


def rounds(world: World, names: str | None = None) -> list[int]:
    hosts = [world.hosts["P" + n] for n in names] if names else list(world.hosts.values())
    return [h.state[0] if h.state else -2 for h in hosts if h.node]


def tokens(world: World, name: str) -> int:
    node = world.hosts[name].node
    assert node is not None
    return node.head.tokens_total


def split(world: World, one: str, other: str) -> None:
    pairs = list(product(["P" + n for n in one], ["P" + n for n in other]))
    world.net.cut([*pairs, *((b, a) for a, b in pairs)])


def heal(world: World) -> None:
    world.net.mend_all()


def test_survivors_without_a_quorum_go_on_by_themselves() -> None:
    """SPEC G3: three of five are gone for good."""
    world = forking(1, "ABCDE")
    assert world.run(120, lambda: min(rounds(world)) >= 3)
    for name in ("PA", "PC", "PE"):
        world.kill(world.hosts[name])
    at = max(rounds(world))
    assert world.run(120, lambda: min(rounds(world)) >= at + 4)
    assert generations(world) == 1 and sorted(world.newest_voters()) == ["PB", "PD"]


def test_a_minority_forks_and_comes_home_to_the_majority() -> None:
    """SPEC G6-G8: the line with more tokens stands; what the other did is left, and both go on together."""
    world = forking(2, "ABCDE")
    assert world.run(120, lambda: min(rounds(world)) >= 3)
    split(world, "ABC", "DE")
    assert world.run(200, lambda: generations(world) == 2 and min(rounds(world)) >= 9)
    heal(world)
    assert world.run(60, lambda: generations(world) == 1)
    assert sorted(world.newest_voters())[:3] == ["PA", "PB", "PC"]
    best = max(rounds(world))
    assert world.run(100, lambda: min(rounds(world)) >= best + 3)


@pytest.mark.slow  # six hosts; two pieces meet above, and whole storms below
def test_three_pieces_none_of_them_a_quorum_become_one() -> None:
    world = forking(3, "ABCDEF")
    assert world.run(120, lambda: min(rounds(world)) >= 3)
    split(world, "AB", "CDEF")
    split(world, "CD", "EF")
    assert world.run(200, lambda: generations(world) == 3 and min(rounds(world)) >= 7)
    heal(world)
    assert world.run(60, lambda: len(dict.fromkeys(heads(world))) == 1 or generations(world) == 1)
    best = max(rounds(world))
    assert world.run(100, lambda: min(rounds(world)) >= best + 3)


def test_a_run_that_waits_does_not_fork() -> None:
    world = World(4, sim_config(start_peers=4))
    for n, letter in enumerate("ABCD"):
        world.add("P" + letter, ["PA"] if n else [])
    assert world.run(120, lambda: min(rounds(world)) >= 2)
    split(world, "AB", "CD")  # the senior's half goes on (Q1)
    world.run(10)
    stood = rounds(world, "CD")
    world.run(100)  # three times as long as a run that forks would wait
    assert rounds(world, "CD") == stood and generations(world) == 1


def test_who_was_down_while_the_others_branched_follows_them() -> None:
    world = forking(5, "ABCD")
    assert world.run(120, lambda: min(rounds(world)) >= 3)
    for name in ("PA", "PB"):
        world.kill(world.hosts[name])
    at = max(rounds(world))
    assert world.run(200, lambda: min(rounds(world)) >= at + 4)
    for name in ("PA", "PB"):
        world.start(world.hosts[name])
    assert world.run(60, lambda: generations(world) == 1)
    best = max(rounds(world))
    assert world.run(100, lambda: min(rounds(world)) >= best + 3)


def test_a_joiner_learns_a_history_with_branches_in_it() -> None:
    world = forking(6, "ABCD")
    assert world.run(120, lambda: min(rounds(world)) >= 3)
    for name in ("PA", "PB"):
        world.kill(world.hosts[name])
    at = max(rounds(world))
    assert world.run(200, lambda: min(rounds(world)) >= at + 4)
    world.add("PZ", ["PC"])
    best = max(rounds(world))
    assert world.run(100, lambda: min(rounds(world)) >= best + 2)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 2, 3, 4))])
def test_a_short_storm_of_forks(seed: int) -> None:
    scenario = draw(seed, (2, 7), 3.0, "fork")
    outcome = play(scenario)
    assert outcome.problem is None, f"{outcome.problem}\n{scenario.on_one_line()}"


def test_the_owner_ends_a_wait_and_who_comes_back_later_follows() -> None:
    """SPEC G5, G6: though the others went on among themselves meanwhile, the owner's word stands."""
    world = World(7, sim_config(start_peers=5))
    for n, letter in enumerate("ABCDE"):
        world.add("P" + letter, ["PA"] if n else [])
    assert world.run(120, lambda: min(rounds(world)) >= 2)
    split(world, "ABC", "DE")
    assert world.run(60, lambda: max(rounds(world, "ABC")) >= 5)
    recover(world, world.hosts["PD"])
    assert world.run(100, lambda: min(rounds(world, "DE")) >= 6)
    heal(world)
    assert world.run(60, lambda: generations(world) == 1)
    assert all(h.node.head.recoveries == 1 for h in world.hosts.values() if h.node)
    best = max(rounds(world))
    assert world.run(100, lambda: min(rounds(world)) >= best + 3)


def test_there_is_nothing_to_recover_while_a_quorum_is_here() -> None:
    world = World(8, sim_config(start_peers=3))
    for n, letter in enumerate("ABC"):
        world.add("P" + letter, ["PA"] if n else [])
    assert world.run(120, lambda: min(rounds(world)) >= 2)
    with pytest.raises(NoRecovery, match="a quorum of the voters is here"):
        recover(world, world.hosts["PA"])
    for name in ("PA", "PB"):
        world.kill(world.hosts[name])
    world.run(20)
    recover(world, world.hosts["PC"])
    at = max(rounds(world))
    assert world.run(100, lambda: min(rounds(world)) >= at + 3)


def wipe(world: World, names: str) -> None:
    """Their disks are lost, their keys are not."""
    for name in names:
        host = world.hosts["P" + name]
        world.kill(host)
        host.disk, host.joined = Disk(), [other for other in world.hosts if other != host.name]
        world.truth.wiped(host)
        world.start(host)


def test_the_owner_ends_a_wait_of_voters_that_all_forgot_their_votes() -> None:
    """SPEC G5, G9: PD has no vote, its log and its state; all the voters have is their keys. And a life that forgot
    the recovery itself votes in it no more."""
    world = World(9, sim_config(start_peers=3))
    for n, letter in enumerate("ABC"):
        world.add("P" + letter, ["PA"] if n else [])
    assert world.run(120, lambda: min(rounds(world)) >= 2)
    attach = world.training.attach_soon
    world.training.attach_soon = lambda host: None if host.name == "PD" else attach(host)  # type: ignore[method-assign]
    world.add("PD", ["PA"])
    assert world.run(60, lambda: rounds(world, "D")[0] >= 3)
    wipe(world, "ABC")
    world.run(60)
    stood = rounds(world)
    assert len(dict.fromkeys(stood)) == 1, "all have the state again, and nobody votes"
    recover(world, world.hosts["PD"])
    assert world.run(100, lambda: min(rounds(world)) >= stood[0] + 4)
    assert all(h.node.head.recoveries == 1 for h in world.hosts.values() if h.node)
    wipe(world, "B")
    best = max(rounds(world))
    assert world.run(100, lambda: min(rounds(world)) >= best + 3)


def test_the_owner_gives_up_a_round_whose_bytes_are_lost() -> None:
    """SPEC G5: a fork of one host, which all follow; but its disk is lost before anybody has the bytes."""
    world = forking(6, "ABC")
    assert world.run(120, lambda: min(rounds(world)) >= 2)
    split(world, "A", "BC")
    for name in ("PB", "PC"):
        world.kill(world.hosts[name])
    at = rounds(world, "A")[0]
    assert world.run(120, lambda: rounds(world, "A")[0] >= at + 3)
    for name in ("PB", "PC"):
        world.start(world.hosts[name])
    alone = world.hosts["PA"]
    newest = list(alone.disk.entries)
    heal(world)
    assert world.run(60, lambda: any(len(world.hosts[n].disk.entries) >= len(newest) for n in ("PB", "PC")))
    wipe(world, "A")
    world.run(60)
    assert max(rounds(world)) < len(newest) - 1, "nobody has the newest state"
    assert world.run(200, lambda: min(heads_at(world)) == max(heads_at(world)))
    recover(world, world.hosts["PB"])
    best = max(heads_at(world))
    assert world.run(150, lambda: min(rounds(world)) >= best + 3)
    assert generations(world) == 1


def heads_at(world: World) -> list[int]:
    return [h.node.head.round if h.node else -2 for h in world.hosts.values()]
