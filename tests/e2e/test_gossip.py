"""Real daemons in a run whose rounds are decided in groups: real rings of two, a death between two exact rounds."""

import pytest

from intellectd.protocol.entries import groups_of
from tests.e2e.host import Host, light_trainer
from tests.e2e.swarm import Swarm
from tests.e2e.test_swarm import agree

GOSSIP = 'outer = { schedule = "gossip", gossip = { exact_every = 3, group_size = 2 } }'


def spreads(hosts: list[Host]) -> list[float]:
    return [host.run_status()["anchor_spread"] for host in hosts]


@pytest.mark.slow  # five processes, and one of them dies
def test_groups_part_and_meet_again_and_one_that_died_comes_back(swarm: Swarm) -> None:
    trainer = light_trainer(swarm.gate.path)
    hosts = [swarm.host(trainer, forked=True) for _ in range(4)]
    swarm.begin(hosts, GOSSIP)
    swarm.advance(hosts, 2)
    agree(hosts)
    assert all(spread > 0 for spread in spreads(hosts))
    swarm.advance(hosts, 1)
    agree(hosts)
    assert spreads(hosts) == [0.0] * 4

    swarm.advance(hosts, 1)
    lost = hosts[3]
    lost.kill()
    others = hosts[:3]
    swarm.advance(others, 2)
    lost.start()
    lost.wait_ready()
    swarm.join(lost, through=hosts[0])  # it lived too short a time to write down where the others are
    swarm.until_contributed(lost, seen_by=hosts)
    while hosts[0].rounds(swarm.run_id)[swarm.gate.open_to]["schedule"] == "gossip":
        swarm.advance(hosts, 1)
    agree(hosts)
    assert spreads(hosts) == [0.0] * 4
    assert swarm.stop(hosts) == [0, 0, 0, 0]
    logs = [swarm.log_of(host) for host in hosts]
    grouped = [entry for entry in logs[0] if entry.record.schedule == "gossip"]
    assert all(len(members) <= 2 for entry in grouped[:2] for _, members in groups_of(entry.record, entry.blob))
    assert len(grouped) >= 3 and all(log == logs[0] for log in logs)
