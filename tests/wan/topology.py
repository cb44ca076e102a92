"""What a network is made of, and its files: hosts with links of their own, and a path for each ordered pair.

A topology file is TOML; an entry about paths names hosts or regions, and a later one overrides an earlier one:

    mtu = 1500                     # bytes, everywhere
    [host.oslo]                    # every key has a default: no limit, no NAT
    region = "europe"
    up_mbit = 40                   # the host's own link, shared by all that it sends
    down_mbit = 250
    queue_ms = 50                  # of both directions: what waits before a packet is dropped, at the link's rate
    nat = "symmetric"              # or "full-cone", "port-restricted"
    [[path]]
    between = ["europe", "asia"]   # both directions; or from = "oslo", to = "asia"
    rtt_ms = 230                   # half of it each way; or delay_ms, one way
    jitter_ms = 2                  # added to the delay, wandering between 0 and this
    loss = 1e-4                    # of each packet, alone
    mbit = 500                     # of the path itself
    queue_ms = 100

Owns the names, units, defaults and what a file may say. Refuses to know how a network is built.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

FOLDER = Path(__file__).parent / "topologies"
NATS = ("none", "full-cone", "port-restricted", "symmetric")
HOSTS_MAX = 64  # as in router/model.h
MTU_MIN = 576  # every host must take that much (RFC 791)
MTU_MAX = 65535
# A queue of a round trip at the link's rate, the rule for one long flow (Villamizar and Song 1994); a hundred
# milliseconds is what the rule of thumb assumed for a round trip (Appenzeller, Keslassy and McKeown 2004).
QUEUE_MS = 100.0


class TopologyError(ValueError):
    """A topology that cannot be; says what is wrong with it."""


@dataclass(frozen=True)
class Host:
    """Rates in Mbit/s of IP packets, 0 for no limit; queue_ms: what waits for each direction of the link."""

    name: str
    region: str = ""
    up_mbit: float = 0.0
    down_mbit: float = 0.0
    queue_ms: float = QUEUE_MS
    nat: str = "none"


@dataclass(frozen=True)
class Route:
    """From one host to another; the way back is a path of its own."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    mbit: float = 0.0
    queue_ms: float = QUEUE_MS
    open: bool = True


@dataclass(frozen=True)
class Topology:
    hosts: tuple[Host, ...]
    paths: Mapping[tuple[str, str], Route]  # (from, to); a pair that is missing has the defaults
    mtu: int = 1500

    def __post_init__(self) -> None:
        names = self.names
        if not 1 <= len(names) <= HOSTS_MAX or len({*names}) < len(names):
            raise TopologyError(f"{len(names)} hosts; there may be 1 to {HOSTS_MAX}, of different names")
        if not MTU_MIN <= self.mtu <= MTU_MAX:
            raise TopologyError(f"mtu {self.mtu}; it may be {MTU_MIN} to {MTU_MAX}")
        for host in self.hosts:
            if host.nat not in NATS:
                raise TopologyError(f"host {host.name}: nat {host.nat!r} is none of {', '.join(NATS)}")
            if min(host.up_mbit, host.down_mbit, host.queue_ms) < 0:
                raise TopologyError(f"host {host.name}: a rate or queue below zero")
        for (start, end), path in self.paths.items():
            if start not in names or end not in names or start == end:
                raise TopologyError(f"a path from {start!r} to {end!r}; hosts are {', '.join(names)}")
            if min(path.delay_ms, path.jitter_ms, path.mbit, path.queue_ms, path.loss) < 0 or path.loss > 1:
                raise TopologyError(f"path {start} → {end}: below zero, or a loss above one")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(host.name for host in self.hosts)

    def path(self, start: str, end: str) -> Route:
        return self.paths.get((start, end), Route())

    def scaled(self, factor: float) -> Self:
        """Every rate times so much: with as many times the bytes, all takes the same time. Delays stay."""
        hosts = tuple(replace(h, up_mbit=h.up_mbit * factor, down_mbit=h.down_mbit * factor) for h in self.hosts)
        paths = {pair: replace(path, mbit=path.mbit * factor) for pair, path in self.paths.items()}
        return replace(self, hosts=hosts, paths=paths)


def uniform(names: tuple[str, ...], path: Route, mtu: int = 1500, **host: Any) -> Topology:
    """Hosts alike, and the same path between any two of them."""
    pairs = {(start, end): path for start in names for end in names if start != end}
    return Topology(tuple(Host(name, **host) for name in names), pairs, mtu)


def load(name: str | Path) -> Topology:
    """A file by its path, or one of this folder's by its name; TopologyError, OSError."""
    path = Path(name)
    if not path.exists() and path.name == str(name):
        path = (FOLDER / name).with_suffix(".toml")
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TopologyError) as error:
        raise TopologyError(f"{path}: {error}") from error


def parse(told: Mapping[str, Any]) -> Topology:
    """Of a file's content; TopologyError."""
    _known("the file", told, {"mtu", "host", "path"})
    hosts = []
    for name, about in told.get("host", {}).items():
        _known(f"host {name}", about, {field.name for field in fields(Host)} - {"name"})
        hosts.append(Host(name, **_typed(f"host {name}", about, {"region", "nat"})))
    paths: dict[tuple[str, str], Route] = {}
    for about in told.get("path", []):
        _add(paths, hosts, about)
    return Topology(tuple(hosts), paths, int(told.get("mtu", 1500)))


def _add(paths: dict[tuple[str, str], Route], hosts: list[Host], about: Mapping[str, Any]) -> None:
    ends = about.get("between") or [about.get("from"), about.get("to")]
    place = f"path {ends}"
    values = {field.name for field in fields(Route)} - {"open"} | {"rtt_ms"}
    _known(place, about, values | {"between", "from", "to"})
    values_here = _typed(place, {key: value for key, value in about.items() if key in values}, set())
    if "rtt_ms" in values_here:
        values_here["delay_ms"] = values_here.pop("rtt_ms") / 2
    if len(ends) != 2:
        raise TopologyError(f"{place}: two ends")
    groups = [[h.name for h in hosts if end in (h.name, h.region)] for end in ends]
    if not all(groups):
        raise TopologyError(f"{place}: {ends[0] if not groups[0] else ends[1]} is no host and no region")
    pairs = [(start, end) for start in groups[0] for end in groups[1] if start != end]
    if "between" in about:
        pairs += [(end, start) for start, end in pairs]
    for pair in pairs:
        paths[pair] = replace(paths.get(pair, Route()), **values_here)


def _known(place: str, about: Mapping[str, Any], names: set[str]) -> None:
    unknown = sorted({*about} - names)
    if unknown:
        raise TopologyError(f"{place}: unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}")


def _typed(place: str, about: Mapping[str, Any], words: set[str]) -> dict[str, Any]:
    for key, value in about.items():
        fits = (
            isinstance(value, str) if key in words else isinstance(value, int | float) and not isinstance(value, bool)
        )
        if not fits:
            raise TopologyError(f"{place}: {key} = {value!r} is no {'text' if key in words else 'number'}")
    return {key: value if key in words else float(value) for key, value in about.items()}
