"""Triton for vectors on a GPU: whether it can run there, and the check that it gives the reference's bits.

Owns finding out, once per process. Imports triton only when asked, because it is optional (`intellectd[cuda]`) and
takes its time. Refuses to fall back by itself: who asks copies to the host and uses the kernels there.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intellectd.kernels import reference
from intellectd.kernels.agreement import first_difference
from intellectd.kernels.codec import Codec
from intellectd.kernels.interface import Feedback, Kernels
from intellectd.kernels.outer import OuterStep, OuterVectors

if TYPE_CHECKING:
    from intellectd.kernels.cuda.launch import Triton

INTERPRET = "TRITON_INTERPRET"  # "1": triton runs kernels in its interpreter; read when it is first imported


class DeviceUnavailable(RuntimeError):
    """The Triton kernels cannot be used there; `str()` says why and what would help."""


def load(device: torch.device) -> "Triton":
    """The kernels for vectors on that device, unchecked. Raises DeviceUnavailable."""
    # Under the interpreter a vector may lie on the CPU: for tests, it is slow.
    if device.type != "cuda" and not (device.type == "cpu" and os.environ.get(INTERPRET) == "1"):
        raise DeviceUnavailable(f"the Triton kernels are for CUDA, not for a device of kind {device.type!r}")
    try:
        from intellectd.kernels.cuda.launch import Triton
    except ImportError as why:
        raise DeviceUnavailable(f"triton does not import ({why}); pip install 'intellectd[cuda]'") from why
    return Triton()


@functools.cache
def trusted(device: torch.device, codec: Codec) -> "Triton":
    """The kernels, after every pass of this codec gave the reference's bits on that device.

    The first time ever on a host they are compiled, some ten seconds; Triton keeps them on disk. Raises
    DeviceUnavailable, also for whatever the compiler or the driver raises.
    """
    kernels = load(device)
    try:
        different = first_difference(HostVectors(kernels, device), reference, [codec])
    except Exception as why:  # of Triton, its backend, the driver, the compiler that it calls
        raise DeviceUnavailable(f"the Triton kernels failed on {device}: {why!r:.500}") from why
    if different is not None:
        raise DeviceUnavailable(f"{different} differs from torch's on {device}; report it with the versions of both")
    return kernels


class HostVectors:
    """Kernels of a device for vectors in host memory, which are copied there and back: to compare, not to use."""

    def __init__(self, kernels: Kernels, device: torch.device) -> None:
        self._kernels, self._device = kernels, device

    def encode(self, codec: Codec, x: Tensor, out: Tensor, threads: int = 1) -> int | None:
        with self._there(x, out) as there:
            return self._kernels.encode(codec, there[0], there[1])

    def encode_delta(
        self,
        codec: Codec,
        anchor: Tensor,
        local: Tensor,
        out: Tensor,
        feedback: Feedback | None = None,
        threads: int = 1,
    ) -> tuple[float, int | None]:
        fed = () if feedback is None else (feedback.error, feedback.residual)
        with self._there(anchor, local, out, *fed) as (x, y, enc, *vectors):
            copied = None if feedback is None else Feedback(vectors[0], feedback.decay, vectors[1])
            return self._kernels.encode_delta(codec, x, y, enc, copied)

    def decode(self, codec: Codec, enc: Tensor, out: Tensor, threads: int = 1) -> None:
        with self._there(enc, out) as there:
            self._kernels.decode(codec, there[0], there[1])

    def decode_add(self, codec: Codec, enc: Tensor, weight: float, total: Tensor, threads: int = 1) -> None:
        with self._there(enc, total) as there:
            self._kernels.decode_add(codec, there[0], weight, there[1])

    def encode_mean(self, codec: Codec, total: Tensor, divisor: float, out: Tensor, threads: int = 1) -> int | None:
        with self._there(total, out) as there:
            return self._kernels.encode_mean(codec, there[0], divisor, there[1])

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
        with self._there(own, out, *(() if incoming is None else (incoming,))) as there:
            before = None if incoming is None else there[2]
            return self._kernels.ring_hop(codec, before, there[0], weight, divisor, there[1])

    def outer_step(
        self, codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int = 1
    ) -> None:
        given = [vector for vector in (vectors.theta, vectors.momentum, vectors.gathered) if vector is not None]
        with self._there(update, *given) as (enc, theta, *rest):
            momentum = None if vectors.momentum is None else rest.pop(0)
            gathered = None if vectors.gathered is None else rest.pop(0)
            self._kernels.outer_step(codec, enc, step, OuterVectors(theta, momentum, gathered))

    def subtract_into(self, anchor: Tensor, x: Tensor, threads: int = 1) -> None:
        with self._there(anchor, x) as there:
            self._kernels.subtract_into(there[0], there[1])

    def finite(self, codec: Codec, enc: Tensor, threads: int = 1) -> bool:
        with self._there(enc) as there:
            return self._kernels.finite(codec, there[0])

    @contextmanager
    def _there(self, *tensors: Tensor) -> Iterator[list[Tensor]]:
        """Copies on the device, one for each memory: what is given twice is one vector there too."""
        copies: dict[int, Tensor] = {}
        for tensor in tensors:
            copies.setdefault(tensor.data_ptr(), tensor.detach().clone().to(self._device))
        yield [copies[tensor.data_ptr()] for tensor in tensors]
        for tensor in tensors:
            tensor.detach().copy_(copies[tensor.data_ptr()])
