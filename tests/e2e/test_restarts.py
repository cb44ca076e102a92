"""Processes that die and come back: trainers, daemons, and programs that only attached. The run goes on."""

import os
import signal

import pytest

from tests.e2e.host import STEP_S_MAX, start_process, tiny_trainer
from tests.e2e.swarm import TRIES_MAX, Swarm
from tests.e2e.test_swarm import agree

pytestmark = pytest.mark.slow


def test_a_killed_daemon_comes_back_by_itself_and_contributes_again(swarm: Swarm) -> None:
    hosts = founder, other = [swarm.host(), swarm.host()]
    swarm.begin(hosts)
    swarm.advance(hosts, 3)
    other.kill()
    swarm.advance([founder], 3)
    other.start()  # no address is given, neither here nor in its configuration
    other.wait_ready()
    assert other.run_status()["run_id"] == swarm.run_id
    swarm.until_contributed(other, seen_by=hosts)
    agree(hosts)


def test_the_founder_comes_back_too_when_all_were_killed(swarm: Swarm) -> None:
    hosts = [swarm.host(), swarm.host()]
    swarm.begin(hosts)
    before = swarm.advance(hosts, 3)
    for host in hosts:
        host.kill()
    for host in hosts:
        # The address by which it is remembered.
        host.start("--network-listen", host.address.partition("/p2p/")[0])
    for host in hosts:
        host.wait_ready()
        assert host.run_status()["round"] == before
    for host in hosts:
        swarm.until_contributed(host, seen_by=hosts)
    agree(hosts)


def test_a_killed_trainer_is_restarted_and_its_host_contributes_again(swarm: Swarm) -> None:
    hosts = _, other = [swarm.host(), swarm.host()]
    swarm.begin(hosts)
    swarm.advance(hosts, 2)
    first = other.trainer_pid()
    os.kill(first, signal.SIGKILL)
    other.wait_until(
        swarm.run_id,
        lambda run: run["trainer"] == "absent" and any("SIGKILL" in warning for warning in run["warnings"]),
    )
    swarm.until_contributed(other, seen_by=hosts)
    assert other.trainer_pid() != first
    agree(hosts)


def test_an_attached_program_survives_a_restart_of_its_daemon(swarm: Swarm) -> None:
    hosts = founder, other = [swarm.host(), swarm.host("external")]
    swarm.begin(hosts)
    program = start_process(tiny_trainer(swarm.gate.path), other.log, {"INTELLECTD_SOCKET": str(other.socket)})
    try:
        swarm.advance(hosts, 3)
        assert other.trainer_pid() == program.pid
        other.kill()
        swarm.advance([founder], 2)
        other.start()
        other.wait_ready()
        swarm.until_contributed(other, seen_by=hosts)
        assert other.trainer_pid() == program.pid and program.poll() is None
        agree(hosts)
    finally:
        program.kill()
        program.wait()


def test_a_host_that_leaves_is_gone_and_the_run_goes_on(swarm: Swarm) -> None:
    hosts = founder, other = [swarm.host(), swarm.host()]
    swarm.begin(hosts)
    swarm.advance(hosts, 2)
    with other.starting("leave", swarm.run_id) as leaving:
        for _ in range(TRIES_MAX):  # a voter is gone when a round is without its seat
            if leaving.poll() is not None:
                break
            swarm.advance([founder], 1)
        assert leaving.wait(STEP_S_MAX) == 0, other.told("it could not leave")
    assert other.tell("runs")["runs"] == []
    assert other.cli("status").returncode == 4
    swarm.advance([founder], 2)
    swarm.join(other, through=founder)  # leaving is not for ever
    swarm.until_contributed(other, seen_by=hosts)
    agree(hosts)
