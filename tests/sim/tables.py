"""How large the tables of a node are: every one of every machine, by walking through it. SPEC L1.

Owns their bounds: what is kept of rounds has a bound of its own, all else goes by the number of hosts. Refuses to know
what is in them.
"""

from collections.abc import Iterable

from intellectd.protocol import limits
from tests.sim.violation import Violation

OF_ROUNDS = ("window", "_donors", "trail")  # what remembers rounds, or what was asked for in them
NO_TABLES = ("context", "_context", "head", "_head", "manifest", "config")
TABLE_PER_HOST = 16  # of messages, members, results, streams; the largest seen were one a host
NUMBERS: dict[type, None] = dict.fromkeys((bool, int, float, str, bytes))  # an attribute that was one stays one

# The names of the attributes of each class that has nothing else, or none that matter: asked for again and again.
_compiled: dict[type, tuple[str, ...]] = {}
# Of these the ones to look into.
_tellable: dict[type, tuple[str, ...]] = {}


class Largest:
    """The sizes of the largest."""

    def __init__(self) -> None:
        self.of_rounds = self.others = 0


def bounded(node: object, hosts: int) -> int:
    """The size of the largest. Raises Violation."""
    largest, most = Largest(), TABLE_PER_HOST * (hosts + 1)
    measure(node, False, largest, {})
    rounds_most = max(limits.PEERS_MAX, limits.WINDOW_ROUNDS + 1)
    if largest.others > most or largest.of_rounds > rounds_most:
        for path, size, of_rounds in named(node, "node", {}):
            if size > (rounds_most if of_rounds else most):
                raise Violation(f"{path} has grown to {size} with {hosts} hosts")
    return max(largest.others, largest.of_rounds)


def measure(value: object, of_rounds: bool, largest: Largest, seen: dict[int, None]) -> None:
    """Without their names, which take most of the time and are of use when one is too large."""
    seen[id(value)] = None
    names = _tellable.get(type(value))
    for name in _worth_it(value) if names is None else names:
        inside: object = getattr(value, name)
        kind = type(inside)
        # What most attributes are: nothing is inside. In a chain, which is compiled to addresses.
        if inside is None or kind is float or kind is int or kind is bool or kind is str or kind is bytes:
            continue
        if kind is tuple:
            continue
        if isinstance(inside, dict | list):
            if of_rounds:
                largest.of_rounds = max(largest.of_rounds, len(inside))
            else:
                largest.others = max(largest.others, len(inside))
        elif id(inside) not in seen:
            measure(inside, of_rounds or name in OF_ROUNDS, largest, seen)


def _worth_it(value: object) -> Iterable[str]:
    """All but numbers and texts; what is None now may be anything later."""
    names, kind = _attributes(value), type(value)
    if kind not in _compiled:
        return names
    found = _tellable[kind] = tuple(name for name in names if type(getattr(value, name)) not in NUMBERS)
    return found


def named(value: object, path: str, seen: dict[int, None]) -> list[tuple[str, int, bool]]:
    """(Where it is, its size, whether it is of rounds), of each table."""
    found: list[tuple[str, int, bool]] = []
    if isinstance(value, dict | list):
        found.append((path, len(value), any(f".{part}." in path for part in OF_ROUNDS)))
    elif id(value) not in seen:
        seen[id(value)] = None
        for name in _attributes(value):
            found += named(getattr(value, name), f"{path}.{name}", seen)
    return found


def _attributes(value: object) -> Iterable[str]:
    """Of an object of the machines, as they are or compiled: then they have no dictionary, and a list of names."""
    kind = type(value)
    names = _compiled.get(kind)
    if names is None:
        ours = kind.__module__.startswith("intellectd.protocol")
        if ours and hasattr(value, "__dict__"):
            return [name for name in vars(value) if name not in NO_TABLES]
        names = tuple(getattr(kind, "__mypyc_attrs__", ())) if ours else ()
        names = _compiled[kind] = tuple(name for name in names if name not in NO_TABLES)
    return names
