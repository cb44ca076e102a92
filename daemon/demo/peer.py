"""One daemon of the demo: an ordinary process with an ordinary state directory, asked over its own socket.

Owns the process. Refuses to know the story.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import NotRunning, ask
from intellectd.daemon.config import without_settings
from intellectd.daemon.demo.settings import peer_toml
from intellectd.daemon.errors import OperatorError
from intellectd.daemon.parent_death import end_with_parent

START_S_MAX = 60.0  # imports of five daemons at once on two busy cores take some seconds
ANSWER_S_MAX = 20.0
STOP_S_MAX = 15.0
POLL_S = 0.1
LOG_LINES_SHOWN = 12


class DemoError(OperatorError):
    """A peer of the demo did not do what it should; the text has the end of its log."""


class Peer:
    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.folder = folder / f"peer-{number}"
        self.folder.mkdir()
        # A socket's path is limited to 107 bytes, and a state directory's is not.
        self._sockets = tempfile.TemporaryDirectory(prefix="intellectd-")
        self.socket = Path(self._sockets.name) / "socket"
        self.log = self.folder / "daemon.log"
        config = self.folder / "config.toml"
        config.write_text(peer_toml(self.folder, self.socket, number))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "intellectd.daemon.cli.main", "run", "--config", str(config)],
                env=without_settings(os.environ),  # else all of them take what an operator has exported for one
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 (one system call)
            )
        self.killed = self._stopped = False
        self.peer_id = ""
        self.address = ""
        self.status: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            if not self.alive:
                raise self.error("ended while it started")
            with contextlib.suppress(NotRunning):
                answer = self.ask("status")
                self.peer_id, self.address = answer["peer"], answer["addresses"][0]
                return
            time.sleep(POLL_S)
        raise self.error(f"was not ready within {START_S_MAX:.0f} s")

    def ask(self, op: str, answer_s_max: float = ANSWER_S_MAX, **fields: Any) -> dict[str, Any]:
        return ask(self.socket, op, answer_s_max, **fields)

    def look(self) -> dict[str, Any]:
        """The status of its run; the last known one if it does not answer now."""
        if self.alive:
            with contextlib.suppress(OperatorError, OSError):
                runs = self.ask("status")["runs"]
                self.status = runs[0] if runs else {}
        return self.status

    def kill(self) -> None:
        """SIGKILL to the daemon alone, as the kernel's OOM killer would do it."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Tell it to end, once: a second SIGTERM would end it in the midst of ending."""
        if self.alive and not self._stopped:
            self._stopped = True
            self.process.terminate()

    def end(self) -> None:
        if self.alive:
            self.stop()
            try:
                self.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._sockets.cleanup()

    def error(self, what: str) -> DemoError:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        shown = "\n  ".join(lines) or "(it logged nothing)"
        return DemoError(f"peer {self.number} {what}; the end of {self.log}:\n  {shown}")
