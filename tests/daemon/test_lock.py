"""One daemon per state directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.lock import StateDirHeld, StateLock

HOLDER = """
import sys
from pathlib import Path
from intellectd.daemon.atomic import StorageError
from intellectd.daemon.lock import StateLock
lock = StateLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_daemon_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(StateDirHeld, match=f"{tmp_path} is in use by the daemon with pid {first.pid}") as caught:
            StateLock(tmp_path)
        assert caught.value.exit_code == 75
        first.kill()
        first.wait()
    # The kernel dropped the lock with its holder: nothing is left to clean up by hand.
    with StateLock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_released_means_free_again(tmp_path: Path) -> None:
    for _ in range(2):
        with StateLock(tmp_path / "deep" / "state"):
            assert (tmp_path / "deep" / "state" / "lock").exists()


def test_a_refused_second_leaves_the_first_locked(tmp_path: Path) -> None:
    with StateLock(tmp_path):
        for _ in range(2):
            with pytest.raises(StateDirHeld, match=f"pid {os.getpid()}"):
                StateLock(tmp_path)


def test_a_state_directory_that_cannot_be_written_is_named() -> None:
    # The kernel lets nobody, root included, make a folder in /sys.
    with pytest.raises(StorageError, match="cannot write /sys/intellectd") as caught:
        StateLock(Path("/sys/intellectd"))
    assert caught.value.exit_code == 77
    assert "--state-dir" in caught.value.hint
