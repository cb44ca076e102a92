"""The kernels as everyone else calls them: arguments checked, then C where it is built, else torch.

Tensors are contiguous, all on the CPU or all on one CUDA device (Triton then, `device.py`): float32 of n elements
(n a multiple of 256) or uint8 of the codec's bytes for n; anything else raises ValueError. Weights and
hyper-parameters are rounded to fp32 first. `threads` is how many may work at once; no result depends on it.
"""

import math
import mmap
import os
import sys
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from intellectd.kernels.checks import check_bytes, check_divisor, check_floats, check_overlap, check_scalar, one_device
from intellectd.kernels.choice import ENVIRONMENT, Choice, KernelChoiceError, choose
from intellectd.kernels.codec import FP32, Codec
from intellectd.kernels.device import trusted
from intellectd.kernels.interface import Feedback, Kernels
from intellectd.kernels.outer import OuterStep, OuterVectors, check_step
from intellectd.kernels.step_leaves import step_leaves

__all__ = ["ENVIRONMENT", "Choice", "Feedback", "KernelChoiceError", "choose"]


# A handful of cores saturates the memory of a socket; hashing goes on scaling for a while.
THREADS_MAX = 16
# Worth a thread: 16 MiB of fp32 take a millisecond and more; a new thread that finds all CPUs busy starts 3 ms late.
THREAD_ELEMENTS_MIN = 2**22


class NotFinite(ValueError):
    """An encoded update holds NaN or infinity; applying it would lose the state, so nothing was changed."""


@dataclass(frozen=True)
class DeltaStats:
    """`norm` is L2 over the elements, summed in fp64 in a fixed order; NaN when an element was refused."""

    norm: float
    first_nonfinite: int | None


if sys.byteorder != "little":
    raise ImportError("the wire is little-endian and these kernels read it in place: big-endian hosts cannot run")
_choice = choose(os.environ)
# Encoded deltas and received updates are read-only to us, and `as_bytes` says what that means.
warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)


def as_bytes(buffer: bytes | bytearray | memoryview | mmap.mmap) -> Tensor:
    """A uint8 tensor over the buffer's memory, not a copy. Over read-only memory it must not be written to."""
    view = memoryview(buffer)
    if view.nbytes == 0:  # torch.frombuffer refuses it
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(view, dtype=torch.uint8)


def in_use() -> Kernels:
    """For vectors on the CPU, which whoever calls them has checked."""
    return _choice.kernels


def implementation() -> str:
    return _choice.name


def reason() -> str:
    """Why the C kernels are not in use; empty when they are."""
    return _choice.reason


def instructions() -> str:
    """The instruction set of the C kernels in use; empty with torch's."""
    return _choice.instructions


def usable_threads() -> int:
    """How many threads a pass over a whole vector should have on this host."""
    return min(THREADS_MAX, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _worth(threads: int, elements: int) -> int:
    return max(1, min(threads, elements // THREAD_ELEMENTS_MIN))


def _kernels(codec: Codec, *vectors: Tensor | None) -> Kernels:
    """By where the vectors lie. Raises ValueError where they lie apart, `device.DeviceUnavailable`."""
    device = one_device(*vectors)
    return _choice.kernels if device.type == "cpu" else trusted(device, codec)


def encode(codec: Codec, x: Tensor, out: Tensor, threads: int = 1) -> int | None:
    """out <- enc(x). Index of the first element that cannot be, if any (its unit is written as NaN)."""
    check_floats(x=x)
    check_bytes(codec, x.numel(), out=out)
    return _kernels(codec, x, out).encode(codec, x, out, _worth(threads, x.numel()))


def encode_delta(
    codec: Codec, anchor: Tensor, local: Tensor, out: Tensor, feedback: Feedback | None = None, threads: int = 1
) -> DeltaStats:
    """out <- enc(anchor - local), with the delta's norm, in one pass; with feedback enc(anchor - local + decay e),
    and the residual. A residual of a delta with a refused element is not to be used."""
    check_floats(anchor=anchor, local=local)
    check_bytes(codec, anchor.numel(), out=out)
    if feedback is not None:
        if codec.feedback_decay is None:
            raise ValueError(f"{codec.name} loses nothing that could be fed back")
        check_floats(anchor=anchor, error=feedback.error, residual=feedback.residual)
        check_overlap(feedback.residual, feedback.error)
        check_scalar("decay", feedback.decay)
    threads = _worth(threads, anchor.numel())
    fed = () if feedback is None else (feedback.error, feedback.residual)
    kernels = _kernels(codec, anchor, local, out, *fed)
    squares, first_nonfinite = kernels.encode_delta(codec, anchor, local, out, feedback, threads)
    return DeltaStats(math.sqrt(squares) if first_nonfinite is None else math.nan, first_nonfinite)


def decode(codec: Codec, enc: Tensor, out: Tensor, threads: int = 1) -> None:
    """out <- dec(enc); any bytes decode, a unit with a bad scale to NaN."""
    check_floats(out=out)
    check_bytes(codec, out.numel(), enc=enc)
    _kernels(codec, enc, out).decode(codec, enc, out, _worth(threads, out.numel()))


def decode_add(codec: Codec, enc: Tensor, weight: float, total: Tensor, threads: int = 1) -> None:
    """total <- total + weight * dec(enc): one member's part of a sum. Ask `finite` of a peer's bytes first."""
    check_floats(total=total)
    check_bytes(codec, total.numel(), enc=enc)
    check_scalar("weight", weight)
    _kernels(codec, enc, total).decode_add(codec, enc, weight, total, _worth(threads, total.numel()))


def encode_mean(codec: Codec, total: Tensor, divisor: float, out: Tensor, threads: int = 1) -> int | None:
    """out <- enc(total / divisor). Index of the first element that cannot be encoded, if any."""
    check_floats(total=total)
    check_bytes(codec, total.numel(), out=out)
    check_divisor(divisor)
    return _kernels(codec, total, out).encode_mean(codec, total, divisor, out, _worth(threads, total.numel()))


def finite(codec: Codec, enc: Tensor, threads: int = 1) -> bool:
    """Whether all of `enc` decodes to finite numbers; ask it of bytes from a peer before using them."""
    elements = codec.elements(enc.numel())
    check_bytes(codec, elements, enc=enc)
    return _kernels(codec, enc).finite(codec, enc, _worth(threads, elements))


def ring_hop(
    codec: Codec,
    incoming: Tensor | None,
    own: Tensor,
    weight: float,
    divisor: float | None,
    out: Tensor,
    threads: int = 1,
) -> bool:
    """out <- enc((dec(incoming) + weight * dec(own)) / divisor); what is None falls away.

    True if all of it was finite. `out` may be the very buffer of `incoming` or `own`.
    """
    if not codec.may_reencode:
        raise ValueError(f"{codec.name} loses too much to be encoded anew at each hop of a ring")
    elements = codec.elements(own.numel())
    check_bytes(codec, elements, own=own, out=out)
    check_overlap(out, own)
    if incoming is not None:
        check_bytes(codec, elements, incoming=incoming)
        check_overlap(out, incoming)
    check_scalar("weight", weight)
    if divisor is not None:
        check_divisor(divisor)
    kernels = _kernels(codec, own, incoming, out)
    return kernels.ring_hop(codec, incoming, own, weight, divisor, out, _worth(threads, elements))


def outer_step(codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int = 1) -> None:
    """d = dec(update), then what `step` says, in place. Raises NotFinite, with nothing changed, if d is not."""
    threads = _checked_step(codec, update, step, vectors, threads)
    _kernels(codec, update, vectors.theta).outer_step(codec, update, step, vectors, threads)


def outer_step_leaves(
    codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int = 1
) -> list[bytes]:
    """`outer_step`, and the digest's leaves of theta, then of momentum (SPEC K8), then of what a delayed optimizer has
    gathered, each hashed while it is in cache."""
    threads = _checked_step(codec, update, step, vectors, threads)
    if vectors.theta.device.type != "cpu":
        raise ValueError("leaves are hashed on the CPU; step there")
    return step_leaves(_choice.kernels, codec, update, step, vectors, threads)


def _checked_step(codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int) -> int:
    check_floats(theta=vectors.theta, momentum=vectors.momentum, gathered=vectors.gathered)
    check_bytes(codec, vectors.theta.numel(), update=update)
    check_step(step, vectors)
    threads = _worth(threads, vectors.theta.numel())
    kernels = _kernels(codec, update, vectors.theta, vectors.momentum, vectors.gathered)
    if not kernels.finite(codec, update, threads):
        raise NotFinite("the update holds NaN or infinity; it was not applied (check `finite` before a vote)")
    return threads


def subtract_into(anchor: Tensor, x: Tensor, threads: int = 1) -> None:
    """x <- anchor - x. Applied with the old anchor, then the new one, it carries uncommitted steps over."""
    check_floats(anchor=anchor, x=x)
    _kernels(FP32, anchor, x).subtract_into(anchor, x, _worth(threads, x.numel()))
