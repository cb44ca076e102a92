"""intellectd: a peer-to-peer elastic training daemon. This module is the API of a training loop.

    with intellectd.DiLoCo(run="my-run", model=model, inner_optimizer=optimizer) as d: ...

Owns the public names; they are loaded when first used, so that `import intellectd` costs nothing and the CLI,
which shares the package, never imports torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intellectd.daemon.sdk.diloco import DiLoCo
    from intellectd.daemon.sdk.errors import (
        AttachRefused,
        DaemonUnavailable,
        IntellectdError,
        ModelUnsupported,
        RunNotFound,
        TensorMismatch,
    )
    from intellectd.daemon.sdk.outer import Average, Nesterov
    from intellectd.daemon.sdk.rounds import Assignment, Stream, sample_position

__all__ = [
    "Assignment",
    "AttachRefused",
    "Average",
    "DaemonUnavailable",
    "DiLoCo",
    "IntellectdError",
    "ModelUnsupported",
    "Nesterov",
    "RunNotFound",
    "Stream",
    "TensorMismatch",
    "sample_position",
]

_HOMES = {
    "Assignment": "rounds",
    "AttachRefused": "errors",
    "Average": "outer",
    "DaemonUnavailable": "errors",
    "DiLoCo": "diloco",
    "IntellectdError": "errors",
    "ModelUnsupported": "errors",
    "Nesterov": "outer",
    "RunNotFound": "errors",
    "Stream": "rounds",
    "TensorMismatch": "errors",
    "sample_position": "rounds",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intellectd' has no attribute {name!r}")
    from importlib import import_module
    from platform import system

    if name == "DiLoCo" and system() != "Linux":  # else the first module that is lacking is named, or nothing
        raise ImportError(f"intellectd.DiLoCo is for Linux, where daemon and trainer share memory; this is {system()}")

    return getattr(import_module(f"intellectd.daemon.sdk.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
