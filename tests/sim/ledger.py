"""Long runs in parts: each finished block of seeds is a line of a file, and a run that was cut off goes on after them.

Owns the file: lines of JSON, appended whole. A line counts for a run with the same arguments only; one that is torn is
no line. Refuses to know how seeds are played and printed.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sim.play import Outcome

SCHEMA = 1
BLOCK_SEEDS = 20  # a minute or two: so much is lost when a run is cut off


@dataclass
class Tally:
    """What a number of seeds came to."""

    seeds: int = 0
    commits: int = 0
    events: int = 0
    mark: int = 0  # the sum of those of the worlds, by 64 bits: equal where the same worlds were played
    virtual_minutes: float = 0.0
    seconds: float = 0.0  # of real time, however many processes played
    faults: Counter[str] = field(default_factory=Counter)
    found: list[dict[str, Any]] = field(default_factory=list)  # seed, problem, replay: of each that broke

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.commits += outcome.commits
        self.events += outcome.events
        self.mark = (self.mark + outcome.mark) % 2**64
        self.virtual_minutes += outcome.at_s / 60
        self.faults.update(outcome.faults)

    def plus(self, other: "Tally") -> None:
        self.seeds += other.seeds
        self.commits += other.commits
        self.events += other.events
        self.mark = (self.mark + other.mark) % 2**64
        self.virtual_minutes += other.virtual_minutes
        self.seconds += other.seconds
        self.faults.update(other.faults)
        self.found += other.found

    def said(self) -> dict[str, Any]:
        """As `--json` and the ledger have it."""
        return {
            "seeds": self.seeds,
            "commits": self.commits,
            "virtual_minutes": round(self.virtual_minutes, 1),
            "faults": dict(sorted(self.faults.items())),
            "violations": len(self.found),
            "found": self.found,
            "events": self.events,
            "mark": f"{self.mark:016x}",
            "seeds_per_minute": round(self.seeds_per_minute, 1),
        }

    @property
    def seeds_per_minute(self) -> float:
        return 60 * self.seeds / max(self.seconds, 1e-9)


class Ledger:
    def __init__(self, path: Path, arguments: dict[str, Any]) -> None:
        """`arguments` say what was played, apart from the seeds: lines that differ in one are of another run."""
        self._path, self._arguments = path, arguments

    def append(self, first: int, last: int, tally: Tally) -> None:
        """On disk when it returns: the seeds from first to last, both played. Raises OSError."""
        said = {"schema": SCHEMA, "first": first, "last": last, **tally.said(), "seconds": round(tally.seconds, 1)}
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # others may write their own blocks into it
            file.seek(0, os.SEEK_END)
            torn = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
            file.write(b"\n" * torn + json.dumps({**said, **self._arguments}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def played(self, first_seed: int, seeds: int) -> tuple[int, Tally]:
        """(the first seed that is to be played, what those before it came to), of this range."""
        blocks = {line["first"]: line for line in self._lines()}
        total, seed = Tally(), first_seed
        while seed in blocks and seed <= blocks[seed]["last"] < first_seed + seeds:
            total.plus(_tally(blocks[seed]))
            seed = blocks[seed]["last"] + 1
        return seed, total

    def _lines(self) -> Iterable[dict[str, Any]]:
        if not self._path.exists():
            return
        for text in self._path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # torn: its block is played again
            known = isinstance(line, dict) and line.get("schema") == SCHEMA
            if known and all(line.get(name) == value for name, value in self._arguments.items()):
                yield line


def _tally(line: dict[str, Any]) -> Tally:
    counts = {name: line[name] for name in ("seeds", "commits", "events", "virtual_minutes", "seconds")}
    return Tally(**counts, mark=int(line["mark"], 16), faults=Counter(line["faults"]), found=list(line["found"]))
