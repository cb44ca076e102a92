"""Real daemons that exchange top-k deltas directly, with what each loses fed back; one is killed and comes back."""

import pytest

from tests.e2e.host import light_trainer
from tests.e2e.swarm import Swarm
from tests.e2e.test_swarm import agree

pytestmark = pytest.mark.slow


def test_sparse_deltas_go_by_direct_exchange_and_their_loss_outlives_the_process(swarm: Swarm) -> None:
    trainer = light_trainer(swarm.gate.path)
    hosts = first, *_, last = [swarm.host(trainer), *(swarm.host(trainer, forked=True) for _ in range(2))]
    swarm.begin(hosts, 'outer = { codec = "topk", error_feedback = true, optimizer = "average", lr = [[1, 1.0]] }')
    swarm.advance(hosts, 4)
    agree(hosts)
    folder = last.state / "runs" / swarm.run_id / "feedback"
    assert len(list(folder.iterdir())) == 2  # of the delta that was decided last, and of the one before
    last.kill()
    swarm.advance(hosts[:2], 2)
    last.start("--network-bootstrap", first.address)  # killed so young, it had not written down whom it knew
    last.wait_ready()
    swarm.until_contributed(last, seen_by=hosts)
    agree(hosts)
    assert swarm.stop(hosts) == [0, 0, 0]
    records = [entry.record for entry in swarm.log_of(first)]
    assert {(record.codec, record.schedule) for record in records[1:]} == {("topk", "direct")}
