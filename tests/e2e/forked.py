"""A daemon forked from a process that has imported what a daemon imports, which is most of a daemon's start.

Owns the fork, and that it looks like a `subprocess.Popen`. What runs is the command line's own `main`, on arguments
and an environment of its own. Refuses to be the only way that the tests start daemons.
"""

import faulthandler
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

from intellectd.daemon.cli.main import main
from intellectd.daemon.parent_death import end_with_parent

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["intellectd.daemon.app", "intellectd.daemon.cli.host", __name__])


def _become(words: tuple[str, ...], log: Path, environ: dict[str, str]) -> None:
    os.setsid()
    end_with_parent()
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    faulthandler.enable()  # a crash in native code says where
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["intellectd", *words]
    sys.exit(main())


class Forked:
    """What of `Popen` the tests use."""

    def __init__(self, words: tuple[str, ...], log: Path, environ: dict[str, str]) -> None:
        self._process = _context.Process(target=_become, args=(words, log, {**os.environ, **environ}))
        self._process.start()
        assert self._process.pid is not None
        self.pid, self.kill, self.terminate = self._process.pid, self._process.kill, self._process.terminate

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("intellectd", timeout or 0.0)
        return self._process.exitcode
