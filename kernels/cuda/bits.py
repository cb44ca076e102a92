"""What the Triton codecs share: magnitudes as integers, rounding, bf16 halves. As reference/bits.py.

Multiplies and adds are rounded one by one only where a kernel is launched without `enable_fp_fusion`, as launch.py
does. Divisions are `tl.div_rn`: Triton's `/` on fp32 approximates.
"""

import triton
import triton.language as tl

from intellectd.kernels import codec

MAGNITUDE_MASK = tl.constexpr(0x7FFFFFFF)
ONE_BITS = tl.constexpr(0x3F800000)
NAN_BITS = tl.constexpr(codec.CANONICAL_NAN_BITS)
NAN_BITS_BF16 = tl.constexpr(codec.CANONICAL_NAN_BITS_BF16)
INFINITY_BITS_BF16 = tl.constexpr(codec.INFINITY_BITS_BF16)
ZERO_BITS = tl.constexpr(codec.ZERO_BITS)
QUANTIZED_REFUSED_BITS = tl.constexpr(codec.REFUSED_BITS_QUANTIZED)
ROUNDING_MAGIC = tl.constexpr(codec.ROUNDING_MAGIC)
MAGIC_BITS = tl.constexpr(0x4B400000)  # of ROUNDING_MAGIC: the integer is what the bits have beyond it


@triton.jit
def bits_of(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float_of(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def magnitudes(x):
    """Bits of |x|, int32."""
    return bits_of(x) & MAGNITUDE_MASK


@triton.jit
def rounded(x):
    """The integer nearest to each x, halves to even, int32; |x| below 2**22."""
    return bits_of(x + ROUNDING_MAGIC) - MAGIC_BITS


@triton.jit
def to_bf16(x):
    """bf16 bits of fp32 numbers (no NaN), rounded half to even; int32."""
    bits = bits_of(x)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


@triton.jit
def from_bf16(bits):
    return float_of(bits << 16)


@triton.jit
def or_nan(x, bad):
    """x, with the canonical NaN where `bad`."""
    return float_of(tl.where(bad, NAN_BITS, bits_of(x)))


@triton.jit
def unit_state(most):
    """Of units with these largest magnitudes: 1.0 in place of what has no scale; whether refused; whether empty."""
    refused = most >= QUANTIZED_REFUSED_BITS
    empty = refused | (most < ZERO_BITS)
    return float_of(tl.where(empty, ONE_BITS, most)), refused, empty
