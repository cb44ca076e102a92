"""`checkpoint export`: the newest state of a run as files that other programs load. Owns only the hand-over."""

from pathlib import Path
from typing import Any

from intellectd.daemon.control import ControlError
from intellectd.daemon.export_hf import ExportError, export_hf
from intellectd.daemon.runs.compute import Stopped
from intellectd.daemon.runs.service import RunService
from intellectd.daemon.trainer.model import ModelError
from intellectd.protocol.manifest import plain


async def export(service: RunService, path: str, kind: str) -> dict[str, Any]:
    """Written in the compute queue, so that no outer step changes the parameters under it. Raises ControlError."""
    if kind != "hf":
        raise ControlError("usage", f"unknown format {kind!r}", "use --format hf")
    target = Path(path)
    if not target.is_absolute():
        raise ControlError("usage", f"{path!r} is no absolute path", "the CLI makes it absolute; give one")
    state, model = service.state, plain(service.config)["model"]

    def work() -> tuple[list[str], int]:
        if state.theta is None:
            raise ControlError("not_synced", "this host has no state of the run yet", "intellectd wait --for synced")
        return export_hf(state.theta, state.layout, model, target), max(0, service.node.catchup.applied)

    try:
        files, round_ = await service.compute.do(work)
    except Stopped as error:
        raise ControlError("no_such_run", f"run {service.config.name!r}: {error}", "") from error
    except (ExportError, ModelError) as error:
        raise ControlError("export", str(error), getattr(error, "hint", "")) from error
    return {"path": str(target), "files": files, "round": round_}
