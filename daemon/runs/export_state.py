"""`checkpoint export --round`: a state that lies on this disk, as files that other programs load. Needs no daemon.

Owns choosing the state and that its bytes are checked first. Memory is a piece of it, whatever the model's size.
"""

from pathlib import Path
from typing import Any

from intellectd.daemon.export_files import ExportError
from intellectd.daemon.export_hf import Vector, export_hf, export_tensors, of_file
from intellectd.daemon.runs.examine import examine, manifest_of
from intellectd.daemon.runs.examine_states import NoSuchState, StateSeen, check_state, states_of
from intellectd.daemon.store.snapshot import header_bytes
from intellectd.daemon.trainer.model import ModelError
from intellectd.kernels.layout import Layout, TensorSpec
from intellectd.protocol.manifest import Manifest, config_of, elements_of, plain

NO_TOKENIZER = "there is no tokenizer: the built-in trainer's token ids are the bytes of UTF-8 text, 0 to 255"


def export_state(folder: Path, round_: int, kind: str, dtype: str, target: Path) -> dict[str, Any]:
    """What the daemon's `export` answers. Raises Finding for a state that is not whole, or not the log's, and
    NoSuchState."""
    manifest = manifest_of(folder)
    there = states_of(folder, manifest, examine(folder))
    theta = _theta(there, round_, manifest)
    if theta is None:
        raise NoSuchState(folder, round_, [state.round for state in there if state.round != round_])
    config = config_of(manifest)
    layout = Layout([TensorSpec(tensor.name, tuple(tensor.shape)) for tensor in manifest.tensors])
    if kind == "hf":
        try:
            files = export_hf(theta, layout, plain(config)["model"], target, dtype)
        except ModelError as error:
            raise ExportError(error.message, "use --format safetensors") from error
    else:
        files = export_tensors(theta, layout, {"run": config.name, "round": str(round_)}, target, dtype)
    notes = [NO_TOKENIZER] if kind == "hf" else []
    return {"files": files, "round": round_, "format": kind, "dtype": dtype, "notes": notes}


def _theta(there: list[StateSeen], round_: int, manifest: Manifest) -> Vector | None:
    """Opened before it is checked: a daemon at work may delete the file at any time. Raises Finding."""
    for state in there:
        if state.round == round_:
            try:
                theta = of_file(state.path, len(header_bytes(elements_of(manifest), round_, state.digest)))
            except FileNotFoundError:
                return None
            return theta if check_state(state, manifest) else None
    return None
