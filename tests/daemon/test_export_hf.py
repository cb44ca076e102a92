"""What needs `transformers`: the built-in model, its export, and the trainer alone and in a run."""

import json
import logging
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import intellectd
from intellectd.daemon import export_files
from intellectd.daemon.arena import arena_tensor, create_arena, map_arena
from intellectd.daemon.attach_events import TrainerEvaluated, TrainerLog, TrainerReady
from intellectd.daemon.export_files import ExportError
from intellectd.daemon.export_hf import export_hf, of_file
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.daemon.store.state_file import StateFile
from intellectd.daemon.trainer.__main__ import main
from intellectd.daemon.trainer.data import load_text
from intellectd.daemon.trainer.flops import flops_per_token, peak_flops, peak_of
from intellectd.daemon.trainer.model import ModelError, build_model
from intellectd.daemon.trainer.train import Recipe, make_optimizer, train
from tests.daemon.local_daemon import RUN_ID, Run, serving

MODEL = {
    "kind": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 40,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "context": 16,
    "rope_theta": 5000.0,
}
MANIFEST = {
    "name": "tiny",
    "seed": 3,
    "model": MODEL,
    "data": {"source": "books", "batch_size": 4, "eval_sequences": 8},
    "inner": {"steps": 4, "lr": 0.01, "betas": [0.9, 0.95], "weight_decay": 0.1, "warmup_steps": 2, "clip_norm": 1.0},
    "outer": {"momentum": 0.9, "lr": [[1, 0.4], [2, 0.6]], "codec": "int8"},
    "until": {"rounds": 3},
}


def anchor_of(model: torch.nn.Module) -> tuple[torch.Tensor, Parameters]:
    parameters = Parameters(model)
    descriptor = create_arena(parameters.layout.elements)
    theta = arena_tensor(map_arena(descriptor, parameters.layout.elements))
    parameters.store(theta)
    return theta, parameters


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_the_export_and_gives_the_same_logits(tmp_path: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    table = {**MODEL, "tie_embeddings": tied}
    model = build_model(table, seed=1, device="cpu").eval()
    theta, parameters = anchor_of(model)
    files = export_hf(theta, parameters.layout, table, tmp_path / "deep" / "model")
    assert sorted(p.name for p in (tmp_path / "deep" / "model").iterdir()) == sorted(files)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model"], "nothing temporary is left"

    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert loaded.dtype == torch.float32
    tokens = torch.arange(32).view(2, 16) * 7 % 256
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(("dtype", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_transformers_loads_shards_of_either_dtype(
    tmp_path: Path, dtype: str, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(export_files, "PIECE_ELEMENTS", 1000)  # tensors of several pieces
    model = build_model(MODEL, seed=1, device="cpu")
    theta, parameters = anchor_of(model)
    files = export_hf(theta, parameters.layout, MODEL, tmp_path / "m", dtype, shard_bytes=5_000)
    shards = [name for name in files if name.endswith(".safetensors")]
    assert len(shards) > 3 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == parameters.layout.parameters * kind.itemsize
    assert list(index["weight_map"]) == [slot.name for slot in parameters.layout.slots]
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["torch_dtype"] == config["dtype"] == str(kind).removeprefix("torch.")
    largest = max(slot.size for slot in parameters.layout.slots) * kind.itemsize
    assert all((tmp_path / "m" / name).stat().st_size <= max(5_000, largest) + 2000 for name in shards)

    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=kind, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    for (name, ours), (other, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other and theirs.dtype == kind and torch.equal(ours.to(kind), theirs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.model.embed_tokens.requires_grad_(False), "'model.embed_tokens.weight' has shape none"),
        (lambda model: model.register_parameter("adapter", torch.nn.Parameter(torch.ones(3))), "'adapter' has shape"),
        (lambda model: model.resize_token_embeddings(300), r"has shape \(300, 16\) in the run, .* \(256, 16\)"),
    ],
)
def test_what_is_not_the_whole_model_is_no_model_for_transformers(tmp_path: Path, change: Any, words: str) -> None:
    """It would draw at random what a program has frozen, with a warning at most."""
    model = build_model(MODEL, seed=1, device="cpu")
    change(model)
    theta, parameters = anchor_of(model)
    with pytest.raises(ExportError, match=words) as caught:
        export_hf(theta, parameters.layout, MODEL, tmp_path / "m")
    assert "--format safetensors" in caught.value.hint and not (tmp_path / "m").exists()


def test_a_vector_that_lies_in_a_file_gives_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_files, "PIECE_ELEMENTS", 1000)
    theta, parameters = anchor_of(build_model(MODEL, seed=1, device="cpu"))
    (tmp_path / "state").write_bytes(b"header" + theta.numpy().tobytes() + b"momentum")
    for place, source in (("a", theta), ("b", of_file(tmp_path / "state", 6))):
        export_hf(source, parameters.layout, MODEL, tmp_path / place, "bf16")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    (tmp_path / "state").write_bytes(b"header" + theta.numpy().tobytes()[:-1])
    with pytest.raises(ExportError, match="ended while it was read"):
        export_hf(of_file(tmp_path / "state", 6), parameters.layout, MODEL, tmp_path / "c")
    assert not (tmp_path / "c").exists()


GROWTH = """
import resource, sys
from pathlib import Path
from intellectd.daemon.export_hf import export_tensors, of_file
from intellectd.daemon.store.snapshot import check_snapshot, extent_of
from intellectd.kernels.layout import Layout, TensorSpec

path, elements, target = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
check_snapshot(path, elements, 0)
layout = Layout([TensorSpec("a", (elements // 2,)), TensorSpec("b", (elements // 2,))])
theta = of_file(path, extent_of(path, "theta")[0])
export_tensors(theta, layout, {}, target, sys.argv[4], shard_bytes=2**29)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, dtype: str) -> None:
    """1 GiB of theta in a file of holes, checked and exported by a process whose peak the kernel tells."""
    elements = 2**28
    state = StateFile(tmp_path / "state", elements)
    zeros = memoryview(bytes(2**20))
    for _leaf in range(elements * 4 // 2**20):
        state.add(zeros)
    state.finish()
    words = [str(tmp_path / "state"), str(elements), str(tmp_path / "out"), dtype]
    grown_mib = int(subprocess.check_output([sys.executable, "-c", GROWTH, *words]))
    assert grown_mib < 100
    assert sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")) >= 2**29


def test_old_and_new_words_and_the_format_mark(tmp_path: Path) -> None:
    theta, parameters = anchor_of(build_model(MODEL, seed=1, device="cpu"))
    export_hf(theta, parameters.layout, MODEL, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 5000.0
    assert config["torch_dtype"] == config["dtype"] == "float32"
    weights = (tmp_path / "m" / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", weights[:8])[0]
    assert length % 8 == 0
    header = json.loads(weights[8 : 8 + length])
    assert header["__metadata__"] == {"format": "pt"}
    assert len(weights) == 8 + length + 4 * sum(slot.size for slot in parameters.layout.slots)


def test_an_occupied_place_is_left_alone(tmp_path: Path) -> None:
    theta, parameters = anchor_of(build_model(MODEL, seed=1, device="cpu"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name, reason in (("full", "is not empty"), ("file", "is a file")):
        with pytest.raises(ExportError, match=reason):
            export_hf(theta, parameters.layout, MODEL, tmp_path / name)
    with pytest.raises(ExportError, match="cannot write"):
        export_hf(theta, parameters.layout, MODEL, tmp_path / "file" / "below")
    export_hf(theta, parameters.layout, MODEL, tmp_path / "empty")
    assert (tmp_path / "full" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "full"]


def test_the_same_seed_builds_the_same_model() -> None:
    thetas = [anchor_of(build_model(MODEL, seed, "cpu"))[0] for seed in (1, 1, 2)]
    assert torch.equal(thetas[0], thetas[1]) and not torch.equal(thetas[0], thetas[2])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "external"}, "of kind 'external'"),
        ({"kind": "llama", "heads": 4}, "lacks 'vocab_size'"),
        ({**MODEL, "layers": None}, "not usable"),
        ({**MODEL, "heads": 3}, "not a multiple of twice the 3 heads"),
    ],
)
def test_another_model_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(table, 0)


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_costs_six_flops_a_weight_and_its_attention(tied: bool) -> None:
    model = build_model({**MODEL, "tie_embeddings": tied}, seed=1, device="cpu")
    attention_weights, mlp, norms = 2 * 16 * 16 + 2 * 16 * 8, 3 * 16 * 40, 2 * 16
    weights = 2 * (attention_weights + mlp + norms) + 16 + 256 * 16  # of two layers, the last norm, the head
    assert flops_per_token(model) == 6 * weights + 12 * 2 * 16 * 16
    assert peak_flops(model) is None  # nobody knows a CPU's


def test_only_known_devices_have_a_peak() -> None:
    assert peak_of("NVIDIA A100-SXM4-80GB") == 312e12 and peak_of("NVIDIA H200") == 989e12
    assert [peak_of(name) for name in ("NVIDIA H200 NVL", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "Tesla T4")] == [None] * 3


# -- the built-in trainer --------------------------------------------------------------------------------------


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Text that a model of 16 dimensions learns in a dozen steps."""
    root = tmp_path / "books"
    root.mkdir()
    for index in range(60):
        (root / f"{index}.txt").write_text(f"the quick brown fox {index % 7} jumps over the lazy dog. " * 5)
    monkeypatch.setenv("INTELLECTD_DATA", json.dumps({"books": str(root)}))
    monkeypatch.setenv("INTELLECTD_MANIFEST", json.dumps(MANIFEST))
    return root


@pytest.mark.slow
def test_alone_it_learns_and_writes_its_losses(tmp_path: Path, books: Path) -> None:
    out = tmp_path / "solo.json"
    assert main(["--solo", "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert len(told["losses"]) == 4 and told["losses"][0] == told["first"] and told["losses"][-1] == told["last"]
    assert told["last"] < told["first"] - 0.1
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(MANIFEST))
    assert main(["--solo", "--manifest", str(file), "--rounds", "3", "--out", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == told, "the same numbers every time"


def test_in_a_run_it_evaluates_each_anchor_and_ends_with_the_run(
    tmp_path: Path, books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(rounds=2, steps=3, manifest=MANIFEST)
    monkeypatch.setenv("INTELLECTD_RUN", RUN_ID)
    with serving(run, tmp_path / "d.sock"):
        assert main(["--socket", str(tmp_path / "d.sock")]) == 0
    assert [(r.round, r.steps, r.tokens) for r in run.heard(TrainerReady)] == [(n, 3, 3 * 4 * 16) for n in (1, 2)]
    told = {event.state_round: event.loss for event in run.heard(TrainerEvaluated)}
    assert sorted(told) == [0, 1, 2]
    assert all(loss is not None and 0 < loss < 100 for loss in told.values())
    line = run.heard(TrainerLog)[0]
    assert line.grad_norm > 0 and line.mfu is None


def test_averages_that_are_no_numbers_end_with_the_round(books: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a NaN the parameters are the anchor's again; AdamW's own made a NaN of each of them ever after."""
    recipe, model = Recipe.of(MANIFEST), build_model(MODEL, 3, "cpu")
    optimizer, text = make_optimizer(model, recipe), load_text("books", recipe.context)
    for parameter in model.parameters():
        average, square = torch.full_like(parameter, torch.nan), torch.zeros_like(parameter)
        optimizer.state[parameter] = {"step": torch.tensor(5.0), "exp_avg": average, "exp_avg_sq": square}
    with intellectd.DiLoCo(None, model, optimizer, sync_every=2, rounds=2) as d:
        train(d, model, optimizer, text, recipe)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert caplog.text.count("begins anew") == 1


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("", "manifest cannot be read"),
        ("[]", "no JSON object"),
        ("{}", "no table 'model'"),
        (json.dumps({**MANIFEST, "inner": {}}), "KeyError: 'lr'"),
        (json.dumps({**MANIFEST, "model": {**MODEL, "vocab_size": 128}}), "vocab_size is 128, and"),
    ],
)
def test_without_a_manifest_it_says_so(
    manifest: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("INTELLECTD_MANIFEST", manifest)
    caplog.set_level(logging.ERROR)
    assert main([]) == 1
    assert reason in caplog.text
