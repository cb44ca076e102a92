"""One daemon per state directory: an flock that the kernel drops when its holder dies, however it dies.

Owns DIR/lock and the words for the second daemon. Refuses to know what the directory holds.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from intellectd.daemon.atomic import make_dir, storage_error
from intellectd.daemon.errors import EXIT_TEMPORARY, OperatorError

LOCK_NAME = "lock"
PID_CHARS_MAX = 20


class StateDirHeld(OperatorError):
    """Another daemon works on this state directory."""

    exit_code = EXIT_TEMPORARY


class StateLock:
    """Held from construction until `release` or the end of the process. Children do not inherit it."""

    def __init__(self, state_dir: Path) -> None:
        make_dir(state_dir)
        self._path = state_dir / LOCK_NAME
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take()
        except OSError as error:
            raise storage_error(error, self._path) from error

    def _take(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, PID_CHARS_MAX, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise StateDirHeld(
                f"state directory {self._path.parent} is in use by the daemon with pid {holder or 'unknown'}",
                "use that one (`intellectd status`), stop it, or give this one another `--state-dir`",
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
