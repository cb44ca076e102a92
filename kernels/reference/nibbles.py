"""Two 4-bit codes to a byte: element i of a block's first half in the low bits, its partner in the second half above.

Halves, not neighbours: a vector unit unpacks 128 bytes into two runs without shuffling.
"""

import torch
from torch import Tensor

from intellectd.kernels.codec import BLOCK


def pack(codes: Tensor) -> Tensor:
    """int32 codes of whole blocks, their low 4 bits; 128 bytes a block."""
    low, high = (codes.reshape(-1, 2, BLOCK // 2) & 0xF).unbind(dim=1)
    return (low | (high << 4)).to(torch.uint8).view(-1)


def unpack(piece: Tensor) -> Tensor:
    """int32 codes 0 to 15, in the order of the elements."""
    both = piece.view(-1, 1, BLOCK // 2).to(torch.int32)
    return torch.cat([both & 0xF, both >> 4], dim=1).view(-1)
