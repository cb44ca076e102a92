"""The C kernels (csrc/native.c) through ctypes, which releases the GIL for the length of each call.

Owns finding and loading the library and its C signatures. Refuses to check tensors: `ops` has done it.
"""

import ctypes
from ctypes import POINTER, byref, c_double, c_float, c_int, c_int64, c_size_t, c_void_p
from importlib.util import find_spec

from torch import Tensor

from intellectd.kernels import reference
from intellectd.kernels.codec import BLOCK, FP32, INT8, Codec
from intellectd.kernels.interface import Feedback
from intellectd.kernels.outer import NesterovStep, OuterStep, OuterVectors

MODULE = "intellectd.kernels._native"  # named as an extension module so that packaging builds and ships it
ABI = 1  # must equal ABI in csrc/native.c: a stale build would otherwise compute something else

_SIGNATURES: dict[str, tuple[type | None, list[object]]] = {
    "abi": (c_int, []),
    "encode": (c_int64, [c_int, c_void_p, c_void_p, c_size_t]),
    "encode_delta": (c_int64, [c_int, c_void_p, c_void_p, c_void_p, c_size_t, POINTER(c_double)]),
    "decode": (None, [c_int, c_void_p, c_void_p, c_size_t]),
    "ring_hop": (c_int64, [c_int, c_void_p, c_void_p, c_float, POINTER(c_float), c_void_p, c_size_t]),
    "outer_step": (None, [c_int, c_void_p, c_void_p, c_void_p, c_float, c_float, c_size_t]),
    "subtract_into": (None, [c_void_p, c_void_p, c_size_t]),
    "finite": (c_int, [c_int, c_void_p, c_size_t]),
}
_IN_C = (FP32, INT8)  # the others go through torch, which gives the same bits
_PREFIX = "intellectd_native_"
REBUILD = "reinstall intellectd on a host with a C compiler (pip install --force-reinstall --no-deps)"


class NativeUnavailable(Exception):
    """The C kernels cannot be used; `str()` says why and what would help."""


class Native:
    """The functions of a loaded library; made by `load`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, _PREFIX + name)
            function.restype = result
            function.argtypes = arguments
        self._library = library

    def encode(self, codec: Codec, x: Tensor, out: Tensor, threads: int = 1) -> int | None:
        if codec not in _IN_C:
            return reference.encode(codec, x, out, threads)
        first = self._library.intellectd_native_encode(codec.native_id, x.data_ptr(), out.data_ptr(), _blocks(x))
        return _index(first)

    def encode_delta(
        self,
        codec: Codec,
        anchor: Tensor,
        local: Tensor,
        out: Tensor,
        feedback: Feedback | None = None,
        threads: int = 1,
    ) -> tuple[float, int | None]:
        if codec not in _IN_C or feedback is not None:
            return reference.encode_delta(codec, anchor, local, out, feedback, threads)
        squares = c_double()
        first = self._library.intellectd_native_encode_delta(
            codec.native_id,
            anchor.data_ptr(),
            local.data_ptr(),
            out.data_ptr(),
            _blocks(anchor),
            byref(squares),
        )
        return squares.value, _index(first)

    def decode(self, codec: Codec, enc: Tensor, out: Tensor, threads: int = 1) -> None:
        if codec not in _IN_C:
            return reference.decode(codec, enc, out, threads)
        self._library.intellectd_native_decode(codec.native_id, enc.data_ptr(), out.data_ptr(), _blocks(out))

    def decode_add(self, codec: Codec, enc: Tensor, weight: float, total: Tensor, threads: int = 1) -> None:
        reference.decode_add(codec, enc, weight, total, threads)

    def encode_mean(self, codec: Codec, total: Tensor, divisor: float, out: Tensor, threads: int = 1) -> int | None:
        return reference.encode_mean(codec, total, divisor, out, threads)

    def ring_hop(
        self,
        codec: Codec,
        incoming: Tensor | None,
        own: Tensor,
        weight: float,
        divisor: float | None,
        out: Tensor,
        threads: int = 1,
    ) -> bool:
        if codec not in _IN_C:
            return reference.ring_hop(codec, incoming, own, weight, divisor, out, threads)
        first = self._library.intellectd_native_ring_hop(
            codec.native_id,
            None if incoming is None else incoming.data_ptr(),
            own.data_ptr(),
            weight,
            None if divisor is None else byref(c_float(divisor)),
            out.data_ptr(),
            codec.elements(own.numel()) // BLOCK,
        )
        return _index(first) is None

    def outer_step(
        self, codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int = 1
    ) -> None:
        if codec not in _IN_C or not isinstance(step, NesterovStep) or vectors.momentum is None:
            return reference.outer_step(codec, update, step, vectors, threads)
        self._library.intellectd_native_outer_step(
            codec.native_id,
            update.data_ptr(),
            vectors.theta.data_ptr(),
            vectors.momentum.data_ptr(),
            step.lr,
            step.mu,
            _blocks(vectors.theta),
        )

    def subtract_into(self, anchor: Tensor, x: Tensor, threads: int = 1) -> None:
        self._library.intellectd_native_subtract_into(anchor.data_ptr(), x.data_ptr(), x.numel())

    def finite(self, codec: Codec, enc: Tensor, threads: int = 1) -> bool:
        if codec not in _IN_C:
            return reference.finite(codec, enc, threads)
        blocks = codec.elements(enc.numel()) // BLOCK
        return bool(self._library.intellectd_native_finite(codec.native_id, enc.data_ptr(), blocks))


def built_library() -> str:
    """Path of the library that was built with this package. Raises NativeUnavailable."""
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise NativeUnavailable(f"the C kernels were not built; {REBUILD}")
    return spec.origin


def load(path: str) -> Native:
    """Load the library and compare its ABI. Raises NativeUnavailable."""
    try:
        library = ctypes.CDLL(path)
        abi = library.intellectd_native_abi()
        if abi != ABI:
            raise NativeUnavailable(f"the C kernels have ABI {abi}, this package needs {ABI}; {REBUILD}")
        return Native(library)
    except (OSError, AttributeError) as why:
        raise NativeUnavailable(f"the C kernels did not load ({why}); {REBUILD}") from why


def _blocks(floats: Tensor) -> int:
    return floats.numel() // BLOCK


def _index(first: int) -> int | None:
    return None if first < 0 else first
