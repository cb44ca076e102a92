"""A Hugging Face checkpoint as a run's first state: the same numbers, or plain words about why not."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from intellectd.daemon import import_hf
from intellectd.daemon.checkpoint_folder import CheckpointError, read_config, read_tensors
from intellectd.daemon.export_hf import export_hf
from intellectd.daemon.import_hf import check_tensors, llama_layout, llama_table, write_state
from intellectd.daemon.runs.importing import run_config
from intellectd.daemon.store.snapshot import read_snapshot
from intellectd.daemon.store.state_file import StateFile
from intellectd.daemon.trainer.model import build_model
from intellectd.kernels.digest import state_digest
from intellectd.kernels.layout import Layout
from intellectd.protocol.manifest import BadManifest, canonical, plain
from tests.daemon.test_export_hf import MODEL, anchor_of

NAME = {"name": "goes-on"}


def imported(folder: Path, out: Path) -> tuple[torch.Tensor, Layout, dict[str, Any]]:
    """theta as a run would begin with it; that the file is a whole snapshot is checked on the way."""
    table = llama_table(read_config(folder))
    layout, tensors = llama_layout(table), read_tensors(folder)
    check_tensors(tensors, layout)
    state = StateFile(out, layout.elements)
    write_state(tensors, layout, state)
    digest = state.finish()
    found = read_snapshot(out, layout.elements, 0)
    assert found.digest == digest == state_digest(found.state.theta, torch.zeros(layout.elements))
    assert not found.state.momentum.any()
    return found.state.theta, layout, table


@pytest.mark.parametrize("tied", [False, True])
def test_what_was_exported_comes_back_bit_by_bit(tmp_path: Path, tied: bool) -> None:
    table = {**MODEL, "tie_embeddings": tied, "norm_eps": 1e-5}
    theta, parameters = anchor_of(build_model(table, seed=1, device="cpu"))
    export_hf(theta, parameters.layout, table, tmp_path / "model")
    back, layout, found = imported(tmp_path / "model", tmp_path / "state")
    assert layout == parameters.layout and torch.equal(back, theta)
    assert found == table


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_transformers_saves_in_shards_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    model = build_model(MODEL, seed=2, device="cpu").to(dtype)
    model.save_pretrained(tmp_path / "model", max_shard_size="8KB")  # type: ignore[operator]
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    back, layout, table = imported(tmp_path / "model", tmp_path / "state")
    theta, parameters = anchor_of(model.float())
    assert layout == parameters.layout and torch.equal(back, theta)
    assert table == {**MODEL, "tie_embeddings": False}


# ---- without transformers: a folder written by hand

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
Tensors = dict[str, torch.Tensor]
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int8: "I8"}


def tensors_of(config: dict[str, Any]) -> Tensors:
    return {slot.name: torch.randn(slot.shape) for slot in llama_layout(llama_table(config)).slots}


def write_file(path: Path, tensors: Tensors) -> None:
    header, body = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "checkpoint"
    found.mkdir()
    (found / "config.json").write_text(json.dumps(CONFIG))
    write_file(found / "model.safetensors", tensors_of(CONFIG))
    return found


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        imported(folder, folder.parent / "state")
    return str(raised.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "mistral"}, "of type 'mistral'; the built-in trainer knows llama"),
        ({"model_type": None}, "of type None"),
        ({"attention_bias": True}, "asks for attention_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; the built-in model has 'silu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_parameters"),
        ({"head_dim": 16}, "head_dim = 16"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"vocab_size": "many"}, "vocab_size is 'many', not a whole number above 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1, not a number above 0"),
        ({"num_hidden_layers": 2}, "tensor 'model.layers.1.self_attn.q_proj.weight' and 8 more of the model"),
        ({"vocab_size": 33}, "has shape [32, 8], by config.json [33, 8]"),
        ({"tie_word_embeddings": True}, "tensor 'lm_head.weight' is no part of the model"),
    ],
)
def test_a_config_that_is_not_the_models(folder: Path, changed: dict[str, Any], words: str) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changed}))
    assert words in refused(folder)


def test_words_of_old_and_new_transformers_mean_the_same() -> None:
    old = llama_table({**CONFIG, "rope_theta": 5e5, "rope_scaling": None, "rms_norm_eps": 1e-5, "head_dim": 4})
    new = llama_table(
        {**CONFIG, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rms_norm_eps": 1e-5, "pad": 1}
    )
    assert old == new and (old["rope_theta"], old["norm_eps"], old["kv_heads"]) == (5e5, 1e-5, 1)
    plain_one = llama_table({k: v for k, v in CONFIG.items() if k != "num_key_value_heads"})
    assert (plain_one["rope_theta"], plain_one["kv_heads"], "norm_eps" in plain_one) == (1e4, 2, False)


def test_tensors_that_are_not_the_models(folder: Path) -> None:
    good = tensors_of(CONFIG)
    path, norm = folder / "model.safetensors", "model.norm.weight"
    for changed, words in (
        ({"lora.weight": torch.zeros(3)}, "tensor 'lora.weight' is no part of the model of config.json"),
        ({norm: torch.zeros(8, dtype=torch.int8)}, "is I8; F32, BF16, F16 can be read"),
        ({norm: torch.zeros(8, 1)}, "has shape [8, 1], by config.json [8]"),
        ({norm: torch.full((8,), float("nan"))}, "holds a NaN"),
        ({norm: torch.full((8,), float("inf"), dtype=torch.bfloat16)}, "holds a NaN, an infinity"),
    ):
        write_file(path, {**good, **changed})
        assert words in refused(folder), words
        (folder.parent / "state").unlink(missing_ok=True)
    write_file(path, {name: tensor for name, tensor in good.items() if name != norm})
    assert f"tensor {norm!r} of the model of config.json is missing" in refused(folder)
    write_file(path, {**good, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)})
    theta, layout, _ = imported(folder, folder.parent / "state")  # computed, and no parameter
    slot = layout.slots[-1]
    assert torch.equal(theta[slot.offset : slot.offset + slot.size], good[slot.name].view(-1))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{}", "has no weight_map"),
        ("[1]", "is no JSON table"),
        ("{", "is no JSON"),
        (json.dumps({"weight_map": {"a": "../../etc/passwd.safetensors"}}), "which is no file beside it"),
        (json.dumps({"weight_map": {"a": "model.bin"}}), "which is no file beside it"),
        (json.dumps({"weight_map": {"a": "gone.safetensors"}}), "cannot read"),
        (
            json.dumps({"weight_map": {"a": "model.safetensors"}}),
            "lists tensor 'a' in model.safetensors, which",
        ),
        (
            json.dumps({"weight_map": {"a": "model.safetensors", "b": "copy.safetensors"}}),
            "lies in copy.safetensors and",
        ),
    ],
)
def test_an_index_that_cannot_be(folder: Path, index: str, words: str) -> None:
    (folder / "copy.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(index)
    assert words in refused(folder)


def test_files_that_are_damaged_or_hostile(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = path.read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])

    def with_header(value: Any) -> bytes:
        text = json.dumps(value).encode()
        return struct.pack("<Q", len(text)) + text + good[8 + length :]

    norm = header["model.norm.weight"]
    for raw in (
        b"",
        good[:7],
        struct.pack("<Q", 2**63) + good[8:],
        good[:-1],  # the last tensor ends behind the file
        with_header([]),
        with_header({**header, "model.norm.weight": {**norm, "data_offsets": [0, 2**62]}}),
        with_header({**header, "model.norm.weight": {**norm, "data_offsets": [8, 4]}}),
        with_header({**header, "model.norm.weight": {**norm, "data_offsets": [-4, 28]}}),
        with_header({**header, "model.norm.weight": {**norm, "shape": [2**40, 2**40]}}),
        with_header({**header, "model.norm.weight": {**norm, "shape": [True, 8]}}),
        with_header({**header, "model.norm.weight": {**norm, "dtype": "Q4"}}),
        with_header({**header, "model.norm.weight": None}),
        good[:8] + b"[" * length + good[8 + length :],
    ):
        path.write_bytes(raw)
        assert "is damaged" in refused(folder), raw[:60]


def test_folders_that_are_none(tmp_path: Path, folder: Path) -> None:
    assert "cannot read" in refused(tmp_path / "nowhere")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled weights are not read" in refused(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "holds neither model.safetensors nor" in refused(folder)


def test_what_run_toml_says_of_the_model_must_agree() -> None:
    table = llama_table(CONFIG)
    assert plain(run_config(NAME, table))["model"] == {"kind": "llama", "tie_embeddings": False, **table}
    shorter = run_config({**NAME, "model": {"kind": "llama", "context": 32}}, table)
    assert plain(shorter)["model"]["context"] == 32
    for model, words in (
        ({"context": 65}, "model.context = 65, the checkpoint's config.json 64"),
        ({"layers": 2}, "model.layers = 2, the checkpoint's config.json 1"),
        ({"kind": "external"}, "model.kind = 'external'"),
    ):
        with pytest.raises(CheckpointError, match=words):
            run_config({**NAME, "model": model}, table)
    with pytest.raises(BadManifest, match=r"unknown key 'model.layerz'"):
        run_config({**NAME, "model": {"layerz": 2}}, table)
    with pytest.raises(BadManifest, match="must be a table"):
        run_config({**NAME, "model": 7}, table)


def test_a_run_without_another_eps_has_the_same_text_as_ever() -> None:
    table = llama_table(CONFIG)
    assert "norm_eps" not in canonical(run_config(NAME, table))
    assert plain(run_config(NAME, {**table, "norm_eps": 1e-5}))["model"]["norm_eps"] == 1e-5


def test_a_tensor_of_many_pieces_costs_one_piece_of_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the vector, whatever the order in the file, and never more than a piece of it at a time."""
    tensors = dict(reversed(list(tensors_of(CONFIG).items())))
    write_file(folder / "model.safetensors", tensors)
    whole, layout, _ = imported(folder, tmp_path / "whole")
    monkeypatch.setattr(import_hf, "PIECE_ELEMENTS", 256)
    again, _, _ = imported(folder, tmp_path / "pieces")
    assert torch.equal(whole, again)
    for slot in layout.slots:
        assert torch.equal(again[slot.offset : slot.offset + slot.size], tensors[slot.name].view(-1)), slot.name


GROWTH = """
import resource, sys
from pathlib import Path
from intellectd.daemon.checkpoint_folder import read_config, read_tensors
from intellectd.daemon.import_hf import llama_layout, llama_table, write_state
from intellectd.daemon.store.state_file import StateFile

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
layout = llama_layout(llama_table(read_config(folder)))
state = StateFile(out, layout.elements)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_state(read_tensors(folder), layout, state)
state.finish()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """1 GiB of fp32 in a file of holes, in a process of its own, whose peak is told by the kernel."""
    config = {**CONFIG, "vocab_size": 2**19, "hidden_size": 512, "num_attention_heads": 2, "tie_word_embeddings": True}
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for slot in llama_layout(llama_table(config)).slots:
        offsets = [end, end + 4 * slot.size]
        header[slot.name], end = {"dtype": "F32", "shape": list(slot.shape), "data_offsets": offsets}, offsets[1]
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    assert end > 2**30

    grown_mib = int(subprocess.check_output([sys.executable, "-c", GROWTH, str(folder), str(tmp_path / "state")]))
    assert grown_mib < 160
