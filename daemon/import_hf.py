"""Reads a Hugging Face model directory into a run's first state: the way back from export_hf.py.

Owns which architectures there are, the order of their tensors in the vector, and the casts to fp32. One piece at a
time is in memory, whatever the model's size. Refuses to know runs.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from intellectd.daemon.checkpoint_folder import CheckpointError, Stored
from intellectd.daemon.export_files import CONFIG
from intellectd.daemon.store.state_file import StateFile
from intellectd.kernels.codec import codec_by_name
from intellectd.kernels.layout import ALIGNMENT, Layout, Slot, TensorSpec
from intellectd.kernels.ops import encode

ARCHITECTURES = ("llama",)
# What the built-in Llama has no switch for: config.json may leave them out, or say this.
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0}
DEFAULT_EPS, DEFAULT_THETA = 1e-6, 10_000.0  # LlamaConfig's, for what config.json leaves out
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "context": "max_position_embeddings",
}
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
PIECE_ELEMENTS = 4 * 1024 * 1024  # 16 MiB of fp32, and as much or less as it is stored: memory while reading
# Old checkpoints hold what is computed from rope_theta; transformers leaves it out too.
COMPUTED = ".rotary_emb.inv_freq"
OWN_PROGRAM = 'a run with model.kind = "external" takes the parameters of the program that attaches: load it there'


def llama_table(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's `model` table for a config.json. Raises CheckpointError for what the built-in model is not."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{CONFIG} is of a model of type {kind!r:.80}; the built-in trainer knows {' and '.join(ARCHITECTURES)}",
            OWN_PROGRAM,
        )
    table: dict[str, Any] = {"kind": "llama", **{ours: _size(config, theirs) for ours, theirs in SIZES.items()}}
    table["kv_heads"] = _size(config, "num_key_value_heads", table["heads"])
    table["tie_embeddings"] = config.get("tie_word_embeddings", False) is True
    table["rope_theta"] = _rope_theta(config)
    eps = _number(config, "rms_norm_eps", DEFAULT_EPS)
    if eps != DEFAULT_EPS:
        table["norm_eps"] = eps
    for key, needed in FIXED.items():
        if config.get(key, needed) not in (needed, None):
            raise _unsupported(f"{key} = {config[key]!r:.80}; the built-in model has {needed!r}")
    if config.get("quantization_config") is not None:
        raise _unsupported("quantized weights")
    if config.get("head_dim") not in (None, table["hidden_size"] // table["heads"]):
        raise _unsupported(f"head_dim = {config['head_dim']!r:.80}; the built-in model has hidden_size / heads")
    return table


def llama_layout(table: Mapping[str, Any]) -> Layout:
    """The tensors in the order of torch's `named_parameters`, which is what a trainer attaches with."""
    hidden, wide, vocab = table["hidden_size"], table["intermediate_size"], table["vocab_size"]
    kv = hidden // table["heads"] * table.get("kv_heads", table["heads"])
    of_layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    specs = [TensorSpec("model.embed_tokens.weight", (vocab, hidden))]
    for layer in range(table["layers"]):
        specs += [TensorSpec(f"model.layers.{layer}.{name}.weight", shape) for name, shape in of_layer.items()]
    specs.append(TensorSpec("model.norm.weight", (hidden,)))
    if not table.get("tie_embeddings", False):
        specs.append(TensorSpec("lm_head.weight", (vocab, hidden)))
    return Layout(specs)


def check_tensors(tensors: Mapping[str, Stored], layout: Layout) -> None:
    """Raises CheckpointError unless these are the layout's tensors, in shapes and dtypes that can be read."""
    wanted = {slot.name: slot for slot in layout.slots}
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted and not name.endswith(COMPUTED)]
    described = f"the model of {CONFIG}"
    if missing:
        raise CheckpointError(
            f"{_some(missing)} of {described} {_are(missing)} missing", "is it the right config.json?"
        )
    if extra:
        tied = extra == ["lm_head.weight"]
        hint = "remove it, or set tie_word_embeddings to false" if tied else "is it another model's?"
        raise CheckpointError(f"{_some(extra)} {_are(extra)} no part of {described}", hint)
    for name, slot in wanted.items():
        stored = tensors[name]
        if stored.shape != slot.shape:
            raise CheckpointError(
                f"tensor {name!r} in {stored.file.name} has shape {list(stored.shape)}, by {CONFIG} {list(slot.shape)}",
                "is it the right config.json?",
            )
        if stored.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name!r} in {stored.file.name} is {stored.dtype}; {', '.join(DTYPES)} can be read",
                "save it in one of those",
            )


def write_state(
    tensors: Mapping[str, Stored], layout: Layout, state: StateFile, check: Callable[[], None] = lambda: None
) -> None:
    """All of theta, in order. Raises CheckpointError or StorageError, and what `check` raises between two pieces."""
    for slot in layout.slots:
        stored = tensors[slot.name]
        try:
            with stored.file.open("rb", buffering=0) as file:
                _copy(file, stored, slot, state, check)
        except OSError as error:
            raise CheckpointError(f"cannot read {stored.file}: {error.strerror}", "check its disk") from error


def _copy(file: BinaryIO, stored: Stored, slot: Slot, state: StateFile, check: Callable[[], None]) -> None:
    dtype = DTYPES[stored.dtype]
    file.seek(stored.start)
    for start in range(0, slot.size, PIECE_ELEMENTS):
        check()
        count = min(PIECE_ELEMENTS, slot.size - start)
        raw = bytearray(count * dtype.itemsize)
        view = memoryview(raw)
        while view:
            got = file.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise CheckpointError(f"{stored.file} ended while it was read", "does something still write it?")
            view = view[got:]
        piece = torch.zeros(-(-count // ALIGNMENT) * ALIGNMENT)  # padding included, which only the last piece has
        piece[:count] = torch.frombuffer(raw, dtype=dtype)
        _check_numbers(piece, stored, slot)
        state.add(piece.numpy().data.cast("B"))


def _check_numbers(piece: torch.Tensor, stored: Stored, slot: Slot) -> None:
    """As for first parameters of a trainer: what no codec can carry cannot be averaged."""
    codec = codec_by_name("int8")
    if encode(codec, piece, torch.empty(codec.encoded_bytes(piece.numel()), dtype=torch.uint8)) is not None:
        raise CheckpointError(
            f"tensor {slot.name!r} in {stored.file.name} holds a NaN, an infinity or a number too large",
            "training from it would be in vain; choose an earlier checkpoint",
        )


def _rope_theta(config: Mapping[str, Any]) -> float:
    """transformers 5 says it in rope_parameters, 4 beside rope_scaling."""
    for key in ("rope_parameters", "rope_scaling"):
        words = config.get(key)
        if words is None:
            continue
        if not isinstance(words, dict) or words.get("rope_type", words.get("type", "default")) != "default":
            raise _unsupported(f"{key} = {words!r:.120}; the built-in model's rotary embedding is the default one")
        if "rope_theta" in words:
            return _number(words, "rope_theta", DEFAULT_THETA)
    return _number(config, "rope_theta", DEFAULT_THETA)


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{CONFIG}: {key} is {value!r:.80}, not a whole number above 0", "correct it")
    return value


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"{CONFIG}: {key} is {value!r:.80}, not a number above 0", "correct it")
    return float(value)


def _unsupported(what: str) -> CheckpointError:
    return CheckpointError(f"{CONFIG} asks for {what}", OWN_PROGRAM)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"tensor {names[0]!r:.200}{more}"


def _are(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"


def folder_of(path: str) -> Path:
    """Raises CheckpointError."""
    folder = Path(path)
    if not folder.is_absolute():
        raise CheckpointError(f"{path!r:.200} is no absolute path", "the CLI makes it absolute; give one")
    return folder
