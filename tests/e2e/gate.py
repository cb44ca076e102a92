"""How far a run may go: byte r of a file is locked until round r may be trained. Nobody has to poll or sleep.

Record locks belong to a process, so the tests hold the file open once, and trainers wait in the kernel.
"""

import fcntl
import os
from pathlib import Path


class Gate:
    """The tests' end. Everything is shut at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.open_to = 0
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 0, 1)

    def open(self, last_round: int) -> None:
        """Rounds up to this one may be trained."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, last_round, 1)
        self.open_to = last_round

    def close(self) -> None:
        """Lets everybody through."""
        os.close(self._descriptor)
