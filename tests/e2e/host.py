"""One host of a test: a real `intellectd run` with a state directory of its own, spoken to through the CLI.

Owns the processes, and that none outlives its test. Refuses to know what a test is about.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import ask
from intellectd.daemon.config import without_settings
from intellectd.daemon.parent_death import end_with_parent
from tests.e2e.forked import Forked

INTELLECTD = (sys.executable, "-m", "intellectd.daemon.cli.main")
TINY_TRAINER = Path(__file__).with_name("tiny_trainer.py")
LIGHT_TRAINER = Path(__file__).with_name("light_trainer.py")
# Limits for a machine much slower than two busy cores: they make a hang a failure, nothing waits for them to pass.
START_S_MAX = 120.0
STEP_S_MAX = 120.0
STOP_S_MAX = 60.0
LOOK_S = 0.2
NEVER = f"round={10**9 - 1}"
LOG_CHARS_SHOWN = 6000

HOST_TOML = """\
state_dir = "{state}"
socket = "{socket}"
trainer = {trainer}
trainer_threads = 1

[network]
listen = ["/ip4/127.0.0.1/tcp/0"]
bulk_listen = "127.0.0.1:0"
{network}

[metrics]
listen = ""
"""

TIMERS = "beacon_s = 0.5, suspect_s = 5, expel_s = 10, grace_min_s = 10, grace_max_s = 10, attempt_s = 5, stall_s = 5"

Answer = dict[str, Any]


def tiny_trainer(gate: Path) -> tuple[str, ...]:
    return (sys.executable, str(TINY_TRAINER), str(gate))


def light_trainer(gate: Path, *mib: str) -> tuple[str, ...]:
    return (sys.executable, str(LIGHT_TRAINER), str(gate), *mib)


def run_toml(start_peers: int, *more: str) -> str:
    """A run of the tiny trainer, with timers for one busy machine.

    A death shows within seconds. Nobody who lives is left out because it was a few seconds behind the others: their
    waiting costs nothing where all are ready.
    """
    lines = ['name = "e2e"', 'model = { kind = "external" }', "inner = { steps = 4 }"]
    lines += [f"swarm = {{ start_peers = {start_peers} }}"]
    lines += [f"timers = {{ {TIMERS} }}"]
    return "\n".join([*lines, *more, ""])


def start_process(argv: tuple[str, ...], log: Path, environ: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """In a session of its own, output to a file; it dies with pytest, however pytest dies."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env={**without_settings(os.environ), **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 (one system call)
        )


class Host:
    where: tuple[str, ...] = ()  # what its command line begins with, to run it elsewhere
    process: subprocess.Popen[bytes] | Forked

    def __init__(
        self,
        name: str,
        folder: Path,
        sockets: Path,
        trainer: str | tuple[str, ...],
        forked: bool = False,
        network: str = "",
    ) -> None:
        """Starts the daemon; `wait_ready` before the first question. `network`: further lines of its [network]."""
        self.name, self.state, self.forked = name, folder / name, forked
        self.state.mkdir(exist_ok=True)  # a test may have mounted something there
        self.socket = sockets / name  # a socket's path has at most 107 bytes, pytest's folders are longer
        self.log = folder / f"{name}.log"
        self.config = folder / f"{name}.toml"
        text = HOST_TOML.format(state=self.state, socket=self.socket, trainer=json.dumps(trainer), network=network)
        self.config.write_text(text)
        self._notify = sockets / f"{name}.notify"
        self.peer = self.address = ""
        self.start()

    def start(self, *options: str) -> None:
        """Also after `kill`: the same state directory, nothing else is known of the swarm."""
        self._notify.unlink(missing_ok=True)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(self._notify))
        words = ("run", "--config", str(self.config), *options)
        environ = {"NOTIFY_SOCKET": str(self._notify)}
        if self.forked:
            self.process = Forked(words, self.log, environ)
        else:
            self.process = start_process((*self.where, *INTELLECTD, *words), self.log, environ)

    def wait_ready(self) -> None:
        """As systemd would: the daemon says READY=1."""
        assert self.ready_or_ended(), self.told(f"it ended with {self.ended()} before it was ready")
        status = self.status()
        self.peer, self.address = status["peer"], status["addresses"][0]

    def ready_or_ended(self) -> bool:
        """Whether it has said READY=1; if not, it has ended."""
        said = b""
        try:
            ended = os.pidfd_open(self.process.pid)
        except ProcessLookupError:  # a forked one that has ended is nobody's any more, its forkserver waited for it
            self._ready.close()
            return False
        with self._ready, open(ended, "rb"):
            while not said.startswith(b"READY=1"):  # before that it may tell what it is doing
                readable, _, _ = select.select([self._ready, ended], [], [], START_S_MAX)
                assert readable, self.told(f"it never got ready; its last word was {said!r}")
                if self._ready not in readable:
                    return False
                said = self._ready.recv(1024)
        return True

    def kill(self) -> None:
        """SIGKILL to the daemon alone."""
        self.process.kill()
        self.process.wait()

    def ended(self) -> int:
        """Its exit code, once it has been told to stop; force where it does not."""
        try:
            return self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()

    # ---- what an operator types

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*INTELLECTD, "--socket", str(self.socket), "--json", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=STEP_S_MAX + 10, check=False)

    def starting(self, *words: str) -> subprocess.Popen[bytes]:
        """A command that goes on while the test does something else."""
        return start_process((*INTELLECTD, "--socket", str(self.socket), *words), self.log)

    def tell(self, *words: str) -> Answer:
        done = self.cli(*words)
        assert done.returncode == 0, self.told(f"`{' '.join(words)}` exited with {done.returncode}: {done.stderr}")
        answer: Answer = json.loads(done.stdout)
        assert answer["schema"] == 1
        return answer

    def status(self) -> Answer:
        done = self.cli("status")
        assert done.returncode in (0, 4), self.told(f"status exited with {done.returncode}: {done.stderr}")
        answer: Answer = json.loads(done.stdout)
        return answer

    def run_status(self) -> Answer:
        """Without a command line between: the stories ask often."""
        (run,) = ask(self.socket, "status")["runs"]
        status: Answer = run
        return status

    def wait(self, run_id: str, goal: str) -> None:
        self.tell("wait", run_id, "--for", goal, "--timeout", str(STEP_S_MAX))

    # ---- what the tests look at

    def rounds(self, run_id: str) -> dict[int, Answer]:
        return {row["round"]: row for row in ask(self.socket, "rounds", run_id=run_id)["rounds"]}

    def wait_quietly(self, run_id: str, goal: str) -> None:
        """As `wait`, without the command line between."""
        answer = ask(self.socket, "wait", STEP_S_MAX + 10, run_id=run_id, **{"for": goal}, timeout_s=STEP_S_MAX)
        assert answer["reached"], self.told(f"not {goal}: {answer['run']}")

    def wait_until(self, run_id: str, what: Callable[[Answer], bool]) -> Answer:
        """Until the run's status is so; the daemon itself makes the pause between two looks."""
        deadline = time.monotonic() + STEP_S_MAX
        while time.monotonic() < deadline:
            answer = ask(self.socket, "wait", run_id=run_id, **{"for": NEVER}, timeout_s=LOOK_S)
            status: Answer = answer["run"]
            if what(status):
                return status
        raise AssertionError(self.told(f"it never came to that: {status}"))

    def wait_attached(self, run_id: str) -> None:
        self.wait_until(run_id, lambda run: run["trainer"] != "absent")

    def trainer_pid(self) -> int:
        """Of the trainer that attached last."""
        return int(re.findall(r"a trainer is attached\b.*?pid=(\d+)", self.log.read_text())[-1])

    def told(self, what: str) -> str:
        log = self.log.read_text(errors="replace")[-LOG_CHARS_SHOWN:] if self.log.exists() else "it has no log"
        return f"{self.name}: {what}\n{log}"
