"""What a busy machine does now and then, done at random and often: `DELAYS=1,1.0 python -m pytest -p tests.delays ...`.

Naps of up to so many seconds, by that seed: at lines of the test itself, and in other threads at lines of this project.
A test that fails under them hangs on how fast the machine is, or shows a race of the product. The report of a failure
tells where they were. They only wait, so many can run at once (`-n 8`). A timer of less than a few naps fires: whether
that is a fault of the test is to be judged. Owns the naps; refuses to judge.
"""

import os
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NAP_S_MIN = 0.1
# Of threads, and of tests, so many nap at all; the first nap comes after so many lines on average, further ones later:
# most threads of the bulk plane live for a few hundred lines, most tests have some twenty.
THREADS_SHARE, THREAD_LINES, THREAD_LINES_LATER = 0.3, 40, 400
TESTS_SHARE, TEST_LINES = 0.7, 12
AGAIN_SHARE = 0.5


class Naps:
    def __init__(self, seed: str, longest_s: float) -> None:
        self.seed, self.longest_s = seed, longest_s
        self.rng = Random(seed)
        self.told: list[str] = []

    def begin(self, name: str) -> None:
        self.rng.seed(self.seed + name)
        self.told.clear()

    def lines(self, share: float, mean: float) -> int | None:
        return int(self.rng.expovariate(1 / mean)) if self.rng.random() < share else None

    def nap(self, frame: FrameType) -> None:
        seconds = self.rng.uniform(NAP_S_MIN, self.longest_s)
        where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        self.told.append(f"{threading.current_thread().name}: {seconds:.2f} s at {where}, {frame.f_code.co_name}")
        threading.Event().wait(seconds)


class Tracer:
    """Of one thread: sys.settrace's function. It counts lines of files under `path`."""

    def __init__(self, naps: Naps, path: str, share: float, first: float, later: float) -> None:
        self._naps, self._path, self._later = naps, path, later
        self.left = naps.lines(share, first)

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if self.left is None or not frame.f_code.co_filename.startswith(self._path):
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                self.left = self._naps.lines(AGAIN_SHARE, self._later)
                self._naps.nap(frame)
        return self


class Plugin:
    def __init__(self, naps: Naps) -> None:
        self._naps = naps
        threading.settrace(self._thread)

    def _thread(self, frame: FrameType, event: str, arg: Any) -> Any:
        tracer = Tracer(self._naps, str(ROOT), THREADS_SHARE, THREAD_LINES, THREAD_LINES_LATER)
        sys.settrace(tracer if tracer.left is not None else None)
        return tracer(frame, event, arg)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._naps.begin(item.nodeid)
        sys.settrace(Tracer(self._naps, str(item.path), TESTS_SHARE, TEST_LINES, TEST_LINES))
        try:
            return (yield)
        except BaseException:
            item.add_report_section("call", "naps", "\n".join(self._naps.told))
            raise
        finally:
            sys.settrace(None)


def pytest_configure(config: pytest.Config) -> None:
    seed, _, longest_s = os.environ.get("DELAYS", "1,1.0").partition(",")
    config.pluginmanager.register(Plugin(Naps(seed, float(longest_s or 1.0))))
