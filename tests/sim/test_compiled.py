"""Compiled machines in compiled worlds: the same as they are, and as closely watched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from intellectd.protocol import node
from tests.sim import world as world_module
from tests.sim.config import sim_config
from tests.sim.explore import Plan, explore, report
from tests.sim.scenario import name_of
from tests.sim.violation import Violation
from tests.sim.world import World

PLAN = Plan(20, 16, (2, 9), 2.0)  # one of each weather
PROBE = "from tests.sim import test_compiled as t; print(t.is_compiled(), *t.seen(), sep='\\n')"


def is_compiled() -> bool:
    return not any(str(module.__file__).endswith(".py") for module in (node, world_module))


def forgets_an_update(world: World) -> None:
    for host in world.hosts.values():
        host.disk.updates.clear()


def forgets_its_log(world: World) -> None:
    for host in world.hosts.values():
        host.disk.entries.clear()


def remembers_too_much(world: World) -> None:
    for host in world.hosts.values():
        if host.node is not None:
            host.node.relaying._direct.update({f"P{n}": 0.0 for n in range(10_000)})


def seen() -> list[str]:
    """What is said of a world in which somebody does so."""
    found = []
    for tamper in (forgets_an_update, forgets_its_log, remembers_too_much):
        world = World(1, sim_config(start_peers=3))
        for n in range(3):
            world.add(name_of(n), [name_of(0)] if n else [])
        world.run(30)
        try:
            for _ in range(100):
                tamper(world)
                world.run(1)
            found.append(f"{tamper.__name__}: unseen")
        except Violation as violation:
            found.append(f"{tamper.__name__}: {violation}")
    return found


def test_what_is_tampered_with_is_seen() -> None:
    assert not is_compiled()
    assert not [line for line in seen() if "unseen" in line]


@pytest.mark.slow
def test_compiled_worlds_are_the_same() -> None:
    pytest.importorskip("mypyc")
    from tests.sim import compiled

    place = compiled.tree()

    def there(*arguments: str) -> str:
        found = compiled.environment(place)
        return subprocess.run(
            [sys.executable, *arguments], env=found, cwd=Path("/"), capture_output=True, text=True, check=True
        ).stdout

    assert there("-c", PROBE).splitlines() == ["True", *seen()]
    low, high = PLAN.nodes
    arguments = [f"--first-seed={PLAN.first_seed}", f"--seeds={PLAN.seeds}", f"--nodes={low}-{high}"]
    said = json.loads(there("-m", "tests.sim", "explore", *arguments, f"--minutes={PLAN.minutes}", "--json"))
    here = report(PLAN, explore(PLAN, jobs=1)[0])
    del said["seeds_per_minute"], here["seeds_per_minute"]
    assert said == here and said["commits"]
