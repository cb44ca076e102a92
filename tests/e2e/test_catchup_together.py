"""Those that join at once serve each other what they have of the state: real daemons, donors with slow uplinks."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from intellectd.daemon.cli.client import ask
from tests.e2e.host import Host, light_trainer
from tests.e2e.swarm import Swarm
from tests.e2e.test_catchup import MIB, SLOW
from tests.e2e.test_catchup_faults import founded
from tests.e2e.test_swarm import agree

pytestmark = pytest.mark.slow


def given_bytes(host: Host) -> float:
    """Of states and updates, to others."""
    text = ask(host.socket, "metrics")["text"]
    found = re.findall(r'^intellectd_checkpoint_bytes_total\{[^}]*direction="out"[^}]*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


def test_of_two_that_join_at_once_one_serves_the_other(swarm: Swarm) -> None:
    first = founded(swarm, 2)
    trainer = light_trainer(swarm.gate.path, str(MIB))
    late = [swarm.host(trainer, forked=True, network=SLOW) for _ in range(2)]
    for host in late:
        host.wait_ready()
    with ThreadPoolExecutor() as together:
        list(together.map(lambda host: swarm.join(host, through=first[0]), late))
    for host in late:
        host.wait(swarm.run_id, "synced")
    # On a busy machine one is ahead all the way, and the other has nothing that it lacks: that both give where they are
    # equally fast is for tests/daemon/test_bulk_fellows.py, tests/protocol/test_pieces.py and the bench to say.
    given = {host.name: given_bytes(host) // 2**20 for host in (*first, *late)}
    assert max(given[host.name] for host in late) > MIB / 16, given
    everybody = [*first, *late]
    for host in late:
        swarm.until_contributed(host, seen_by=everybody)
    agree(everybody)
