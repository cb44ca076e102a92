"""What a network leaves behind: nothing, however the process that made it ends."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wan.fixture import Make
from tests.wan.network import WanError, why_no_nat, why_not
from tests.wan.topology import Host, Route, Topology, uniform

ROOT = Path(__file__).parents[2]
GONE_S = 30.0  # a second for the router to kill them, and a busy machine

# Two hosts, one behind a NAT, and in it somebody who has left his parent and his session and ignores what he can.
OWNER = """
import subprocess, sys
from tests.wan.network import Wan
from tests.wan.topology import Host, Topology
stubborn = 'trap "" TERM HUP INT; (setsid sleep 1000 & echo $!); echo $$; exec sleep 1000'
with Wan(Topology((Host("a"), Host("b", nat="symmetric" if sys.argv[1] == "nat" else "none")), {})) as wan:
    process = wan.popen("b", "sh", "-c", stubborn, stdout=subprocess.PIPE, text=True)
    pids = [process.stdout.readline().strip(), process.stdout.readline().strip(), str(wan.router_pid)]
    print(*pids, flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.read()
"""


def started(nat: str, then: str) -> tuple[subprocess.Popen[str], list[int]]:
    """The owner of a network, and descriptors that tell the end of the router and of the two in host b."""
    words = (sys.executable, "-c", OWNER, nat, then)
    pipe = subprocess.PIPE
    owner = subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    assert owner.stdout
    return owner, [os.pidfd_open(int(pid)) for pid in owner.stdout.readline().split()]


def all_ended(processes: list[int]) -> bool:
    ended = []
    for process in processes:
        readable, _, _ = select.select([process], [], [], GONE_S)
        ended.append(bool(readable))
        os.close(process)
    return len(ended) == 3 and all(ended)


def interfaces() -> list[str]:
    listed = subprocess.run(("ip", "-o", "address"), capture_output=True, text=True, check=True).stdout
    return [line.split()[1] for line in listed.splitlines()]


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize(
    "nat",
    [pytest.param("nat", marks=pytest.mark.skipif(why_no_nat() is not None, reason=str(why_no_nat()))), "plain"],
)
def test_a_killed_owner_leaves_nothing(nat: str) -> None:
    before = interfaces(), Path("/proc/net/route").read_text()
    owner, processes = started(nat, "wait")
    os.killpg(owner.pid, signal.SIGKILL)
    assert all_ended(processes)
    owner.communicate()
    assert (interfaces(), Path("/proc/net/route").read_text()) == before


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_an_owner_that_ends_takes_its_hosts_processes_along() -> None:
    owner, processes = started("plain", "end")
    assert all_ended(processes)
    assert owner.wait(GONE_S) == 0
    owner.communicate()


def test_a_router_that_dies_is_told_of(wan: Make) -> None:
    net = wan(uniform(("a", "b"), Route()))
    assert net.router_pid is not None
    os.kill(net.router_pid, signal.SIGKILL)
    with pytest.raises(WanError, match="the router is gone"):
        net.counts()


def test_what_cannot_be_built_says_why(wan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = Topology((Host("a"), Host("b", nat="symmetric")), {})
    monkeypatch.setattr("tests.wan.nat.rules", lambda kind: "nonsense")
    with pytest.raises(OSError, match="nft"):
        wan(topology)


def test_why_not_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not() == "network namespaces take root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    said = why_not()
    assert said is not None
    assert said.startswith(("no `ip` on the PATH", "no /dev/net/tun"))
