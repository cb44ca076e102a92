"""Whether two implementations of the kernels give the same bits, on one fixed and nasty vector.

Owns the check that runs once per process before the C kernels are trusted: a compiler flag from a distribution
(-ffast-math, contraction) would let one peer compute another state than all others. Costs a tenth of a second.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from intellectd.kernels.codec import BLOCK, BLOCKS_PER_GROUP, CODECS, Codec
from intellectd.kernels.interface import Feedback, Kernels
from intellectd.kernels.outer import DelayedNesterovStep, NesterovStep, OuterVectors

ELEMENTS = (BLOCKS_PER_GROUP + 2) * BLOCK  # a full group and a short one
_KNUTH = 2654435761  # multiplicative hashing: scattered integers without touching a random generator
_KERNELS = (
    "encode_delta",
    "encode",
    "decode",
    "finite",
    "decode_add",
    "encode_mean",
    "ring_hop",
    "outer_step",
    "subtract_into",
)


def first_difference(one: Kernels, other: Kernels, codecs: Iterable[Codec] = tuple(CODECS.values())) -> str | None:
    """Name of the first kernel and codec that differ, None if all agree."""
    for codec in codecs:
        for name, mine, theirs in zip(_KERNELS, _run(one, codec), _run(other, codec), strict=True):
            if mine != theirs:
                return f"{name} of {codec.name}"
    return None


def _run(kernels: Kernels, codec: Codec) -> list[object]:
    """What each of _KERNELS gives and leaves behind, in their order."""
    anchor, local, momentum, noise, error = _tame(1), _tame(2), _tame(3), _any_bits(), _tame(5)
    delta, encoded = _room(codec), _room(codec)
    feedback = None if codec.feedback_decay is None else Feedback(error, 0.95, error)
    squares = kernels.encode_delta(codec, anchor, local, delta, feedback)
    results: list[object] = [(squares, _bits(delta), _bits(error))]
    results.append((kernels.encode(codec, noise, encoded), _bits(encoded)))
    kernels.decode(codec, encoded, noise)
    results += [_bits(noise), (kernels.finite(codec, encoded), kernels.finite(codec, delta))]
    kernels.decode_add(codec, delta, 3.7, error)
    results.append(_bits(error))
    update = _room(codec)
    results.append((kernels.encode_mean(codec, error, 5.8, update), _bits(update)))
    results.append(_ring(kernels, codec, delta))
    kernels.outer_step(codec, update, NesterovStep(0.7, 0.9), OuterVectors(anchor, momentum))
    kernels.outer_step(
        codec, update, DelayedNesterovStep(0.7, 0.9, 3, turn=True), OuterVectors(anchor, momentum, error)
    )
    results.append((_bits(anchor), _bits(momentum), _bits(error)))
    kernels.subtract_into(anchor, local)
    return [*results, _bits(local)]


def _ring(kernels: Kernels, codec: Codec, delta: Tensor) -> object:
    if not codec.may_reencode:
        return None
    first, last = _room(codec), _room(codec)
    sound = kernels.ring_hop(codec, None, delta, 3.7, None, first)
    return sound, kernels.ring_hop(codec, first, delta, 2.1, 5.8, last), _bits(first), _bits(last)


def _scattered(seed: int) -> Tensor:
    return (torch.arange(ELEMENTS, dtype=torch.int64, device="cpu") + seed * ELEMENTS) * _KNUTH % 2**32


def _tame(seed: int) -> Tensor:
    """Numbers of a model's kind, but over many magnitudes: cubes of -1 to 1, scaled per block down to denormals."""
    cubes = ((_scattered(seed).to(torch.float64) / 2**31 - 1) ** 3).view(-1, BLOCK)
    scales = torch.arange(cubes.shape[0], dtype=torch.float64, device="cpu").mul(-2.2).exp2()
    return (cubes * scales[:, None]).to(torch.float32).view(-1)


def _any_bits() -> Tensor:
    return (_scattered(4) - 2**31).to(torch.int32).view(torch.float32)


def _room(codec: Codec) -> Tensor:
    # Not torch.zeros: above its grain it wakes the thread pool, which on busy CPUs takes 6 ms each time.
    return torch.frombuffer(bytearray(codec.encoded_bytes(ELEMENTS)), dtype=torch.uint8)


def _bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
