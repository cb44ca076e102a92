"""A swarm of real daemons over real libp2p and TLS: found, joined, robbed of its founder, joined late."""

from collections.abc import Sequence
from pathlib import Path

from tests.e2e.host import Host, light_trainer
from tests.e2e.swarm import Swarm


def agree(hosts: Sequence[Host]) -> None:
    """Everybody stands at the same round with the same bits."""
    runs = [host.run_status() for host in hosts]
    assert len({run["round"] for run in runs}) == 1
    assert len({run["state_digest"] for run in runs}) == 1
    assert runs[0]["state_digest"]


def maps_of(host: Host) -> str:
    return Path(f"/proc/{host.process.pid}/maps").read_text()


def test_the_run_outlives_its_founder_and_a_latecomer_catches_up(swarm: Swarm) -> None:
    trainer = light_trainer(swarm.gate.path)  # four processes that import torch take longer than all the rest
    # The founder is a process as an operator starts it. To import torch four times would take longer than the story.
    founder, second, third = first = [swarm.host(trainer), *(swarm.host(trainer, forked=True) for _ in range(2))]
    swarm.begin(first)
    swarm.advance(first, 3)
    swarm.until_together(first)
    agree(first)
    assert all("memfd:intellectd-wire" in maps_of(host) for host in first), "on one host chunks go by shared memory"

    late = swarm.host(trainer, forked=True)  # boots while the others go on; of the run it knows nothing
    swarm.gate.open(swarm.gate.open_to + 1)
    founder.kill()  # in the midst of a round
    survivors = [second, third]
    swarm.advance(survivors, 3)
    swarm.until_together(survivors)
    agree(survivors)

    late.wait_ready()
    swarm.join(late, through=third)
    late.wait(swarm.run_id, "synced")
    assert late.run_status()["catchup"]["bytes"] >= 2 * 4 * 600  # theta and momentum of 600 parameters
    everybody = [second, third, late]
    swarm.advance(everybody, 1)
    last = swarm.until_together(everybody)
    agree(everybody)
    losses = [row["loss"] for row in second.rounds(swarm.run_id).values() if row["loss"] is not None]
    assert losses[-1] < losses[0]

    assert swarm.stop(everybody) == [0, 0, 0]
    for host in everybody:
        log = swarm.log_of(host)
        assert [entry.record.round for entry in log] == list(range(last + 1))
        assert all(entry.blob.contributions for entry in log[1:])
