"""From an exported checkpoint to a new run that goes on from it: real daemons, the built-in trainer, a joiner."""

from pathlib import Path

import pytest
import torch

from intellectd.daemon.runs.service import layout_of
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.store.snapshot import read_snapshot
from tests.e2e.swarm import Swarm
from tests.e2e.test_export import ROUNDS, RUN_TOML

pytestmark = pytest.mark.slow

GOES_ON = """
name = "goes-on"
[data]
batch_size = 2
eval_sequences = 4
[inner]
steps = 3
lr = 1e-3
[swarm]
start_peers = 2
[until]
rounds = 2
"""


def first_state(store: RunStore) -> torch.Tensor:
    elements = layout_of(store.manifest().manifest).elements
    found = read_snapshot(store.snapshot_path(0), elements, 0)
    assert found.digest == store.manifest().manifest.state_digest and not found.state.momentum.any()
    return found.state.theta


def test_a_run_goes_on_from_what_another_has_exported(swarm: Swarm, tmp_path: Path) -> None:
    first, second = swarm.host("builtin"), swarm.host("builtin")
    first.wait_ready(), second.wait_ready()
    swarm.found(first, RUN_TOML)
    before = swarm.run_id
    first.wait(before, "finished")
    target = tmp_path / "out"
    first.tell("checkpoint", "export", before, str(target), "--dtype", "bf16")
    (tmp_path / "goes-on.toml").write_text(GOES_ON)
    swarm.run_id = str(first.tell("checkpoint", "import", str(target), str(tmp_path / "goes-on.toml"))["run_id"])
    swarm.join(second, through=first)
    statuses = [host.wait_until(swarm.run_id, lambda run: run["state"] == "finished") for host in (first, second)]
    assert {status["state_digest"] for status in statuses} == {statuses[0]["state_digest"]}
    assert [status["round"] for status in statuses] == [2, 2]
    assert swarm.stop([first, second]) == [0, 0]

    trained = RunStore(first.state / "runs" / before)
    elements = layout_of(trained.manifest().manifest).elements
    theta = read_snapshot(trained.snapshot_path(ROUNDS), elements, ROUNDS).state.theta
    trained.close()
    for host in (first, second):
        store = RunStore(host.state / "runs" / swarm.run_id)
        assert torch.equal(first_state(store), theta.bfloat16().float())
        store.close()
