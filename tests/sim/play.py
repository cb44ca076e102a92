"""A scenario played to its end: one history all the way, and, if it must go on, everybody on it afterwards.

Owns what counts as broken: an invariant, an exception of a machine, a run that does not heal. Refuses to know where
scenarios come from.
"""

import gc
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from intellectd.protocol.ids import hash_of
from tests.sim.config import sim_config
from tests.sim.faults import Faults
from tests.sim.scenario import Scenario, name_of
from tests.sim.watch import Watch
from tests.sim.world import World

HEALING_S = (
    400.0  # virtual, after the last fault, at pace 1: three more rounds for everybody, whoever was away how long
)
HEALED_ROUNDS = 3


@dataclass
class Outcome:
    problem: str | None = None
    at_s: float = 0.0  # virtual: when it broke, or ended
    commits: int = 0
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    mark: int = 0  # of 64 bits, of where it ended and of all that was drawn: of equal worlds it is equal


def make(scenario: Scenario) -> World:
    swarm = {"start_peers": scenario.start_peers, "min_peers": scenario.min_peers}
    loss = "fork" if scenario.forks else "wait"
    swarm |= {"exact_every": scenario.exact_every, "group_size": scenario.group_size}
    swarm |= {"warmup_rounds": scenario.warmup_rounds}
    world = World(scenario.seed, sim_config(None, scenario.attempt_s, scenario.pace, on_quorum_loss=loss, **swarm))
    world.net.weather = scenario.weather
    world.training.round_s = scenario.round_s
    for number in range(scenario.nodes):
        host = world.add(name_of(number), [name_of(0)] if number else [])
        host.speed *= scenario.speeds.get(host.name, 1.0)
        host.uplink = scenario.uplinks.get(host.name)
    return world


def play(scenario: Scenario, trace: bool = False) -> Outcome:
    """Never raises for what the machines do: it is in the outcome."""
    world = make(scenario)
    world.trace = trace
    faults, outcome = Faults(world, scenario), Outcome()
    faults.schedule()
    with seldom_collecting():
        try:
            if scenario.must_go_on and not scenario.forks:  # where the majority is, is not said beforehand
                Watch(world).begin()
            world.run(scenario.seconds)
            if scenario.must_go_on:
                _heal(world, HEALING_S * scenario.pace)
        except AssertionError as broken:
            outcome.problem = str(broken) or _where(broken)
        except Exception as raised:
            outcome.problem = f"{type(raised).__name__}: {raised}, {_where(raised)}"
    outcome.at_s, outcome.events, outcome.log = world.now, world.handled, world.log
    outcome.commits, outcome.faults = max(world.truth.entries, default=-1) + 1, faults.counts
    outcome.mark = _mark(world)
    return outcome


def _mark(world: World) -> int:
    drawn: list[object] = [world.rng.getstate(), world.net.rng.getstate()]
    for host in world.hosts.values():
        drawn += [host.name, host.life, host.state]
        drawn += [host.node.head.hash, host.node.context.rng.getstate()] if host.node else []
    said = repr((world.seed, world.now, world.handled, world.net.bytes, world.truth.largest, drawn))
    return int.from_bytes(hash_of("sim-mark", said.encode())[:8], "little")


def heads(world: World) -> list[int]:
    return [h.node.head.round for h in world.hosts.values() if h.node]


def applied(world: World) -> list[int]:
    return [h.state[0] if h.state else -2 for h in world.hosts.values() if h.node]


def generations(world: World) -> int:
    return len({h.node.head.generation: None for h in world.hosts.values() if h.node})


def _heal(world: World, within_s: float) -> None:
    if not world.run(within_s, lambda: generations(world) == 1):
        raise AssertionError(f"{generations(world)} lines of history after the calm")
    best = max(heads(world))
    if not world.run(within_s, lambda: min(applied(world)) >= best + HEALED_ROUNDS):
        raise AssertionError(f"stuck: heads {heads(world)}, applied {applied(world)}, were at {best}")


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {frame.name} of {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Seldom, rather: a world is one cycle of references that lives as long as it is played, and looking through it
    again and again is a tenth of the time."""
    was = gc.get_threshold()
    gc.set_threshold(200_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*was)
