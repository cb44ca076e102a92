"""fp32 and bf16 in Triton: each element by itself, no scales. As reference/fp32.py and reference/bf16.py."""

import triton
import triton.language as tl

from intellectd.kernels import codec
from intellectd.kernels.cuda.bits import (
    INFINITY_BITS_BF16,
    NAN_BITS,
    NAN_BITS_BF16,
    bits_of,
    float_of,
    from_bf16,
    magnitudes,
    to_bf16,
)

FP32_REFUSED_BITS = tl.constexpr(codec.REFUSED_BITS_FP32)
BF16_REFUSED_BITS = tl.constexpr(codec.REFUSED_BITS_BF16)


@triton.jit
def store_fp32(out, at, inside, x):
    """Of one quarter; gives back what the bytes decode to."""
    bits = tl.where(magnitudes(x) >= FP32_REFUSED_BITS, NAN_BITS, bits_of(x))
    tl.store(out.to(tl.pointer_type(tl.int32)) + at, bits, mask=inside)
    return float_of(bits)


@triton.jit
def load_fp32(enc, at, inside):
    """Of one quarter: the numbers, and which are not finite."""
    bits = tl.load(enc.to(tl.pointer_type(tl.int32)) + at, mask=inside, other=0)
    x = float_of(bits)
    return x, magnitudes(x) >= FP32_REFUSED_BITS


@triton.jit
def store_bf16(out, at, inside, x):
    bits = tl.where(magnitudes(x) >= BF16_REFUSED_BITS, NAN_BITS_BF16, to_bf16(x))
    tl.store(out.to(tl.pointer_type(tl.int16)) + at, bits.to(tl.int16), mask=inside)
    return from_bf16(bits)


@triton.jit
def load_bf16(enc, at, inside):
    bits = tl.load(enc.to(tl.pointer_type(tl.int16)) + at, mask=inside, other=0).to(tl.int32) & 0xFFFF
    return from_bf16(bits), (bits & 0x7FFF) >= INFINITY_BITS_BF16
