"""The processes of a benched swarm, as its driver has them: told and heard by lines of JSON, and killed by some.

Owns pipes and patience. Refuses to know what is measured. That a member is gone is an answer here, not an error.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PEER = Path(__file__).with_name("collective_peer.py")
PORT = 4002
HEAR_S = 300.0  # above any deadline that a member is given: one that says nothing for so long hangs
Answer = dict[str, Any]
Popen = Callable[..., "subprocess.Popen[str]"]  # (host, *words, **how)


def here(_host: str, *words: str, **how: Any) -> "subprocess.Popen[str]":
    """For members on this machine itself."""
    return subprocess.Popen(words, **how)


class Member:
    """A process that answers a line with a line."""

    def __init__(self, stack: ExitStack, name: str, popen: Popen, *words: str, **how: Any) -> None:
        self.name = name
        pipe = subprocess.PIPE
        how = {"stdin": pipe, "stdout": pipe, "text": True, "start_new_session": True} | how
        self._process = stack.enter_context(popen(name, *words, **how))
        stack.callback(self.kill)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, what: Answer) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Answer:
        """{"gone": its exit status} once it has ended."""
        try:
            line = self._lines.get(timeout=HEAR_S)
        except queue.Empty:
            raise SystemExit(f"{self.name} said nothing in {HEAR_S:.0f} s") from None
        if line is None:
            self._lines.put(None)
            return {"gone": self._process.wait()}
        return dict(json.loads(line))

    def close(self) -> None:
        """Tells it to end by itself: it reads no more lines."""
        assert self._process.stdin
        self._process.stdin.close()

    def kill(self) -> None:
        """With all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Shape:
    """What every member of a swarm has: a vector of each codec; `whole`: and its fp32 one, for them to be made of.
    `near`: memory shared with others on its host, as the daemon has it."""

    codecs: tuple[str, ...]
    elements: int
    plain: bool = False
    whole: bool = False
    near: bool = True


class Swarm:
    """Members with the production engine, in hosts of the same names (`addresses`: what they listen on; "": nobody can
    dial them).

    They start at once; `ready` waits for them, and is to be called before anything else.
    """

    def __init__(self, stack: ExitStack, popen: Popen, addresses: dict[str, str], shape: Shape) -> None:
        self.members: dict[str, Member] = {}
        self._codec = shape.codecs[0]
        for seed, (name, address) in enumerate(addresses.items()):
            where = {"listen": address or "127.0.0.1:0", "hidden": not address}
            spec = {"name": name, "seed": seed} | where | vars(shape)
            self.members[name] = Member(stack, name, popen, sys.executable, str(PEER), json.dumps(spec))

    def ready(self) -> Self:
        table = {name: member.hear() for name, member in self.members.items()}
        for name, end in table.items():
            if "gone" in end:
                raise SystemExit(f"{name} ended: its message is above")
        for member in self.members.values():
            member.tell({"members": table})
        return self

    def begin(self, run: str, order: Sequence[str], schedule: str = "ring", **more: Any) -> None:
        """`more`: as collective_peer.py has it; without a codec the first of the shape's."""
        told = {"run": run, "codec": self._codec, "schedule": schedule, "order": list(order)}
        told |= {"weights": [1.0] * len(order)} | more
        for name in order:
            self.members[name].tell(told)

    def end(self, order: Iterable[str]) -> dict[str, Answer]:
        return {name: self.members[name].hear() for name in order}

    def run(self, run: str, order: Sequence[str] = (), schedule: str = "ring", **more: Any) -> dict[str, Answer]:
        """One collective that must succeed, with the same bytes on everybody; its answers by member."""
        order = order or tuple(self.members)
        self.begin(run, order, schedule, **more)
        return agreed(run, self.end(order))


def agreed(run: str, answers: dict[str, Answer]) -> dict[str, Answer]:
    for name, answer in answers.items():
        if "digest" not in answer:
            raise SystemExit(f"{run}: {name} has no result: {answer}")
    if len({answer["digest"] for answer in answers.values()}) != 1:
        raise SystemExit(f"{run}: the members ended with different bytes")
    return answers


def slowest(answers: dict[str, Answer]) -> float:
    return max(float(answer["seconds"]) for answer in answers.values())
