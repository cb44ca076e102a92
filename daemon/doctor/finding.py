"""What a check has found: whether it is well, in one line, and what to do next.

Owns the three levels. Refuses to know what is checked.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """`fail`: the daemon does not start, or a run cannot go on here. `warn`: it works, worse than it could."""

    name: str
    level: Level
    text: str
    todo: str = ""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def ok(name: str, text: str) -> Finding:
    return Finding(name, "ok", text)


def warn(name: str, text: str, todo: str) -> Finding:
    return Finding(name, "warn", text, todo)


def fail(name: str, text: str, todo: str) -> Finding:
    return Finding(name, "fail", text, todo)
