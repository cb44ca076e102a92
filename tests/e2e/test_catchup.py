"""A joiner killed in the midst of its catch-up goes on where it was, from the donors that are left."""

import pytest

from tests.e2e.host import Host, light_trainer
from tests.e2e.swarm import Swarm
from tests.e2e.test_swarm import agree

pytestmark = pytest.mark.slow

MIB = 48
SLOW = "upload_mbit = 24\nserve_percent = 100"  # 3 MB/s: a state of 96 MiB takes two donors 16 s


def proven(host: Host, run_id: str) -> int:
    """Pieces that are on its disk, and known to be."""
    files = list((host.state / "runs" / run_id / "incoming").glob("*.proven"))
    return sum(file.read_bytes()[-2 * MIB - 2 :].count(1) for file in files)


def test_a_joiner_killed_halfway_fetches_the_rest_alone(swarm: Swarm) -> None:
    trainer = light_trainer(swarm.gate.path, str(MIB))
    first = [swarm.host(trainer, forked=True, network=SLOW) for _ in range(2)]
    swarm.begin(first, 'outer = { codec = "int8" }')
    swarm.advance(first, 5)  # a snapshot of the fourth, which the fifth proves: momentum and all
    late = swarm.host(trainer, forked=True)
    late.wait_ready()
    swarm.join(late, through=first[0])
    late.wait_until(swarm.run_id, lambda _run: proven(late, swarm.run_id) >= 30)
    late.kill()
    before = proven(late, swarm.run_id)
    assert before < 2 * MIB, late.told(f"{before} pieces were on its disk")
    late.start()
    late.wait_ready()
    late.wait(swarm.run_id, "synced")
    seen = late.run_status()["catchup"]
    assert seen["kept_bytes"] > (before - 2) * 2**20, late.told(str(seen))
    assert not list((late.state / "runs" / swarm.run_id / "incoming").iterdir())
    everybody, at = [*first, late], swarm.gate.open_to
    counted = swarm.until_contributed(late, seen_by=everybody)
    assert counted <= at + 2, late.told("the next record names it, the one after has its work")
    swarm.advance(everybody, 1)
    agree(everybody)
    rows = first[0].rounds(swarm.run_id)
    assert len({*rows[counted]["weights"].values()}) == 1, "it did as much as the others, and counts as much"
