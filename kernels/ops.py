"""The kernels as everyone else calls them: arguments checked, then C where it is built, else torch.

Owns the choice and the checks. Both give identical bits, so peers may differ in it. Tensors are contiguous
CPU tensors: float32 of n elements (n a multiple of 256) or uint8 of the codec's bytes for n. Weights and
hyper-parameters are rounded to fp32 first.
"""

import math
import mmap
import os
import struct
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from intellectd.kernels import native, reference
from intellectd.kernels.agreement import first_difference
from intellectd.kernels.codec import Codec
from intellectd.kernels.interface import Kernels

ENVIRONMENT = "INTELLECTD_KERNELS"  # "torch" or "native"; without it, native if it loads


class NotFinite(ValueError):
    """An encoded update holds NaN or infinity; applying it would lose the state, so nothing was changed."""


class KernelChoiceError(RuntimeError):
    """INTELLECTD_KERNELS asks for what cannot be had."""


@dataclass(frozen=True)
class DeltaStats:
    """`norm` is L2 over the elements, summed in fp64 in a fixed order; NaN when an element was refused."""

    norm: float
    first_nonfinite: int | None


@dataclass(frozen=True)
class Choice:
    name: str  # "native" or "torch"
    reason: str  # why not native; "" when it is
    kernels: Kernels


def choose(environment: Mapping[str, str], library: Callable[[], str] = native.built_library) -> Choice:
    """Pick the implementation. Only an explicit wish for native that cannot be met is an error."""
    wish = environment.get(ENVIRONMENT, "")
    if wish not in ("", "native", "torch"):
        raise KernelChoiceError(f'{ENVIRONMENT}={wish!r}: use "native" or "torch", or unset it')
    if wish == "torch":
        return Choice("torch", f"{ENVIRONMENT}=torch asks for it", reference)
    try:
        return Choice("native", "", _trusted_native(library()))
    except native.NativeUnavailable as why:
        if wish == "native":
            raise KernelChoiceError(f"{ENVIRONMENT}=native, but {why}") from why
        return Choice("torch", str(why), reference)


def _trusted_native(path: str) -> Kernels:
    loaded = native.load(path)
    different = first_difference(loaded, reference)
    if different is not None:
        raise native.NativeUnavailable(f"{different} differs from torch's on this host; {native.REBUILD}")
    return loaded


if sys.byteorder != "little":
    raise ImportError("the wire is little-endian and these kernels read it in place: big-endian hosts cannot run")
_choice = choose(os.environ)
# Encoded deltas and received updates are read-only to us, and `as_bytes` says what that means.
warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)


def as_bytes(buffer: bytes | bytearray | memoryview | mmap.mmap) -> Tensor:
    """A uint8 tensor over the buffer's memory, not a copy. Over read-only memory it must not be written to."""
    view = memoryview(buffer)
    if view.nbytes == 0:  # torch.frombuffer refuses it
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(view, dtype=torch.uint8)


def implementation() -> str:
    return _choice.name


def reason() -> str:
    """Why the C kernels are not in use; empty when they are."""
    return _choice.reason


def encode(codec: Codec, x: Tensor, out: Tensor) -> int | None:
    """out <- enc(x). Index of the first element that cannot be, if any (its block is written as NaN)."""
    _check_floats(x=x)
    _check_bytes(codec, x.numel(), out=out)
    return _choice.kernels.encode(codec, x, out)


def encode_delta(codec: Codec, anchor: Tensor, local: Tensor, out: Tensor) -> DeltaStats:
    """out <- enc(anchor - local), with the delta's norm, in one pass."""
    _check_floats(anchor=anchor, local=local)
    _check_bytes(codec, anchor.numel(), out=out)
    squares, first_nonfinite = _choice.kernels.encode_delta(codec, anchor, local, out)
    return DeltaStats(math.sqrt(squares) if first_nonfinite is None else math.nan, first_nonfinite)


def decode(codec: Codec, enc: Tensor, out: Tensor) -> None:
    """out <- dec(enc); any bytes decode, a block with a bad scale to NaN."""
    _check_floats(out=out)
    _check_bytes(codec, out.numel(), enc=enc)
    _choice.kernels.decode(codec, enc, out)


def finite(codec: Codec, enc: Tensor) -> bool:
    """Whether all of `enc` decodes to finite numbers; ask it of bytes from a peer before using them."""
    _check_bytes(codec, codec.elements(enc.numel()), enc=enc)
    return _choice.kernels.finite(codec, enc)


def ring_hop(
    codec: Codec, incoming: Tensor | None, own: Tensor, weight: float, divisor: float | None, out: Tensor
) -> bool:
    """out <- enc((dec(incoming) + weight * dec(own)) / divisor); what is None falls away.

    True if all of it was finite. `out` may be the very buffer of `incoming` or `own`.
    """
    elements = codec.elements(own.numel())
    _check_bytes(codec, elements, own=own, out=out)
    _check_overlap(out, own)
    if incoming is not None:
        _check_bytes(codec, elements, incoming=incoming)
        _check_overlap(out, incoming)
    _check_scalar("weight", weight)
    if divisor is not None and _check_scalar("divisor", divisor) <= 0.0:
        raise ValueError(f"divisor {divisor} is not above 0 in fp32")
    return _choice.kernels.ring_hop(codec, incoming, own, weight, divisor, out)


def outer_step(codec: Codec, update: Tensor, theta: Tensor, momentum: Tensor, lr: float, mu: float) -> None:
    """Nesterov: d = dec(update); m <- mu*m + d; theta <- theta - lr*(d + mu*m).

    Raises NotFinite, with nothing changed, if the update is not.
    """
    _check_floats(theta=theta, momentum=momentum)
    _check_bytes(codec, theta.numel(), update=update)
    _check_scalar("lr", lr)
    _check_scalar("mu", mu)
    if not _choice.kernels.finite(codec, update):
        raise NotFinite("the update holds NaN or infinity; it was not applied (check `finite` before a vote)")
    _choice.kernels.outer_step(codec, update, theta, momentum, lr, mu)


def subtract_into(anchor: Tensor, x: Tensor) -> None:
    """x <- anchor - x. Applied with the old anchor, then the new one, it carries uncommitted steps over."""
    _check_floats(anchor=anchor, x=x)
    _choice.kernels.subtract_into(anchor, x)


def _check_floats(**tensors: Tensor) -> None:
    elements = next(iter(tensors.values())).numel()
    for name, tensor in tensors.items():
        _check_plain(name, tensor, torch.float32)
        if tensor.numel() != elements:
            raise ValueError(f"{name} has {tensor.numel()} elements where {elements} are expected")
        if tensor.data_ptr() % 4:
            raise ValueError(f"{name} is not aligned to 4 bytes; copy it first")


def _check_bytes(codec: Codec, elements: int, **tensors: Tensor) -> None:
    expected = codec.encoded_bytes(elements)
    for name, tensor in tensors.items():
        _check_plain(name, tensor, torch.uint8)
        if tensor.numel() != expected:
            raise ValueError(f"{name} has {tensor.numel()} bytes, {codec.name} of {elements} elements is {expected}")


def _check_plain(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}; a contiguous {dtype} on the CPU is needed")


def _check_overlap(out: Tensor, source: Tensor) -> None:
    """In place is fine, block by block; shifted by a few bytes is not."""
    distance = abs(out.data_ptr() - source.data_ptr())
    if 0 < distance < out.numel():
        raise ValueError(f"out overlaps its source {distance} bytes off; use the same buffer or another one")


def _check_scalar(name: str, value: float) -> float:
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise ValueError(f"{name} {value} is not a finite fp32 number")
    return rounded
