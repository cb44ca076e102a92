"""Real daemons under real faults: `python -m tests.e2e.soak --minutes 10 --hosts 5 --seed S`.

Every few seconds one is killed, stopped for a while, cut off, or loses its trainer; then all is well again, and they
must agree on every bit, with a log that is proven from genesis on. Owns the faults and the verdict.
"""

import argparse
import contextlib
import heapq
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil

from intellectd.daemon.cli.client import ask
from intellectd.daemon.errors import OperatorError
from tests.e2e.host import Host, tiny_trainer
from tests.e2e.swarm import Swarm
from tests.e2e.test_swarm import agree
from tests.wan.network import Wan, why_not
from tests.wan.topology import Route, uniform

PAUSE_S = (2.0, 5.0)  # between two faults
LASTS_S = (1.0, 12.0)  # below and above expel_s
AHEAD = 3  # rounds that the gate is open beyond the newest: the run goes as fast as it can, and ends at a known round
LOOK_S = 0.25
PORT = 4001  # each has an address of its own, so that a restart finds its port free
ANSWER_S_MAX = 2.0  # a daemon that is asked between the faults may just have been hit
FIRST_ROUNDS, LAST_ROUNDS = 2, 3  # with everybody


class SoakHost(Host):
    def __init__(self, name: str, net: Wan | None, folder: Path, sockets: Path, gate: Path) -> None:
        self._net = net
        if net is not None:
            self.where = net.inside(name)
        super().__init__(name, folder, sockets, tiny_trainer(gate))

    def start(self, *options: str) -> None:
        """Where it was before: that is how the others remember it."""
        if self._net is not None:
            there = self._net.address(self.name)
            options = (f"--network-listen=/ip4/{there}/tcp/{PORT}", f"--network-bulk-listen={there}:0", *options)
        elif self.address:
            options = ("--network-listen", self.address.partition("/p2p/")[0], *options)
        super().start(*options)


class Soak:
    def __init__(self, swarm: Swarm, hosts: list[SoakHost], net: Wan | None, rng: Random) -> None:
        self._swarm, self._hosts, self._net, self._rng = swarm, hosts, net, rng
        self.faults: dict[str, int] = {}
        self.round, self.longest_pause_s, self._looked = 0, 0.0, 0
        self._undo: list[tuple[float, str, SoakHost, Callable[[], None]]] = []
        self._hit: dict[str, SoakHost] = {}  # until what befell them is undone
        self._fresh: dict[str, SoakHost] = {}  # started again, and not yet waited for
        self._advanced_at = time.monotonic()
        self._kinds: list[Callable[[SoakHost], str]] = [self._kill, self._stop, self._stop, self._trainer]
        if net is not None:
            self._kinds += [self._cut, self._cut, self._mute]

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        strikes_at = time.monotonic()
        while (now := time.monotonic()) < end:
            self._undo_until(now)
            if now >= strikes_at:
                self._strike()
                strikes_at = now + self._rng.uniform(*PAUSE_S)
            self._look(now)
            self._watch(LOOK_S)
        self._undo_until(float("inf"))

    def settle(self) -> int:
        """All is well again: the round at which everybody stands, with equal digests."""
        for host in self._fresh.values():
            host.wait_ready()
        final = self._swarm.advance(self._hosts, LAST_ROUNDS)
        agree(self._hosts)
        return final

    # ---- faults

    def _strike(self) -> None:
        well = [host for host in self._hosts if host.name not in self._hit]
        if well:
            host, kind = self._rng.choice(well), self._rng.choice(self._kinds)
            name = kind(host)
            self.faults[name] = self.faults.get(name, 0) + 1

    def _kill(self, host: SoakHost) -> str:
        host.kill()
        self._later(host, lambda: self._start(host))
        return "kill -9"

    def _stop(self, host: SoakHost) -> str:
        os.kill(host.process.pid, signal.SIGSTOP)
        self._later(host, lambda: os.kill(host.process.pid, signal.SIGCONT))
        return "SIGSTOP"

    def _trainer(self, host: SoakHost) -> str:
        for process in psutil.Process(host.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return "kill -9 of a trainer"

    def _cut(self, host: SoakHost) -> str:
        net = self._net
        assert net is not None
        net.cut(host.name)
        self._later(host, lambda: net.heal(host.name))
        return "cut off"

    def _mute(self, host: SoakHost) -> str:
        net, other = self._net, self._rng.choice([h for h in self._hosts if h is not host])
        assert net is not None
        net.change(host.name, other.name, open=False)
        self._later(host, lambda: net.change(host.name, other.name, open=True))
        return "one way cut"

    def _start(self, host: SoakHost) -> None:
        host.start()
        self._fresh[host.name] = host

    def _later(self, host: SoakHost, undo: Callable[[], None]) -> None:
        self._hit[host.name] = host
        at = time.monotonic() + self._rng.uniform(*LASTS_S)
        heapq.heappush(self._undo, (at, host.name, host, undo))

    def _undo_until(self, now: float) -> None:
        while self._undo and self._undo[0][0] <= now:
            _, _, host, undo = heapq.heappop(self._undo)
            undo()
            del self._hit[host.name]

    # ---- between them

    def _watch(self, seconds: float) -> None:
        """So long, and nobody may die by itself."""
        well = [host for host in self._hosts if host.name not in self._hit]
        with contextlib.ExitStack() as stack:
            ends = {stack.enter_context(open(os.pidfd_open(h.process.pid), "rb")): h for h in well}
            for end in select.select([*ends], [], [], seconds)[0]:
                host = ends[end]
                raise AssertionError(host.told(f"it ended by itself, with {host.process.wait()}"))

    def _look(self, now: float) -> None:
        """How far it is, and the gate open a little further."""
        self._looked += 1
        at = self._round_of(self._hosts[self._looked % len(self._hosts)])
        self.longest_pause_s = max(self.longest_pause_s, now - self._advanced_at)
        if at > self.round:
            self.round, self._advanced_at = at, now
        if self.round + AHEAD > self._swarm.gate.open_to:
            self._swarm.gate.open(self.round + AHEAD)

    def _round_of(self, host: SoakHost) -> int:
        if host.name in self._hit or not host.socket.exists():
            return 0  # or it is starting
        with contextlib.suppress(OperatorError):
            runs = ask(host.socket, "status", ANSWER_S_MAX)["runs"]
            return max((run["round"] for run in runs), default=0)
        return 0


def soak(folder: Path, sockets: Path, count: int, seconds: float, seed: int) -> dict[str, Any]:
    """Raises AssertionError when anything is not as it must be."""
    with contextlib.ExitStack() as stack:
        names = tuple(f"host-{number + 1}" for number in range(count))
        net = None if why_not() else stack.enter_context(Wan(uniform(names, Route())))
        swarm = Swarm(folder, sockets)
        stack.callback(swarm.end)
        hosts = [SoakHost(name, net, folder, sockets, swarm.gate.path) for name in names]
        swarm.hosts += hosts
        swarm.begin(hosts)
        swarm.advance(hosts, FIRST_ROUNDS)
        trial = Soak(swarm, hosts, net, Random(seed))
        trial.run(seconds)
        healed_at = time.monotonic()
        final = trial.settle()
        settled_s = time.monotonic() - healed_at
        assert swarm.stop(hosts) == [0] * count
        logs = [host.cli("log", "verify", swarm.run_id, "--state-dir", str(host.state)) for host in hosts]
        verdicts = [json.loads(log.stdout) for log in logs]
        assert [v["valid"] and v["rounds"] for v in verdicts] == [final] * count, verdicts
        assert len({v["head"] for v in verdicts}) == 1, verdicts
    return {
        "hosts": count,
        "seconds": seconds,
        "seed": seed,
        "rounds": final,
        "faults": dict(sorted(trial.faults.items())),
        "network_cut": net is not None,
        "longest_pause_s": round(trial.longest_pause_s, 1),
        "settled_s": round(settled_s, 1),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.soak", description="Real daemons under real faults.")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M")
    parser.add_argument("--hosts", type=int, default=5, metavar="N")
    parser.add_argument("--seed", type=int, default=int(time.time()), metavar="S", help="of the faults (the clock)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep state and logs there")
    options = parser.parse_args(arguments)
    why = why_not()
    sys.stdout.write(f"seed {options.seed}; network {f'not cut: {why}' if why else 'cut, too'}\n")
    with tempfile.TemporaryDirectory(prefix="i-") as scratch:
        folder = options.keep or Path(scratch) / "state"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            outcome = soak(folder, Path(scratch), options.hosts, 60 * options.minutes, options.seed)
        except AssertionError as problem:
            sys.stdout.write(f"broken: {problem}\n")
            return 1
    sys.stdout.write(json.dumps({"schema": 1, **outcome}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
