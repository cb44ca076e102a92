"""Keeps the trainer's process alive: starts it, logs what it prints, restarts it when it dies, ends it at stop.

Owns the child, its process group, its last words and the pauses between its lives. Refuses to know what it trains: it
speaks through the control socket like any other trainer.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from intellectd.daemon.descendants import MARK, kill_marked, new_mark
from intellectd.daemon.logs import get_log
from intellectd.daemon.parent_death import end_with_parent

RESTART_FIRST_S = 1.0
RESTART_S_MAX = 60.0  # a host that lacks memory or a package is asked once a minute, not in a tight loop
STEADY_S = 60.0  # a child that lived this long starts again from the first pause
STOP_S_MAX = 10.0  # from SIGTERM, or its own end, to SIGKILL for all; nothing of a trainer's needs saving
LINE_BYTES_MAX = 4096  # of its output per log line; a longer one is cut into several
READ_BYTES_MAX = 65536
LAST_WORDS_LINES, LAST_WORD_CHARS_MAX = 3, 300  # what went wrong and what to do next; all of it is in the log

log = get_log("trainer")


@dataclass(frozen=True)
class TrainerCommand:
    """`environment` is added to the daemon's own."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def trainer_command(
    trainer: str | tuple[str, ...],
    run_id: str,
    manifest: Mapping[str, Any],
    socket: Path,
    *,
    threads: int = 0,
    data: Mapping[str, Path] | None = None,
) -> TrainerCommand:
    """The built-in trainer, or the operator's own command; both are told the run in the environment.

    Not on the command line, which every user of the host can read: the run id admits to the run.
    """
    environment = {
        "INTELLECTD_RUN": run_id,
        "INTELLECTD_SOCKET": str(socket),
        "INTELLECTD_MANIFEST": json.dumps(manifest),
        "INTELLECTD_DATA": json.dumps({name: str(path) for name, path in (data or {}).items()}),
    }
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    builtin = (sys.executable, "-m", "intellectd.daemon.trainer")
    return TrainerCommand(builtin if trainer == "builtin" else tuple(trainer), environment)


@dataclass(frozen=True)
class Pauses:
    first_s: float = RESTART_FIRST_S
    s_max: float = RESTART_S_MAX

    def after(self, pause_s: float, lived_s: float) -> float:
        """The pause before the next life, given the one before this life."""
        return self.first_s if pause_s == 0.0 or lived_s > STEADY_S else min(2 * pause_s, self.s_max)


class LastWords:
    """The last line that a child printed, and the indented ones under it: a reason and its hint."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def hear(self, line: str) -> None:
        if line.strip():
            kept = self._lines if line[0].isspace() else []
            self._lines = [*kept, line.strip()[:LAST_WORD_CHARS_MAX]][:LAST_WORDS_LINES]

    def __str__(self) -> str:
        return "; ".join(self._lines)


class TrainerProcess:
    """`run` until the child ends well (exit 0: the run has finished) or is cancelled."""

    def __init__(self, command: TrainerCommand, pauses: Pauses = Pauses()) -> None:
        self._command, self._pauses = command, pauses
        self.pid: int | None = None
        self.last_failure = ""  # for `status`: how the last life ended, and its last words
        self.is_hopeless = False  # it gave up by itself or could not begin: the next life would end alike
        self.starts = 0

    async def run(self) -> None:
        pause_s = 0.0
        while True:
            started_s = trio.current_time()
            failure = await self._live()
            if failure is None:
                log.info("the trainer ended")
                return
            self.last_failure = failure
            pause_s = self._pauses.after(pause_s, trio.current_time() - started_s)
            log.warning("the trainer died", reason=failure, restart_in_s=pause_s)
            await trio.sleep(pause_s)

    async def _live(self) -> str | None:
        """One life of the child: None if it ended well, else how it ended."""
        self.is_hopeless = True
        mark = new_mark()
        try:
            child = _spawn(self._command, mark)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return f"cannot start {self._command.argv[0]!r}: {getattr(error, 'strerror', None) or error}"
        self.pid, self.starts = child.pid, self.starts + 1
        log.info("the trainer started", pid=child.pid)
        words = LastWords()
        try:
            await _until_ended(child, words)
        finally:
            with trio.CancelScope(shield=True):
                await _end(child, mark)
            self.pid = None
        self.is_hopeless = child.returncode > 0
        ended = _words(child.returncode)
        return f"{ended}: {words}" if ended and str(words) else ended


def _spawn(command: TrainerCommand, mark: str) -> subprocess.Popen[bytes]:
    """In this very thread: a child is sent its parent-death signal when the *thread* that forked it ends, and
    trio's own open_process forks in a worker thread that ends when it is idle."""
    return subprocess.Popen(
        command.argv,
        env={**os.environ, **command.environment, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=end_with_parent,  # noqa: PLW1509 (one system call)
    )


async def _until_ended(child: subprocess.Popen[bytes], words: LastWords) -> None:
    """And until what it started is through with its output, or is late with that: it may live on for ever."""
    silent = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_log_output, child, words, silent)
        await _exited(child)
        with trio.move_on_after(STOP_S_MAX):
            await silent.wait()
        nursery.cancel_scope.cancel()


async def _log_output(child: subprocess.Popen[bytes], words: LastWords, silent: trio.Event) -> None:
    """Until nobody has it open any more."""
    assert child.stdout is not None
    stream = trio.lowlevel.FdStream(os.dup(child.stdout.fileno()))
    child.stdout.close()
    rest = b""
    try:
        async with stream:
            while piece := await stream.receive_some(READ_BYTES_MAX):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    _log_line(line, words)
                if len(rest) >= LINE_BYTES_MAX:
                    _log_line(rest, words)
                    rest = b""
    finally:
        _log_line(rest, words)
    silent.set()


def _log_line(line: bytes, words: LastWords) -> None:
    for start in range(0, len(line), LINE_BYTES_MAX):
        text = line[start : start + LINE_BYTES_MAX].decode("utf-8", "replace").rstrip()
        words.hear(text)
        log.info("the trainer says", line=text)


async def _exited(child: subprocess.Popen[bytes]) -> None:
    try:
        descriptor = os.pidfd_open(child.pid)
    except OSError:  # Linux has it since 5.3, and older sandboxes refuse it; the thread ends with the child
        await trio.to_thread.run_sync(  # type: ignore[call-arg]  # its decorator hides the keywords from mypy
            _wait_for, child.pid, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )
    else:
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
    child.wait()


def _wait_for(pid: int) -> None:
    """Until that child has exited; who waits for it then still hears how."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def _end(child: subprocess.Popen[bytes], mark: str) -> None:
    """The whole group: first a word, then force. Also after an ordinary end, for what the child left behind, also in
    sessions of its own: ranks without their launcher would train on, and the next trainer be refused beside them."""
    if child.poll() is None:
        _signal_group(child, signal.SIGTERM)
        with trio.move_on_after(STOP_S_MAX):
            await _exited(child)
    _signal_group(child, signal.SIGKILL)
    if child.returncode is None:
        await _exited(child)
    if left := await trio.to_thread.run_sync(kill_marked, mark):
        log.warning("the trainer left processes behind, which were ended", number=left)


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _words(returncode: int) -> str | None:
    if returncode == 0:
        return None
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"
