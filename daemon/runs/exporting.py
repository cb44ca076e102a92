"""`checkpoint export`: the newest state of a run as files that other programs load. Owns only the hand-over.

Where the daemon may not write (a service sees neither /home nor the real /tmp), the files go to its state directory,
from where the command line fetches them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intellectd.daemon.atomic import make_dir
from intellectd.daemon.control import ControlError
from intellectd.daemon.export_files import SPOOLS, ExportError, Foothold, ForbiddenHere, is_same
from intellectd.daemon.export_hf import DTYPES, export_hf, export_tensors
from intellectd.daemon.runs.compute import Stopped
from intellectd.daemon.runs.export_state import NO_TOKENIZER
from intellectd.daemon.runs.service import RunService
from intellectd.daemon.trainer.model import ModelError
from intellectd.protocol.manifest import plain

FORMATS = ("hf", "safetensors")
Write = Callable[[Path], list[str]]


class Changed(Exception):
    """An outer step came while it was written."""


async def export(service: RunService, path: str, kind: str, seen: object, dtype: str = "fp32") -> dict[str, Any]:
    """Written beside the rounds, which do not wait; if an outer step comes meanwhile, once more in its turn among
    those, so that no step changes the parameters under it. Raises ControlError.

    `seen` is the existing part of the path as the asker sees it (see `foothold`), so that it may fetch the files.
    """
    target, spool, known = _checked(service, path, kind, dtype), spool_of(service), foothold_of(seen)
    state = service.state

    def begin() -> tuple[int, Write]:
        """In its turn: between two steps."""
        round_, changes = max(0, service.node.catchup.applied), state.changes

        def check() -> None:
            if state.changes != changes:
                raise Changed

        return round_, _writer(service, kind, round_, dtype, check)

    def work() -> tuple[int, tuple[Path, list[str]]]:
        round_, write = begin()
        return round_, _write(write, target, spool, known)

    try:
        round_, write = await service.compute.do(begin)
        try:
            place, files = await service.compute.aside(lambda: _write(write, target, spool, known))
        except Changed:
            round_, (place, files) = await service.compute.do(work)
    except Stopped as error:
        raise ControlError("no_such_run", f"run {service.config.name!r}: {error}", "") from error
    except (ExportError, ModelError) as error:
        raise ControlError("export", error.message, error.hint) from error
    notes = [NO_TOKENIZER] if kind == "hf" else []
    return {"path": str(place), "files": files, "round": round_, "format": kind, "dtype": dtype, "notes": notes}


def spool_of(service: RunService) -> Path:
    """One export a run waits here at most. By the id: a name may be `..`."""
    return service.host.config.state_dir / SPOOLS / service.run_id


async def drop_spool(service: RunService) -> None:
    """The asker has its own copy."""
    await service.host.runner(lambda: shutil.rmtree(spool_of(service), ignore_errors=True))


def foothold_of(seen: object) -> Foothold | None:
    match seen:
        case [str(path), int(device), int(inode)]:
            return path, device, inode
    return None  # an asker that does not say: what cannot be written is its own trouble


def _checked(service: RunService, path: str, kind: str, dtype: str) -> Path:
    if dtype not in DTYPES:
        raise ControlError("usage", f"unknown dtype {dtype!r}", f"use --dtype {' or '.join(DTYPES)}")
    if kind not in FORMATS:
        raise ControlError("usage", f"unknown format {kind!r}", f"use --format {' or '.join(FORMATS)}")
    target = Path(path)
    if not target.is_absolute():
        raise ControlError("usage", f"{path!r} is no absolute path", "the CLI makes it absolute; give one")
    if kind == "hf" and service.model_kind == "external":
        raise ControlError(
            "export",
            f"the model of run {service.config.name!r} is known to the attached program alone: "
            "there is no config.json to write for it",
            "use --format safetensors: the tensors under the names that the program gave them, for load_state_dict",
        )
    return target


def _writer(service: RunService, kind: str, round_: int, dtype: str, check: Callable[[], None]) -> Write:
    theta, layout, model = service.state.theta, service.state.layout, plain(service.config)["model"]
    if theta is None:
        raise ControlError("not_synced", "this host has no state of the run yet", "intellectd wait --for synced")
    if kind == "hf":
        return lambda target: export_hf(theta, layout, model, target, dtype, check=check)
    facts = {"run": service.config.name, "round": str(round_)}
    return lambda target: export_tensors(theta, layout, facts, target, dtype, check=check)


def _write(write: Write, target: Path, spool: Path, seen: Foothold | None) -> tuple[Path, list[str]]:
    if seen is None or is_same(seen):
        try:
            return target, write(target)
        except ForbiddenHere:
            if seen is None:
                raise
    make_dir(spool.parent)
    shutil.rmtree(spool, ignore_errors=True)
    return spool, write(spool)
