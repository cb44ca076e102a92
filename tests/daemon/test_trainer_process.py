"""The trainer's process: restarted when it dies, ended at stop with all it started, gone with the daemon."""

import errno
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from intellectd.daemon import descendants
from intellectd.daemon.trainer_process import (
    RESTART_FIRST_S,
    RESTART_S_MAX,
    STEADY_S,
    Pauses,
    TrainerCommand,
    TrainerProcess,
    trainer_command,
)

SOON = Pauses(first_s=0.01, s_max=0.02)
TEST_TIMEOUT_S = 60.0


def python(code: str, *arguments: object) -> TrainerCommand:
    return TrainerCommand((sys.executable, "-S", "-c", code, *map(str, arguments)))


def is_gone(pid: int) -> bool:
    """Gone, or dead and waiting for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


async def is_ended(pid: int) -> None:
    """It was sent SIGKILL, which takes a moment."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(watch)
    finally:
        os.close(watch)


@asynccontextmanager
async def running(process: TrainerProcess) -> AsyncIterator[trio.Nursery]:
    with trio.fail_after(TEST_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.run)
            yield nursery
            nursery.cancel_scope.cancel()


class Ear(logging.Handler):
    """Hears what the daemon logs, and lets a test wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._heard = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._heard.set()
        self._heard = trio.Event()

    def lines(self) -> list[str]:
        """What the child has printed so far."""
        fields = [getattr(record, "fields", {}) for record in self.records]
        return [str(f["line"]) for f in fields if "line" in f]

    async def line(self, start: str) -> str:
        with trio.fail_after(TEST_TIMEOUT_S):
            while not (found := [line for line in self.lines() if line.startswith(start)]):
                await self._heard.wait()
        return found[0]

    async def count(self, event: str, times: int) -> None:
        with trio.fail_after(TEST_TIMEOUT_S):
            while sum(record.getMessage() == event for record in self.records) < times:
                await self._heard.wait()


@pytest.fixture
def ear() -> Iterator[Ear]:
    logger = logging.getLogger("intellectd.trainer")
    hears, level = Ear(), logger.level
    logger.addHandler(hears)
    logger.setLevel(logging.INFO)
    yield hears
    logger.removeHandler(hears)
    logger.setLevel(level)


@pytest.fixture(params=["pidfd", "no-pidfd"])
def any_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_not_there(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if request.param == "no-pidfd":
        monkeypatch.setattr("intellectd.daemon.trainer_process.os.pidfd_open", is_not_there)


@pytest.mark.usefixtures("any_kernel")
async def test_it_is_restarted_until_it_ends_well(tmp_path: Path) -> None:
    """Fails twice, each time in another way, then exits 0."""
    code = """
import os, signal, sys
path = sys.argv[1]
lives = os.path.getsize(path) if os.path.exists(path) else 0
open(path, "a").write("x")
if lives == 0: sys.exit(3)
if lives == 1: os.kill(os.getpid(), signal.SIGKILL)
"""
    process = TrainerProcess(python(code, tmp_path / "lives"), SOON)
    with trio.fail_after(TEST_TIMEOUT_S):
        await process.run()
    assert (process.starts, process.last_failure, process.pid) == (3, "killed by SIGKILL", None)


def test_pauses_grow_to_a_bound_and_start_over_after_a_steady_life() -> None:
    pauses, pause_s, seen = Pauses(), 0.0, []
    for _ in range(9):
        pause_s = pauses.after(pause_s, lived_s=1.0)
        seen.append(pause_s)
    assert seen[:3] == [RESTART_FIRST_S, 2 * RESTART_FIRST_S, 4 * RESTART_FIRST_S]
    assert seen[-1] == RESTART_S_MAX
    assert pauses.after(RESTART_S_MAX, lived_s=STEADY_S + 1) == RESTART_FIRST_S


async def test_a_program_that_is_not_there_is_said_and_tried_again(ear: Ear) -> None:
    process = TrainerProcess(TrainerCommand(("/nowhere/trainer",)), SOON)
    async with running(process):
        await ear.count("the trainer died", 2)
    assert "cannot start '/nowhere/trainer'" in process.last_failure
    assert process.starts == 0


async def test_what_it_prints_becomes_log_lines(ear: Ear) -> None:
    code = """
import sys
print("one")
print("two", file=sys.stderr, flush=True)
print("x" * 9000)
print("no end", end="")
"""
    with trio.fail_after(TEST_TIMEOUT_S):
        await TrainerProcess(python(code)).run()
    heard = ear.lines()
    assert {"one", "two", "no end"} <= set(heard)
    assert sum(line.count("x") for line in heard) == 9000
    assert max(map(len, heard)) <= 4096


async def test_one_whose_children_outlive_it_is_restarted_and_they_end_with_it(
    ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As loaders of data and launched ranks do: they have its output open, and would have it thought alive for ever."""
    monkeypatch.setattr("intellectd.daemon.trainer_process.STOP_S_MAX", 0.05)
    code = """
import os, subprocess
child = subprocess.Popen(["sleep", "1000"])
print(f"left {child.pid}", flush=True)
os._exit(3)
"""
    process = TrainerProcess(python(code), SOON)
    async with running(process):
        await ear.count("the trainer started", 2)
        await is_ended(int((await ear.line("left")).split()[1]))
        assert process.last_failure.startswith("exit status 3: left ")


async def test_ranks_in_sessions_of_their_own_end_with_their_launcher(ear: Ear) -> None:
    """As torchrun starts them: killed, it leaves them training, and the next trainer is refused beside them."""
    code = """
import os, signal, subprocess
quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
rank = subprocess.Popen(["sh", "-c", "sleep 1000 & exec sleep 1000"], start_new_session=True, **quiet)
print(f"left {rank.pid}", flush=True)
signal.pause()
"""
    process = TrainerProcess(python(code), SOON)
    async with running(process):
        rank = int((await ear.line("left")).split()[1])
        assert process.pid is not None and os.getsid(rank) == rank
        os.kill(process.pid, signal.SIGKILL)
        await is_ended(rank)
        await ear.count("the trainer started", 2)
    assert any("left processes behind" in record.getMessage() for record in ear.records)


def test_only_what_bears_the_mark_is_ended() -> None:
    marks = [descendants.new_mark(), descendants.new_mark()]
    mine, other = [
        subprocess.Popen(["sleep", "1000"], env={**os.environ, descendants.MARK: mark}, start_new_session=True)
        for mark in marks
    ]
    try:
        assert descendants.kill_marked(marks[0]) == 1
        assert mine.wait(TEST_TIMEOUT_S) == -signal.SIGKILL
        assert descendants.marked(marks[0]) == [] and descendants.marked(marks[1]) == [other.pid]
    finally:
        for child in (mine, other):
            child.kill()
            child.wait()


async def test_at_stop_it_is_asked_and_its_children_end_with_it(ear: Ear, tmp_path: Path) -> None:
    code = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], "w").close(), sys.exit(0)))
child = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(f"ready {child.pid}", flush=True)
signal.pause()
"""
    asked = tmp_path / "asked"
    process = TrainerProcess(python(code, asked))
    async with running(process):
        grandchild = int((await ear.line("ready")).split()[1])
        pid = process.pid
        assert pid is not None and os.getpgid(pid) == pid == os.getpgid(grandchild)
    assert asked.exists()
    assert is_gone(pid)
    with trio.fail_after(TEST_TIMEOUT_S):
        await is_ended(grandchild)


@pytest.mark.usefixtures("any_kernel")
async def test_one_that_does_not_listen_is_killed(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.trainer_process.STOP_S_MAX", 0.05)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    process = TrainerProcess(python(code))
    async with running(process):
        await ear.line("up")
        pid = process.pid
        assert pid is not None
    assert is_gone(pid)


def test_it_dies_with_the_daemon() -> None:
    """A daemon that is killed cannot stop its child: the kernel does."""
    daemon = """
import logging, sys, trio
from intellectd.daemon.trainer_process import TrainerCommand, TrainerProcess
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(fields)s")
argv = (sys.executable, "-S", "-c", "import os, signal; print(os.getpid(), flush=True); signal.pause()")
trio.run(TrainerProcess(TrainerCommand(argv)).run)
"""
    with subprocess.Popen([sys.executable, "-c", daemon], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        spoken = next(line for line in parent.stdout if "'line'" in line)
        child = int(spoken.split("'line': '")[1].split("'")[0])
        watch = os.pidfd_open(child)
        parent.kill()
        assert select.select([watch], [], [], TEST_TIMEOUT_S)[0], "the child outlived the daemon"
        os.close(watch)


def test_the_run_id_is_not_on_the_command_line(tmp_path: Path) -> None:
    manifest = {"name": "n", "seed": 1}
    builtin = trainer_command("builtin", "secret", manifest, tmp_path / "s", threads=2, data={"books": tmp_path})
    assert builtin.argv == (sys.executable, "-m", "intellectd.daemon.trainer")
    assert builtin.environment == {
        "INTELLECTD_RUN": "secret",
        "INTELLECTD_SOCKET": f"{tmp_path}/s",
        "INTELLECTD_MANIFEST": '{"name": "n", "seed": 1}',
        "INTELLECTD_DATA": f'{{"books": "{tmp_path}"}}',
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
    }
    own = trainer_command(("python", "loop.py"), "secret", manifest, tmp_path / "s")
    assert own.argv == ("python", "loop.py")
    assert "OMP_NUM_THREADS" not in own.environment
