"""What is installed: the C kernels, torch, and what a GPU needs.

Owns finding that out without importing any of it: by metadata, by files, and by loading the C kernels alone.
"""

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from intellectd.daemon.doctor.finding import Finding, fail, ok, warn
from intellectd.kernels import native

GPUS = Path("/proc/driver/nvidia/gpus")
NVIDIA_FILE_BYTES_MAX = 4096  # `information` of a GPU has a dozen lines


def look(environ: Mapping[str, str], answer: Mapping[str, Any] | None, gpus: Path = GPUS) -> list[Finding]:
    return [kernels(environ, answer), torch(), gpu(gpus)]


def kernels(environ: Mapping[str, str], answer: Mapping[str, Any] | None) -> Finding:
    """Those in use, if the daemon runs; else whether the C kernels load (the daemon compares them with torch's)."""
    name = "kernels"
    if answer is not None:
        said = answer.get("kernels") or {}
        if said.get("implementation") == "native":
            return ok(name, f"the C kernels are in use ({said.get('instructions') or 'baseline'})")
        return _slow("slow kernels are in use", str(said.get("reason") or "no reason was given"))
    if environ.get("INTELLECTD_KERNELS") == "torch":
        return warn(name, "slow kernels are asked for: INTELLECTD_KERNELS=torch", "unset it")
    try:
        loaded = native.load(native.built_library(), native.wished_instructions(environ))
    except native.NativeUnavailable as error:
        return _slow("slow kernels will be used", str(error))
    return ok(name, f"the C kernels load ({loaded.instructions})")


def _slow(what: str, reason: str) -> Finding:
    """The kernels' reasons end with what would help, behind a semicolon."""
    why, _, remedy = reason.partition("; ")
    return warn("kernels", f"{what}: {why}", remedy or native.REBUILD)


def torch() -> Finding:
    name = "torch"
    found = _version("torch")
    if not found:
        return fail(name, "it is not installed", "`pip install torch`, or reinstall intellectd")
    if not _version("transformers"):
        todo = "`pip install 'intellectd[trainer]'`, unless a program of your own trains"
        return warn(name, f"{found}; without transformers the built-in trainer cannot make a model", todo)
    return ok(name, f"{found}, with transformers {_version('transformers')}")


def gpu(gpus: Path = GPUS) -> Finding:
    name = "gpu"
    models = _models(gpus)
    if not models:
        return ok(name, "no NVIDIA GPU: a trainer computes on the CPU")
    here = f"{len(models)} × {models[0]}"
    cuda = _cuda_of_torch()
    if not cuda:
        return warn(name, f"{here}, but torch is built without CUDA", "install torch's build for CUDA (pytorch.org)")
    if not _version("triton"):
        todo = "`pip install 'intellectd[cuda]'`"
        return warn(name, f"{here}, CUDA {cuda}; without triton parameters cross to the host whole", todo)
    return ok(name, f"{here}, CUDA {cuda}, triton {_version('triton')}")


def _models(gpus: Path) -> list[str]:
    found = []
    for file in sorted(gpus.glob("*/information")):
        try:
            with file.open("rb") as opened:
                text = opened.read(NVIDIA_FILE_BYTES_MAX).decode("utf-8", "replace")
        except OSError:
            continue
        model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
        found.append(model[1].strip() if model else "unnamed GPU")
    return found


def _cuda_of_torch() -> str:
    """torch/version.py is a list of assignments; importing torch for it takes over a second."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return ""
    cuda = re.search(r"^cuda\b[^=\n]*=\s*'([\d.]+)'", text, re.MULTILINE)
    return cuda[1] if cuda else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
