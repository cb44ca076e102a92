"""fp32: the floats themselves, little-endian. Only NaN and infinity are refused."""

import torch
from torch import Tensor

from intellectd.kernels.codec import CANONICAL_NAN_BITS, FP32
from intellectd.kernels.reference.bits import magnitudes


def encode(x: Tensor) -> Tensor:
    refused = magnitudes(x) >= FP32.refused_bits
    return x.view(torch.int32).masked_fill(refused, CANONICAL_NAN_BITS).view(torch.uint8)


def decode(piece: Tensor) -> Tensor:
    return piece.view(torch.float32)


def finite(piece: Tensor) -> bool:
    return not bool((magnitudes(piece.view(torch.float32)) >= FP32.refused_bits).any())
