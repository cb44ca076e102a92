"""Vectors for the kernel tests: tame, raw bits, nasty. The same on every machine, from BLAKE3, not a random generator.

Owns test inputs and the two implementations under test. `INTELLECTD_KERNELS=torch` leaves the C ones out on
purpose; without it a missing C library fails the tests rather than skipping them.
"""

import os

import pytest
import torch
from blake3 import blake3
from torch import Tensor

from intellectd.kernels import native, reference
from intellectd.kernels.codec import GROUP, Codec
from intellectd.kernels.interface import Kernels

IMPLEMENTATIONS: dict[str, Kernels] = {"torch": reference}
if os.environ.get("INTELLECTD_KERNELS") != "torch":
    for _name in native.instruction_sets(native.built_library()):
        IMPLEMENTATIONS[_name] = native.load(native.built_library(), _name)

EVERYWHERE = pytest.mark.parametrize("kernels", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
ELEMENTS = GROUP + 3 * 256  # a whole group and a short one

# Zeros, denormals, the edges of the zero block and of what int8 refuses, halves that round to even, NaNs.
NASTY_BITS = (
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x0D7FFFFF, 0x0D800000, 0x0D800001,
    0x3F800000, 0xBF000000, 0x42FE0000, 0x7EFFFFFF, 0x7F000000, 0xFF7FFFFF, 0x7F800000, 0xFF800000,
    0x7FC00000, 0x7F800001, 0xFFFFFFFF,
)  # fmt: skip
FINITE_NASTY_BITS = NASTY_BITS[:12]


def raw_bits(seed: int, elements: int) -> Tensor:
    """Any bits at all as floats: all magnitudes, a few NaNs."""
    return torch.frombuffer(raw_bytes(seed, 4 * elements), dtype=torch.float32)


def raw_bytes(seed: int, length: int) -> bytearray:
    return bytearray(blake3(seed.to_bytes(8, "little")).digest(length=length))


def tame(seed: int, elements: int, exponent: int = 0) -> Tensor:
    """Cubes of numbers in [-1, 1), times a power of two."""
    uniform = raw_bits(seed, elements).view(torch.int32).to(torch.float64) / 2.0**31
    return (uniform**3 * 2.0**exponent).to(torch.float32)


def with_bits(x: Tensor, places: dict[int, int]) -> Tensor:
    """A copy of x with the given bit patterns at the given places."""
    copy = x.clone()
    for place, bits in places.items():
        copy.view(torch.int32)[place] = bits - 2**32 if bits >= 2**31 else bits
    return copy


def room(codec: Codec, elements: int) -> Tensor:
    return torch.full((codec.encoded_bytes(elements),), 0xAA, dtype=torch.uint8)


def encoded(codec: Codec, x: Tensor) -> Tensor:
    """The reference's encoding."""
    out = room(codec, x.numel())
    reference.encode(codec, x, out)
    return out


def spoilt(enc: Tensor, seed: int) -> Tensor:
    """A copy with up to 512 bytes of noise somewhere among the sound ones."""
    copy, noise = enc.clone(), torch.frombuffer(raw_bytes(seed, 512), dtype=torch.uint8)[: enc.numel()]
    place = seed % (enc.numel() - noise.numel() + 1)
    copy[place : place + noise.numel()] = noise
    return copy


def decoded(codec: Codec, enc: Tensor) -> Tensor:
    out = torch.empty(codec.elements(enc.numel()))
    reference.decode(codec, enc, out)
    return out


def ring_of_three(kernels: Kernels, codec: Codec, deltas: list[Tensor], weights: list[float]) -> Tensor:
    partial = room(codec, ELEMENTS)
    own = [encoded(codec, delta) for delta in deltas]
    assert kernels.ring_hop(codec, None, own[0], weights[0], None, partial)
    assert kernels.ring_hop(codec, partial, own[1], weights[1], None, partial)
    assert kernels.ring_hop(codec, partial, own[2], weights[2], sum(weights), partial)
    return partial


def bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def fingerprint(*tensors: Tensor) -> str:
    return str(blake3(b"".join(bits(tensor) for tensor in tensors)).hexdigest(length=16))
