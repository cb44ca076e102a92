"""Two that join at once serve each other what they have of the state: real daemons, donors with slow uplinks."""

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from intellectd.daemon.cli.client import ask
from tests.e2e.host import Host, light_trainer
from tests.e2e.swarm import Swarm
from tests.e2e.test_catchup import MIB, SLOW, proven
from tests.e2e.test_catchup_faults import founded
from tests.e2e.test_swarm import agree

pytestmark = pytest.mark.slow


def given_bytes(host: Host) -> float:
    """Of states and updates, to others."""
    text = ask(host.socket, "metrics")["text"]
    found = re.findall(r'^intellectd_checkpoint_bytes_total\{[^}]*direction="out"[^}]*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


@contextmanager
def stopped(host: Host) -> Iterator[None]:
    os.kill(host.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(host.process.pid, signal.SIGCONT)


def until_both_have_begun(late: list[Host], run_id: str) -> None:
    """On a busy machine one may be done before the other begins: whoever is ahead waits."""
    one, other = late
    one.wait_until(run_id, lambda _run: proven(one, run_id) + proven(other, run_id) > 0)
    ahead, behind = (one, other) if proven(one, run_id) else (other, one)
    if not proven(behind, run_id):
        with stopped(ahead):
            behind.wait_until(run_id, lambda _run: proven(behind, run_id) > 0)


def test_two_that_join_at_once_serve_each_other(swarm: Swarm) -> None:
    first = founded(swarm, 2)
    trainer = light_trainer(swarm.gate.path, str(MIB))
    late = [swarm.host(trainer, forked=True, network=SLOW) for _ in range(2)]
    for host in late:
        host.wait_ready()
    with ThreadPoolExecutor() as together:
        list(together.map(lambda host: swarm.join(host, through=first[0]), late))
    until_both_have_begun(late, swarm.run_id)
    for host in late:
        host.wait(swarm.run_id, "synced")
    # At most one of the two can have given what it had when it was done; how much each gave before that is a matter of
    # speeds, on which tests/protocol/test_pieces.py and the bench have more to say.
    given = {host.name: given_bytes(host) // 2**20 for host in (*first, *late)}
    assert all(given[host.name] > MIB / 16 for host in late), given
    everybody = [*first, *late]
    for host in late:
        swarm.until_contributed(host, seen_by=everybody)
    agree(everybody)
