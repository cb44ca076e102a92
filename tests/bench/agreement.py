"""How long faults hold the run up, in virtual seconds, at the default timers and the latencies of a WAN.

`python tests/bench/agreement.py [--quick] [--json]`. The production machines on one heap (tests/sim); each figure is
the worst over seeds, against the limit that the timers are made for. Nothing is asserted here.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.protocol.leader import ACCEPT, PREPARE, REDUCE
from intellectd.protocol.manifest import RunConfig, config_from_toml
from tests.sim.host import CrashPoint, Host
from tests.sim.play import generations
from tests.sim.scenario import Weather, name_of
from tests.sim.world import World

LATENCY_S = 0.1  # one way, between continents
RING_S, ROUND_S = 20.0, 120.0
NODES = 7
COMMIT_LIMIT_S, NOTICE_LIMIT_S, HEAL_LIMIT_S = (
    30.0 + RING_S,
    15.0,
    60.0,
)  # what the defaults of the manifest's timers promise
EXPELLED_LIMIT = 0.01  # voters an hour and host, though processes stall for up to 24 s
STALLS_A_NODE_HOUR, STALL_MEDIAN_S, STALL_S_MAX = 5.0, 3.0, 24.0
PHASES = {"prepare": PREPARE, "ring": REDUCE, "vote": ACCEPT}
EFFECTS = {"before its vote is on disk": "PersistVote", "before the record is on disk": "AppendEntry"}
Row = dict[str, Any]


def config(loss: str = "wait") -> RunConfig:
    swarm = {"start_peers": NODES, "on_quorum_loss": loss}
    return config_from_toml({"name": "bench", "swarm": swarm, "inner": {"steps": 10}})


def world_of(seed: int, loss: str = "wait") -> World:
    """Seven hosts, two rounds in."""
    world = World(seed, config(loss))
    world.net.weather = Weather(latency_s=LATENCY_S, ring_s=RING_S, loss=0.01)
    world.training.round_s = ROUND_S
    for number in range(NODES):
        world.add(name_of(number), [name_of(0)] if number else [])
    world.run(3600.0, lambda: newest(world) >= 2)
    return world


def newest(world: World) -> int:
    return max(host.node.head.round for host in world.hosts.values() if host.node)


def leader_in(world: World, phase: str) -> Host | None:
    for host in world.hosts.values():
        attempt = host.node.round.leading.attempt if host.node else None
        if attempt is not None and attempt.phase == phase:
            return host
    return None


def until_next_commit(world: World) -> float:
    began, stood = world.now, newest(world)
    world.run(3600.0, lambda: newest(world) > stood)
    return world.now - began


def leader_killed_in(phase: str, seed: int) -> float:
    """Seconds from its death to the next record, the ring that may have to be done again included."""
    world = world_of(seed)
    world.run(3600.0, lambda: leader_in(world, phase) is not None)
    leader = leader_in(world, phase)
    assert leader is not None
    world.kill(leader)
    return until_next_commit(world)


def leader_killed_before(effect: str, seed: int) -> float:
    """It dies between two effects."""
    world = world_of(seed)
    world.run(3600.0, lambda: leader_in(world, REDUCE if effect == "AppendEntry" else PREPARE) is not None)
    leader = leader_in(world, REDUCE if effect == "AppendEntry" else PREPARE)
    assert leader is not None
    world.crash_points[leader.name] = CrashPoint(effect, 0, 3600.0)
    world.run(3600.0, lambda: leader.node is None)
    return until_next_commit(world)


def silent_in_a_ring(seed: int) -> float:
    """Seconds from a member's freeze to the first word that the ring is broken."""
    world = world_of(seed)
    world.run(3600.0, lambda: leader_in(world, REDUCE) is not None)
    world.run(RING_S / 4)
    leader = leader_in(world, REDUCE)
    frozen = next(host for host in world.hosts.values() if host is not leader)
    frozen.stopped_until = world.now + 600.0
    began, world.trace, seen = world.now, True, len(world.log)
    world.run(600.0, lambda: any("transfer_aborted" in line for line in world.log[seen:]))
    return world.now - began


def one_head_again(loss: str, seed: int) -> float:
    """Three of seven were cut off for ten minutes: seconds from healing until all follow one line and stand on it."""
    world = world_of(seed, loss)
    some = [name_of(n) for n in range(3)]
    others = [name_of(n) for n in range(3, NODES)]
    world.net.cut([*product(some, others), *product(others, some)])
    world.run(600.0)
    world.net.mend_all()
    began = world.now

    def together() -> bool:
        nodes = [host.node for host in world.hosts.values() if host.node]
        return generations(world) == 1 and len({node.head.hash: None for node in nodes}) == 1

    world.run(3600.0, together)
    return world.now - began


def expelled(seed: int, hours: float) -> float:
    """Voters that lost their seat an hour and host, though nobody did worse than to stall."""
    world = world_of(seed)
    end = world.now + hours * 3600.0

    def stall(host: Host) -> None:
        if world.now < end:
            seconds = min(STALL_S_MAX, world.rng.lognormvariate(0.0, 1.0) * STALL_MEDIAN_S)
            host.stopped_until = max(host.stopped_until, world.now + seconds)
            world.at(world.rng.expovariate(STALLS_A_NODE_HOUR / 3600.0), lambda: stall(host))

    for host in world.hosts.values():
        world.at(world.rng.expovariate(STALLS_A_NODE_HOUR / 3600.0), lambda host=host: stall(host))  # type: ignore[misc]
    first = newest(world)
    world.run(hours * 3600.0)
    lost, before = 0, list(world.truth.entries[first].record.next_voters)
    for round_ in range(first + 1, newest(world) + 1):
        after = list(world.truth.entries[round_].record.next_voters)
        lost += sum(voter not in after for voter in before)
        before = after
    return lost / (hours * NODES)


def worst(measure: Callable[[int], float], seeds: int) -> float:
    return max(measure(seed) for seed in range(seeds))


def rows(seeds: int, hours: float) -> Iterator[Row]:
    killed = [worst(lambda s, p=phase: leader_killed_in(p, s), seeds) for phase in PHASES.values()]  # type: ignore[misc]
    killed += [worst(lambda s, e=kind: leader_killed_before(e, s), seeds) for kind in EFFECTS.values()]  # type: ignore[misc]
    for name, value in zip((*PHASES, *EFFECTS), killed, strict=True):
        slug = name.replace(" ", "_")
        yield row(f"next_commit_leader_killed_{slug}", value, "s", COMMIT_LIMIT_S)
    yield row("silent_member_noticed", worst(silent_in_a_ring, seeds), "s", NOTICE_LIMIT_S)
    for loss in ("wait", "fork"):
        yield row(f"one_head_after_{loss}", worst(lambda s, k=loss: one_head_again(k, s), seeds), "s", HEAL_LIMIT_S)  # type: ignore[misc]
    yield row("voters_expelled_by_stalls", worst(lambda s: expelled(s, hours), 1), "an hour and host", EXPELLED_LIMIT)


def row(name: str, value: float, unit: str, limit: float) -> Row:
    return {"name": name, "value": round(value, 3), "unit": unit, "against": limit, "ratio": round(value / limit, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Virtual seconds that faults cost, against their limits.")
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = list(rows(*((2, 3.0) if options.quick else (20, 40.0))))
    if options.json:
        print(json.dumps({"schema": 1, "results": results}))
        return
    for result in results:
        value, limit = f"{result['value']:>8} {result['unit']:<16}", result["against"]
        print(f"{result['name']:<56} {value} {result['ratio']:>6} of {limit}")


if __name__ == "__main__":
    main()
