"""All-reduce between processes of this machine, against other packages' in the same run: wall time and CPU seconds.

Owns who competes and in which order. Each runs right after gloo, round after round; a ratio is the median of the
rounds' own (their time over ours, or gloo's over another's: above 1 is faster than gloo). Everybody's time is that of
its slowest rank, between vectors that lie ready: fp32 for the others, encoded ones for us (`_whole`: fp32 there too).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.bench.members import Member, Popen, Shape, Swarm, here, slowest
from tests.bench.rival_environments import VERSIONS, python_with
from tests.wan.network import Wan, why_not
from tests.wan.topology import Host as WanHost
from tests.wan.topology import Topology

Row = dict[str, Any]
RIVAL = Path(__file__).with_name("collective_rivals.py")
ELEMENTS = 2**26  # 256 MiB of fp32
GB = 4 * ELEMENTS / 1e9
GOALS = {"fp32_plain": 1.0, "fp32": 1.0, "int8": 1.5}  # with two processes
SLOW_ROUNDS_MAX = 2  # of what takes seconds
ERROR_MAX = 1e-3  # of a mean or sum of values up to world * (world + 1) / 2: fp16 on the way has 2.5e-4
PORT_FIRST = 4100
BEATS, BEATEN_ROUNDS_MAX = 200, 50  # a 99th of a hundred that is not the worst


@contextmanager
def place(notes: list[str]) -> Iterator[Popen]:
    """Where the processes live: a namespace with nothing but its loopback, if one may be made."""
    refused = why_not()
    if refused:
        notes.append(f"on this machine's own loopback: {refused}")
        yield here
        return
    with Wan(Topology((WanHost("here"),), {})) as wan:
        yield lambda _host, *words, **how: wan.popen("here", *words, **how)


@dataclass
class Contestant:
    """run: (seconds of the slowest rank, mean CPU seconds of a rank)."""

    name: str
    run: Callable[[], tuple[float, float]]
    rounds_max: int = 1000
    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def go(self) -> float:
        seconds, cpu_s = self.run()
        self.times.append(seconds)
        self.cpu.append(cpu_s)
        return seconds

    def forget(self) -> None:
        self.times, self.cpu, self.ratios = [], [], []


class Ranks:
    """Another package's processes."""

    def __init__(self, stack: ExitStack, popen: Popen, python: str, kind: str, world: int, **more: str) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._ranks, self._kind = [], kind
        for rank in range(world):
            spec = {"kind": kind, "rank": rank, "world": world, "folder": str(folder), "elements": ELEMENTS} | more
            words = (python, str(RIVAL), json.dumps(spec))
            self._errors = folder / "errors"
            errors = stack.enter_context(self._errors.open("a"))
            self._ranks.append(Member(stack, f"{kind} {rank}", popen, *words, stderr=errors))
        self.version = ""

    def ready(self) -> Self:
        self.version = self._hear()[0]["ready"]
        return self

    def _hear(self) -> list[dict[str, Any]]:
        answers = [rank.hear() for rank in self._ranks]
        if any("gone" in answer for answer in answers):
            raise OSError(f"{self._kind}: {self._errors.read_text()[-400:].strip()}")
        return answers

    def run(self) -> tuple[float, float]:
        for rank in self._ranks:
            rank.tell({})
        answers = self._hear()
        wrong = max(answer["error"] for answer in answers)
        if not wrong < ERROR_MAX:
            raise OSError(f"{self._kind}: the result is wrong by {wrong}")
        return max(a["seconds"] for a in answers), statistics.fmean(a["cpu_s"] for a in answers)


def ours(name: str, swarm: Swarm, **more: Any) -> Contestant:
    numbers = iter(range(10**6))

    def run() -> tuple[float, float]:
        answers = swarm.run(f"{name} {next(numbers)}", **more)
        return slowest(answers), statistics.fmean(answer["cpu_s"] for answer in answers.values())

    return Contestant(name, run)


def our_swarms(stack: ExitStack, popen: Popen, world: int, few: bool) -> dict[str, Swarm]:
    """By whether they encrypt and whether they share memory; started, not ready. `few`: what has goals alone."""
    shapes = {
        "sealed": Shape(("fp32", "int8"), ELEMENTS, whole=not few),
        "plain": Shape(("fp32",), ELEMENTS, plain=True),
    }
    shapes |= {} if few else {"tcp": Shape(("fp32",), ELEMENTS, near=False)}
    found = {}
    for number, (name, shape) in enumerate(shapes.items()):
        addresses = {f"p{i}": f"127.0.0.1:{PORT_FIRST + 64 * number + i}" for i in range(world)}
        found[name] = Swarm(stack, popen, addresses, shape)
    return found


def our_contestants(swarms: dict[str, Swarm]) -> list[Contestant]:
    plain, sealed = swarms["plain"].ready(), swarms["sealed"].ready()
    found = [ours("fp32_plain", plain, codec="fp32")]
    found += [ours(codec, sealed, codec=codec) for codec in ("fp32", "int8")]
    if "tcp" in swarms:
        found += [ours("int8_whole", sealed, codec="int8", whole=True)]
        found += [ours("fp32_tcp", swarms["tcp"].ready(), codec="fp32")]
    return found


THEIRS = {  # package, kind, what it is told, rounds at most
    "torchft_gloo": ("torchft", "torchft_gloo", {}, 1000),
    "torchft": ("torchft", "torchft", {}, 1000),
    "hivemind_fp32": ("hivemind", "hivemind", {"codec": "fp32"}, SLOW_ROUNDS_MAX),
    "hivemind_fp16": ("hivemind", "hivemind", {"codec": "fp16"}, SLOW_ROUNDS_MAX),
}
BEST = ("torchft_gloo", "hivemind_fp16")  # each package's fastest


def their_contestants(
    stack: ExitStack, popen: Popen, world: int, names: Iterable[str], notes: list[str]
) -> list[Contestant]:
    started: dict[str, Ranks] = {}
    found = []

    def without(name: str, error: Exception) -> None:
        notes.append(f"loopback_{world}_{name} ({VERSIONS[THEIRS[name][0]]}): no figure: {error}")

    for name in names:
        package, kind, more, _rounds = THEIRS[name]
        try:
            started[name] = Ranks(stack, popen, python_with(package), kind, world, **more)
        except (OSError, subprocess.SubprocessError) as error:
            without(name, error)
    for name, ranks in started.items():
        try:
            found.append(Contestant(name, ranks.ready().run, THEIRS[name][3]))
        except OSError as error:
            without(name, error)
    return found


def compete(gloo: Contestant, others: list[Contestant], rounds: int, notes: list[str]) -> list[Contestant]:
    """All in turn, each right after gloo; one that fails is out, with a note."""
    for number in range(rounds + 1):
        for other in [*others]:
            if number > other.rounds_max:
                continue
            theirs = gloo.go()
            try:
                other.ratios.append(theirs / other.go())
            except OSError as error:
                notes.append(f"{other.name}: no figure: {error}")
                others.remove(other)
            if number == 0:
                other.forget()
        if number == 0:
            gloo.forget()
    return others


def row_of(world: int, contestant: Contestant) -> list[Row]:
    seconds = statistics.median(contestant.times)
    row = {"name": f"loopback_{world}_{contestant.name}_vs_gloo", "value": round(seconds, 4), "unit": "s"}
    row |= {"against": "gloo", "ratio": round(statistics.median(contestant.ratios), 3)}
    row |= {"of": len(contestant.times), "least": round(min(contestant.times), 4)}
    if world == 2 and contestant.name in GOALS:
        row["goal"] = GOALS[contestant.name]
    cpu = {"name": f"loopback_{world}_{contestant.name}_cpu", "unit": "CPU s/GB of a member's fp32"}
    return [row, cpu | {"value": round(statistics.median(contestant.cpu) / GB, 3), "against": "", "ratio": None}]


def rows(world: int, rounds: int, theirs: Iterable[str], few: bool = False) -> tuple[list[Row], list[str]]:
    notes: list[str] = []
    with ExitStack() as stack:
        popen = stack.enter_context(place(notes))
        ranks = Ranks(stack, popen, sys.executable, "gloo", world)
        swarms = our_swarms(stack, popen, world, few)
        others = their_contestants(stack, popen, world, theirs, notes)
        gloo = Contestant("gloo", ranks.ready().run)
        others = compete(gloo, our_contestants(swarms) + others, rounds, notes)
        made = [row for other in others for row in row_of(world, other)]
        made += beside("loopback_2_fp32", swarms["sealed"], "fp32") if world == 2 else []
    seconds, cpu = statistics.median(gloo.times), statistics.median(gloo.cpu) / GB
    notes.append(
        f"{world} processes, 256 MiB of fp32: gloo (torch {ranks.version}) {seconds:.3f} s, "
        f"{min(gloo.times):.3f} to {max(gloo.times):.3f}, {cpu:.3f} CPU s/GB"
    )
    return made, notes


def beside(name: str, swarm: Swarm, codec: str) -> list[Row]:
    """What a transfer at full speed does to its process: a trio task's delays, and memory."""
    late_ms: list[float] = []
    mib = []
    for number in range(BEATEN_ROUNDS_MAX):
        for answer in swarm.run(f"{name} beats {number}", codec=codec, beats=True).values():
            late_ms += answer["late_ms"]
            mib.append(answer["own_mib"])
        if len(late_ms) >= BEATS:
            break
    memory = {"name": f"{name}_engine_memory", "value": round(max(mib), 1), "unit": "MiB", "goal": 256.0}
    memory |= {"against": "256; resident beyond vectors and imports", "ratio": round(max(mib) / 256, 3)}
    if not late_ms:  # a vector so small that nobody's beat fell into its transfer
        return [memory]
    p99, worst = sorted(late_ms)[int(0.99 * len(late_ms))], max(late_ms)
    loop = {"name": f"{name}_event_loop_p99", "value": round(p99, 2), "unit": "ms", "goal": 50.0}
    loop |= {"against": f"50; {len(late_ms)} beats, the latest by {worst:.0f} ms", "ratio": round(p99 / 50.0, 3)}
    return [loop, memory]


def large(codec: str, elements: int, world: int = 2) -> tuple[list[Row], list[str]]:
    """The same with a larger vector."""
    notes: list[str] = []
    with ExitStack() as stack:
        popen = stack.enter_context(place(notes))
        addresses = {f"p{i}": f"127.0.0.1:{PORT_FIRST + i}" for i in range(world)}
        swarm = Swarm(stack, popen, addresses, Shape((codec,), elements)).ready()
        return beside(f"loopback_{world}_{codec}_{4 * elements >> 20}mib", swarm, codec), notes
