"""From a run of the built-in trainer to a model that transformers loads: the same logits as the agreed state."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from intellectd.daemon.runs.service import layout_of
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.trainer.model import build_model
from intellectd.protocol.manifest import config_of, plain
from tests.e2e.swarm import Swarm

pytestmark = pytest.mark.slow

ROUNDS = 4  # a snapshot is written every fourth
RUN_TOML = f"""
name = "export"
seed = 3
[model]
kind = "llama"
hidden_size = 32
intermediate_size = 64
layers = 2
heads = 2
kv_heads = 1
context = 32
[data]
batch_size = 2
eval_sequences = 4
[inner]
steps = 3
lr = 1e-3
[until]
rounds = {ROUNDS}
"""


def test_an_exported_checkpoint_has_the_logits_of_the_state(swarm: Swarm, tmp_path: Path) -> None:
    host = swarm.host("builtin")
    host.wait_ready()
    swarm.found(host, RUN_TOML)
    host.wait(swarm.run_id, "finished")
    target = tmp_path / "out"
    answer = host.tell("checkpoint", "export", swarm.run_id, str(target), "--format", "hf")
    assert (answer["round"], answer["path"]) == (ROUNDS, str(target))
    assert sorted(answer["files"]) == sorted(path.name for path in target.iterdir())
    assert host.cli("checkpoint", "export", swarm.run_id, str(target)).returncode == 1  # nothing is overwritten
    host.wait_until(swarm.run_id, lambda run: run["trainer"] == "absent")
    assert swarm.stop([host]) == [0]

    store = RunStore(host.state / "runs" / swarm.run_id)
    manifest = store.manifest().manifest
    model = build_model(plain(config_of(manifest))["model"], seed=0)
    parameters = Parameters(model)
    assert parameters.layout.to_wire() == layout_of(manifest).to_wire()
    parameters.load(load_file(store.snapshot_path(ROUNDS))["theta"])
    store.close()

    from transformers import AutoModelForCausalLM

    exported = AutoModelForCausalLM.from_pretrained(target)
    tokens = torch.arange(64).reshape(2, 32) * 3 % 256
    with torch.no_grad():
        assert torch.equal(exported(tokens).logits, model.eval().cpu()(tokens).logits)
