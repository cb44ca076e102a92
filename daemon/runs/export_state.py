"""`checkpoint export --round`: a state that lies on this disk, as files that other programs load. Needs no daemon.

Owns choosing the state and that its bytes are checked first. Memory is a piece of it, whatever the model's size.
"""

from pathlib import Path
from typing import Any

from intellectd.daemon.export_files import ExportError
from intellectd.daemon.export_hf import export_hf, export_tensors, of_file
from intellectd.daemon.runs.examine import Finding, examine, manifest_of
from intellectd.daemon.runs.examine_states import check_state, states_of
from intellectd.daemon.store.snapshot import extent_of
from intellectd.daemon.trainer.model import ModelError
from intellectd.kernels.layout import Layout, TensorSpec
from intellectd.protocol.manifest import config_of, plain

NO_TOKENIZER = "there is no tokenizer: the built-in trainer's token ids are the bytes of UTF-8 text, 0 to 255"


def export_state(folder: Path, round_: int, kind: str, dtype: str, target: Path) -> dict[str, Any]:
    """What the daemon's `export` answers. Raises Finding for a state that is not whole, or not the log's."""
    manifest = manifest_of(folder)
    found = {state.round: state for state in states_of(folder, manifest, examine(folder))}
    if round_ not in found:
        have = ", ".join(map(str, found)) or "none"
        raise Finding(folder / "snapshots", None, f"there is no state of round {round_}; there are: {have}")
    state = found[round_]
    check_state(state, manifest)
    config = config_of(manifest)
    layout = Layout([TensorSpec(tensor.name, tuple(tensor.shape)) for tensor in manifest.tensors])
    theta = of_file(state.path, extent_of(state.path, "theta")[0])
    if kind == "hf":
        try:
            files = export_hf(theta, layout, plain(config)["model"], target, dtype)
        except ModelError as error:
            raise ExportError(error.message, "use --format safetensors") from error
    else:
        files = export_tensors(theta, layout, {"run": config.name, "round": str(round_)}, target, dtype)
    notes = [NO_TOKENIZER] if kind == "hf" else []
    return {"files": files, "round": round_, "format": kind, "dtype": dtype, "notes": notes}
