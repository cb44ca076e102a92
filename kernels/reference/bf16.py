"""bf16: the upper half of an fp32, rounded half to even. Denormals are kept; what would become infinity is refused."""

from torch import Tensor

from intellectd.kernels.codec import BF16, CANONICAL_NAN_BITS_BF16, INFINITY_BITS_BF16
from intellectd.kernels.reference.bits import from_bf16, magnitudes, read_u16, to_bf16, write_u16


def encode(x: Tensor) -> Tensor:
    refused = magnitudes(x) >= BF16.refused_bits
    return write_u16(to_bf16(x).masked_fill(refused, CANONICAL_NAN_BITS_BF16))


def decode(piece: Tensor) -> Tensor:
    return from_bf16(read_u16(piece))


def finite(piece: Tensor) -> bool:
    return not bool(((read_u16(piece) & 0x7FFF) >= INFINITY_BITS_BF16).any())
