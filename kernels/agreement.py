"""Whether two implementations of the kernels give the same bits, on one fixed and nasty vector.

Owns the check that runs once per process before the C kernels are trusted: a compiler flag from a distribution
(-ffast-math, contraction) would let one peer compute another state than all others. Costs a few milliseconds.
"""

import torch
from torch import Tensor

from intellectd.kernels.codec import BLOCK, BLOCKS_PER_GROUP, CODECS, Codec
from intellectd.kernels.interface import Kernels

ELEMENTS = (BLOCKS_PER_GROUP + 2) * BLOCK  # a full group and a short one
_KNUTH = 2654435761  # multiplicative hashing: scattered integers without touching a random generator


def first_difference(one: Kernels, other: Kernels) -> str | None:
    """Name of the first kernel and codec that differ, None if all agree."""
    for codec in CODECS.values():
        for name, mine, theirs in zip(_KERNELS, _run(one, codec), _run(other, codec), strict=True):
            if mine != theirs:
                return f"{name} of {codec.name}"
    return None


_KERNELS = ("encode_delta", "encode", "decode", "finite", "ring_hop", "outer_step", "subtract_into")


def _run(kernels: Kernels, codec: Codec) -> list[object]:
    anchor, local, momentum, noise = _tame(1), _tame(2), _tame(3), _any_bits()
    delta, encoded = _room(codec), _room(codec)
    squares = kernels.encode_delta(codec, anchor, local, delta)
    results: list[object] = [(squares, _bits(delta)), (kernels.encode(codec, noise, encoded), _bits(encoded))]
    kernels.decode(codec, encoded, noise)
    results += [_bits(noise), (kernels.finite(codec, encoded), kernels.finite(codec, delta))]
    first, last = _room(codec), _room(codec)
    sound = kernels.ring_hop(codec, None, delta, 3.7, None, first)
    results.append((sound, kernels.ring_hop(codec, first, delta, 2.1, 5.8, last), _bits(first), _bits(last)))
    kernels.outer_step(codec, last, anchor, momentum, 0.7, 0.9)
    results.append((_bits(anchor), _bits(momentum)))
    kernels.subtract_into(anchor, local)
    results.append(_bits(local))
    return results


def _scattered(seed: int) -> Tensor:
    return (torch.arange(ELEMENTS, dtype=torch.int64) + seed * ELEMENTS) * _KNUTH % 2**32


def _tame(seed: int) -> Tensor:
    """Numbers of a model's kind, but over many magnitudes: cubes of -1 to 1, scaled per block down to denormals."""
    cubes = ((_scattered(seed).to(torch.float64) / 2**31 - 1) ** 3).view(-1, BLOCK)
    scales = torch.arange(cubes.shape[0], dtype=torch.float64).mul(-2.2).exp2()
    return (cubes * scales[:, None]).to(torch.float32).view(-1)


def _any_bits() -> Tensor:
    return (_scattered(4) - 2**31).to(torch.int32).view(torch.float32)


def _room(codec: Codec) -> Tensor:
    return torch.zeros(codec.encoded_bytes(ELEMENTS), dtype=torch.uint8)


def _bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
