"""Who goes before others on a busy machine: a process, its threads and children, and nobody else."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.wan.precedence import NICE_MIN, before_others


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go before others")
def test_a_process_goes_before_others_with_what_it_starts_and_its_parent_does_not() -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0), weight(os.getpid())
    with subprocess.Popen(
        ("sh", "-c", "read go; nice; cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        before_others(process.pid)
        assert process.stdin and process.stdout
        process.stdin.write("go\n")
        process.stdin.flush()
        assert int(process.stdout.readline()) == NICE_MIN
        assert weight(process.pid) in (None, NICE_MIN)
        process.stdin.close()
    assert mine == (os.getpriority(os.PRIO_PROCESS, 0), weight(os.getpid()))


def test_where_it_is_not_allowed_nothing_happens() -> None:
    before_others(2**22 + 1)  # no process has that id (proc(5), pid_max)


def weight(pid: int) -> int | None:
    """The niceness of its session; None where the kernel does not weigh sessions, or not this one: that of the system's
    first process has no group, and its file is empty."""
    try:
        words = Path("/proc", str(pid), "autogroup").read_text().split()
    except OSError:
        return None
    return int(words[-1]) if words else None
