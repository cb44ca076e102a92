"""The C kernels (csrc/) through ctypes, which releases the GIL for the length of each call.

Owns finding and loading the library, its C signatures and the choice of an instruction set. Refuses to check
tensors: `ops` has done it. Does not import torch, so that who only asks whether it loads is answered at once.
"""

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_uint64, c_void_p, sizeof
from importlib.util import find_spec
from typing import TYPE_CHECKING

from intellectd.kernels.codec import GROUP, Codec
from intellectd.kernels.interface import Feedback
from intellectd.kernels.outer import AverageStep, DelayedNesterovStep, NesterovStep, OuterStep, OuterVectors

if TYPE_CHECKING:
    from torch import Tensor

MODULE = "intellectd.kernels._native"  # named as an extension module so that packaging builds and ships it
ABI = 2  # must equal ABI in csrc/job.h: a stale build would otherwise compute something else
INSTRUCTIONS = "INTELLECTD_KERNELS_CPU"  # an instruction set's name; without it the best that the CPU has

_ENCODE, _ENCODE_DELTA, _DECODE, _DECODE_ADD, _ENCODE_MEAN, _RING_HOP, _OUTER_STEP, _SUBTRACT, _FINITE = range(9)
_NESTEROV, _AVERAGE, _DELAYED, _DELAYED_TURN = range(4)
_PREFIX = "intellectd_native_"
REBUILD = "reinstall intellectd on a host with a C compiler (pip install --force-reinstall --no-deps)"


class NativeUnavailable(Exception):
    """The C kernels cannot be used; `str()` says why and what would help."""


class _Job(ctypes.Structure):
    """`struct job` of csrc/job.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "y", "error", "residual", "enc", "incoming", "out", "total")),
        *((name, c_void_p) for name in ("theta", "momentum", "gathered", "squares")),
        ("elements", c_uint64),
        ("squares_total", c_double),
        *((name, c_float) for name in ("weight", "decay", "divisor", "lr", "mu", "delay")),
        *((name, c_int32) for name in ("codec", "optimizer", "divides")),
    )


_SIGNATURES: dict[str, tuple[type, list[object]]] = {
    "abi": (c_int, []),
    "job_bytes": (c_uint64, []),
    "name": (c_char_p, [c_int]),
    "usable": (c_int, [c_int]),
    "run": (c_int64, [c_int, c_int, POINTER(_Job), c_int]),
}


class Native:
    """The passes of a loaded library on one instruction set; made by `load`."""

    def __init__(self, library: ctypes.CDLL, number: int, instructions: str) -> None:
        self._run, self._number, self.instructions = library.intellectd_native_run, number, instructions

    def encode(self, codec: Codec, x: "Tensor", out: "Tensor", threads: int = 1) -> int | None:
        job = _Job(codec=codec.native_id, x=x.data_ptr(), out=out.data_ptr(), elements=x.numel())
        return self._refused(_ENCODE, job, threads)

    def encode_delta(
        self,
        codec: Codec,
        anchor: "Tensor",
        local: "Tensor",
        out: "Tensor",
        feedback: Feedback | None = None,
        threads: int = 1,
    ) -> tuple[float, int | None]:
        elements = anchor.numel()
        job = _Job(codec=codec.native_id, x=anchor.data_ptr(), y=local.data_ptr(), out=out.data_ptr())
        job.elements = elements
        sums = (c_double * -(-elements // GROUP))()
        job.squares = ctypes.addressof(sums) if elements else None
        if feedback is not None:
            job.error, job.residual = feedback.error.data_ptr(), feedback.residual.data_ptr()
            job.decay = feedback.decay
        refused = self._refused(_ENCODE_DELTA, job, threads)
        return job.squares_total, refused

    def decode(self, codec: Codec, enc: "Tensor", out: "Tensor", threads: int = 1) -> None:
        job = _Job(codec=codec.native_id, enc=enc.data_ptr(), total=out.data_ptr(), elements=out.numel())
        self._refused(_DECODE, job, threads)

    def decode_add(self, codec: Codec, enc: "Tensor", weight: float, total: "Tensor", threads: int = 1) -> None:
        job = _Job(codec=codec.native_id, enc=enc.data_ptr(), total=total.data_ptr(), elements=total.numel())
        job.weight = weight
        self._refused(_DECODE_ADD, job, threads)

    def encode_mean(self, codec: Codec, total: "Tensor", divisor: float, out: "Tensor", threads: int = 1) -> int | None:
        job = _Job(codec=codec.native_id, x=total.data_ptr(), out=out.data_ptr(), elements=total.numel())
        job.divisor = divisor
        return self._refused(_ENCODE_MEAN, job, threads)

    def ring_hop(
        self,
        codec: Codec,
        incoming: "Tensor | None",
        own: "Tensor",
        weight: float,
        divisor: float | None,
        out: "Tensor",
        threads: int = 1,
    ) -> bool:
        before = None if incoming is None else incoming.data_ptr()
        elements = codec.elements(own.numel())
        return self.hop_at(codec, elements, before, own.data_ptr(), weight, divisor, out.data_ptr(), threads)

    def hop_at(
        self,
        codec: Codec,
        elements: int,
        incoming: int | None,
        own: int,
        weight: float,
        divisor: float | None,
        out: int,
        threads: int = 1,
    ) -> bool:
        """`ring_hop` of vectors at these addresses."""
        job = _Job(codec=codec.native_id, elements=elements, incoming=incoming, enc=own, out=out, weight=weight)
        if divisor is not None:
            job.divides, job.divisor = 1, divisor
        return self._refused(_RING_HOP, job, threads) is None

    def outer_step(
        self, codec: Codec, update: "Tensor", step: OuterStep, vectors: OuterVectors, threads: int = 1
    ) -> None:
        job = _Job(codec=codec.native_id, enc=update.data_ptr(), theta=vectors.theta.data_ptr(), lr=step.lr)
        job.elements = vectors.theta.numel()
        job.momentum = None if vectors.momentum is None else vectors.momentum.data_ptr()
        match step:
            case NesterovStep():
                job.optimizer, job.mu = _NESTEROV, step.mu
            case AverageStep():
                job.optimizer = _AVERAGE
            case DelayedNesterovStep():
                assert vectors.gathered is not None
                job.optimizer = _DELAYED_TURN if step.turn else _DELAYED
                job.mu, job.delay, job.gathered = step.mu, step.delay, vectors.gathered.data_ptr()
        self._refused(_OUTER_STEP, job, threads)

    def subtract_into(self, anchor: "Tensor", x: "Tensor", threads: int = 1) -> None:
        self._refused(_SUBTRACT, _Job(x=anchor.data_ptr(), total=x.data_ptr(), elements=x.numel()), threads)

    def finite(self, codec: Codec, enc: "Tensor", threads: int = 1) -> bool:
        return self.finite_at(codec, codec.elements(enc.numel()), enc.data_ptr(), threads)

    def finite_at(self, codec: Codec, elements: int, enc: int, threads: int = 1) -> bool:
        return self._refused(_FINITE, _Job(codec=codec.native_id, enc=enc, elements=elements), threads) is None

    def _refused(self, kernel: int, job: _Job, threads: int) -> int | None:
        index: int = self._run(self._number, kernel, byref(job), threads)
        return None if index < 0 else index


def built_library() -> str:
    """Path of the library that was built with this package. Raises NativeUnavailable."""
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise NativeUnavailable(f"the C kernels were not built; {REBUILD}")
    return spec.origin


def load(path: str, instructions: str = "") -> Native:
    """Load the library and compare its ABI; take that instruction set, or the best one. Raises NativeUnavailable."""
    library = _opened(path)
    usable = _usable(library)
    if instructions and instructions not in usable:
        raise NativeUnavailable(
            f"this CPU or build has no {instructions!r} kernels, only {', '.join(usable)}; unset {INSTRUCTIONS}"
        )
    name = instructions or list(usable)[-1]
    return Native(library, usable[name], name)


def instruction_sets(path: str) -> tuple[str, ...]:
    """What `load` can be told to take on this host, the best last. Raises NativeUnavailable."""
    return tuple(_usable(_opened(path)))


def wished_instructions(environment: Mapping[str, str]) -> str:
    return environment.get(INSTRUCTIONS, "")


def _opened(path: str) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(path)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, _PREFIX + name)
            function.restype = result
            function.argtypes = arguments
        abi, job_bytes = library.intellectd_native_abi(), library.intellectd_native_job_bytes()
    except (OSError, AttributeError) as why:
        raise NativeUnavailable(f"the C kernels did not load ({why}); {REBUILD}") from why
    if (abi, job_bytes) != (ABI, sizeof(_Job)):
        raise NativeUnavailable(f"the C kernels have ABI {abi}, this package needs {ABI}; {REBUILD}")
    return library


def _usable(library: ctypes.CDLL) -> dict[str, int]:
    """Instruction sets that can run here, by name, the best last."""
    found: dict[str, int] = {}
    number = 0
    while (name := library.intellectd_native_name(number)) is not None:
        if library.intellectd_native_usable(number):
            found[name.decode()] = number
        number += 1
    return found
