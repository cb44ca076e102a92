"""The delays cost a test time, are told where it fails, and change nothing where one thread waits for another."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import threading, time

def elsewhere():
    began, said = time.monotonic(), threading.Event()
    thread = threading.Thread(target=said.set)
    thread.start()
    said.wait()
    for _ in range(2000):  # far more lines than pass before the first nap
        pass
    return said.is_set(), time.monotonic() - began

def test_order():
    assert elsewhere()[0]

def test_speed():
    assert elsewhere()[1] < 0.05
"""


def test_naps_cost_time_alone(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PROGRAM)
    words = [sys.executable, "-m", "pytest", "-p", "tests.delays", "-p", "no:cacheprovider", "test_it.py"]
    environ = {"PYTHONPATH": str(ROOT), "DELAYS": "1,0.2"}
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_it.py::test_speed" in done.stdout and " s at test_it.py:" in done.stdout
