"""From a seed to a scenario: weather, slow hosts and links, and a schedule of faults, all drawn beforehand.

Owns the chances. A fault that cannot take effect when its moment comes does nothing. Refuses to know worlds.
"""

from random import Random
from typing import Any

import msgspec

from tests.sim.scenario import CALM_S, Fault, Scenario, Weather, name_of

BEGINS_S = 30.0  # the first fault of fair weather: when the run has opened
RESTARTS_S_MAX, STORM_RESTARTS_S_MAX = 60.0, 12.0
STORM_ATTEMPT_S = 2.0  # shorter than a slow message takes: several ballots are under way at once
STORM_ROUND_S, STORM_MEAN_S, STORM_BEGINS_S = 3.0, 5.0, 4.0
PACES = (1.0, 1.0, 2.0, 2.0, 5.0)
SLOW_PACE, SLOW_FROM = 5.0, 33  # large swarms have the manifest's own timers
LATE = ("PX", "PY", "PZ")
EFFECTS = ("", "Send", "PersistVote", "PersistVote", "AppendEntry", "AppendEntry", "ApplyUpdate", "StartTransfer")
FAIR = ["crash"] * 2 + ["crash-point"] * 3 + ["split", "one-way", "deaf", "mute", "pair", "freeze", "slow", "trainer"]
FAIR += ["narrow", "full", "clock", "join", "leave", "wipe", "rot"]
STORM = ["crash"] * 2 + ["crash-point"] * 3 + ["split"] * 2 + ["freeze", "pair", "deaf", "mute", "full"]
STORMS = ("storm", "amnesia", "rot", "half-deaf")
OWNER = [*STORM, "wipe", "wipe", "recover", "recover", "recover"]
WEATHERS = ("fair", *STORMS, "fork", "owner", "gossip", "warm-up")


def draw(seed: int, nodes: tuple[int, int], minutes: float, kind: str = "fair") -> Scenario:
    """Everything that befalls a world of so many hosts, from the least to the most."""
    rng = Random(f"{kind} {seed}")
    count = rng.randint(*nodes)
    if kind == "gossip":
        return _gossip(rng, seed, count, minutes)
    if kind == "warm-up":
        return _warm_up(rng, seed, count, minutes)
    if kind in ("fair", "fork"):
        drawn = (_fair if kind == "fair" else _forks)(rng, seed, count, minutes)
        pace = SLOW_PACE if count >= SLOW_FROM else Random(f"pace {seed}").choice(PACES)
        return msgspec.structs.replace(drawn, pace=pace)
    return _half_deaf(rng, seed, count, minutes) if kind == "half-deaf" else _storm(rng, seed, count, minutes, kind)


def _fair(rng: Random, seed: int, count: int, minutes: float) -> Scenario:
    weather = Weather(
        loss=rng.choice([0, 0.01, 0.05]),
        duplicates=rng.choice([0, 0, 0.02]),
        latency_s=rng.choice([0.01, 0.05, 0.3]),
        jitter=rng.choice([0.1, 0.5, 0.9]),
        reorder=rng.choice([0, 0.01, 0.05]),
        ring_s=rng.choice([1.0, 1.0, 3.0, 9.0]),
        drift=rng.choice([0.001, 0.001, 0.01]),
    )
    names = [name_of(n) for n in range(count)]
    start = rng.choice([1, count])
    wide = 1 + count / 8  # beacons go to everybody: what is slow for eight is too little for a hundred
    return Scenario(
        seed=seed,
        nodes=count,
        minutes=minutes,
        start_peers=start,
        min_peers=min(rng.choice([1, 1, 2]), start),
        weather=weather,
        speeds={name: s for name in names if (s := rng.choice([1, 1, 1, 1.4, 2.5])) != 1},
        uplinks={name: round(u * wide) for name in names if (u := rng.choice([0, 0, 0, 0, 0, 8000, 24_000]))},
        faults=tuple(_Drawing(rng, names, minutes, RESTARTS_S_MAX).faults(FAIR, BEGINS_S, rng.choice([15, 40, 120]))),
    )


def _warm_up(rng: Random, seed: int, count: int, minutes: float) -> Scenario:
    """Newcomers count nothing at first, and hosts come and go: in fair weather, with forks, in groups."""
    drawn = (_fair, _forks, _gossip)[seed % 3](rng, seed, count, minutes)
    return msgspec.structs.replace(drawn, warmup_rounds=rng.choice([1, 2, 4]), round_s=rng.choice([3.0, 10.0]))


def _gossip(rng: Random, seed: int, count: int, minutes: float) -> Scenario:
    """Fair weather, with enough hosts for two groups; every third world forks, too."""
    drawn = (_forks if seed % 3 == 2 else _fair)(rng, seed, max(4, count), minutes)
    every, size = rng.choice([2, 3, 4, 8]), rng.choice([2, 2, 3])
    pace = SLOW_PACE if count >= SLOW_FROM else rng.choice(PACES)
    return msgspec.structs.replace(drawn, exact_every=every, group_size=size, pace=pace)


def _forks(rng: Random, seed: int, count: int, minutes: float) -> Scenario:
    """As in fair weather, with more and longer cuts: survivors go on by themselves, and meet again."""
    fair = _fair(rng, seed, count, minutes)
    drawing = _Drawing(rng, [name_of(n) for n in range(count)], minutes, RESTARTS_S_MAX)
    # A state that rots is found out by a quorum on the right one, and survivors may be too few for that.
    kept = [fault for fault in fair.faults if fault.kind != "rot"]
    cuts = drawing.faults(["split", "crash", "deaf"], BEGINS_S, 40.0)
    return msgspec.structs.replace(fair, forks=True, faults=tuple(sorted([*kept, *cuts], key=lambda f: f.at)))


def _storm(rng: Random, seed: int, count: int, minutes: float, kind: str) -> Scenario:
    """As bad as it gets, from the beginning, and never mind whether it can go on."""
    names = [name_of(n) for n in range(count)]
    weather = Weather(loss=0.08, duplicates=0.02, latency_s=0.5)
    kinds = {"amnesia": [*STORM, "wipe"], "owner": OWNER}.get(kind, STORM)
    if kind == "rot":
        weather, kinds = Weather(latency_s=0.2), ["rot", "rot", "trainer"]
    faults = _Drawing(rng, names, minutes, STORM_RESTARTS_S_MAX).faults(kinds, STORM_BEGINS_S, STORM_MEAN_S)
    return Scenario(
        seed=seed,
        nodes=count,
        minutes=minutes,
        attempt_s=STORM_ATTEMPT_S,
        round_s=STORM_ROUND_S,
        must_go_on=False,
        weather=weather,
        faults=tuple(faults),
    )


def _half_deaf(rng: Random, seed: int, count: int, minutes: float) -> Scenario:
    """One voter is heard by everybody and hears nobody, or the other way round, from the opening on; a host joins."""
    names = [name_of(n) for n in range(max(3, count))]
    ill, ends = rng.choice(names), minutes * 60 - CALM_S
    faults = (
        Fault(round(rng.uniform(4, 10), 3), rng.choice(["deaf", "mute"]), ill, {"spells": [[0.0, ends]]}),
        Fault(round(rng.uniform(15, 30), 3), "join", rng.choice([n for n in names if n != ill]), {"name": LATE[0]}),
    )
    return Scenario(
        seed=seed,
        nodes=len(names),
        minutes=minutes,
        start_peers=len(names),
        round_s=STORM_ROUND_S,
        weather=Weather(loss=rng.choice([0, 0.01, 0.05]), latency_s=rng.choice([0.01, 0.05, 0.3])),
        faults=faults,
    )


class _Drawing:
    def __init__(self, rng: Random, names: list[str], minutes: float, down_s: float) -> None:
        self._rng, self._names, self._until_s, self._down_s = rng, list(names), minutes * 60 - CALM_S, down_s
        self._late = list(LATE)

    def faults(self, kinds: list[str], begins_s: float, mean_s: float) -> list[Fault]:
        found, moment = [], begins_s
        while (moment := moment + self._rng.expovariate(1 / mean_s)) < self._until_s:
            host, kind = self._rng.choice(self._names), self._rng.choice(kinds)
            found.append(Fault(round(moment, 3), kind, host, self._params(kind)))
        return found

    def _params(self, kind: str) -> dict[str, Any]:  # noqa: PLR0911, PLR0912 - one line a kind
        rng = self._rng
        match kind:
            case "crash":
                return {"back": self._s(1, self._down_s), "machine": rng.random() < 0.5}
            case "crash-point":
                return {"effect": rng.choice(EFFECTS), "skip": rng.randint(0, 6), "back": self._s(1, self._down_s / 2)}
            case "freeze":
                return {"seconds": rng.choice([self._s(1, 24), self._s(24, 70)])}
            case "slow":
                return {"event_s": self._s(0.005, 0.06), "seconds": self._s(5, 90)}
            case "clock":
                return {"wall": rng.choice([-1, 1]) * self._s(1, 7200), "jump": rng.choice([0, 0, self._s(1, 60)])}
            case "split" | "one-way":
                return {"side": [n for n in self._names if rng.random() < 0.5], "spells": self._spells()}
            case "deaf" | "mute":
                return {"spells": self._spells()}
            case "pair":
                return {"other": rng.choice(self._names), "spells": self._spells()}
            case "narrow":
                return {"uplink": round(self._s(4000, 30_000)), "seconds": self._s(5, 120)}
            case "wipe":
                return {"back": self._s(1, self._down_s)}
            case "recover":
                return {"signs": self._s(0, 8)}
            case "full":
                return {"seconds": self._s(2, self._down_s)}
            case "join":
                if not self._late:
                    return {"name": LATE[0]}
                self._names.append(self._late.pop(0))
                return {"name": self._names[-1]}
        return {}

    def _spells(self) -> list[list[float]]:
        """Of a cut: one, sometimes a long one, or several short ones."""
        rng, spells, moment = self._rng, [], 0.0
        if rng.random() < 0.7:
            return [[0.0, rng.choice([self._s(3, 40), self._s(3, 40), self._s(60, 300)])]]
        for _ in range(rng.randint(3, 6)):
            ends = moment + self._s(2, 8)
            spells.append([round(moment, 3), round(ends, 3)])
            moment = ends + self._s(1, 5)
        return spells

    def _s(self, least: float, most: float) -> float:
        return round(self._rng.uniform(least, most), 3)
