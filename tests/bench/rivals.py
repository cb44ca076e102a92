"""What the kernels are measured against: plain torch, torch.compile, and INTELLECT-1's codebook.

The codebook is written here after its publication (INTELLECT-1, arXiv 2412.01152, 2024): values are sorted into 256
equal buckets over mean ± 6 standard deviations, and each bucket is sent as the mean of what fell into it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 256
BUCKETS = 256
SIGMAS = 6.0

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
Decode = Callable[[Tensor, Tensor, Tensor], Tensor]


def encode_plain(x: Tensor) -> tuple[Tensor, Tensor]:
    """Blockwise int8 as one writes it in torch."""
    blocks = x.view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1, keepdim=True) / 127
    return torch.round(blocks / scales.clamp_min(1e-30)).to(torch.int8), scales


def decode_add_plain(codes: Tensor, scales: Tensor, total: Tensor) -> Tensor:
    return total.add_((codes * scales).view(-1))


def encode_codebook(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (uint8) and the 256 values they stand for."""
    mean, deviation = x.mean(), x.std()
    width = 2 * SIGMAS * deviation / BUCKETS
    codes = ((x - mean) / width + BUCKETS / 2).clamp_(0, BUCKETS - 1).to(torch.uint8)
    places = codes.to(torch.int64)
    sums = torch.zeros(BUCKETS).scatter_add_(0, places, x)
    counts = torch.bincount(places, minlength=BUCKETS)
    return codes, sums / counts.clamp_min(1)


def decode_add_codebook(codes: Tensor, book: Tensor, total: Tensor) -> Tensor:
    return total.add_(book[codes.to(torch.int64)])


def compiled() -> tuple[Encode, Decode] | str:
    """The plain pair through torch.compile; why not, where its toolchain is missing."""
    probe = torch.ones(4 * BLOCK)
    try:
        encode, decode_add = torch.compile(encode_plain), torch.compile(decode_add_plain)
        decode_add(*encode(probe), probe.clone())
    except Exception as error:  # whatever inductor lacks here: a compiler, headers, memory
        return f"torch.compile does not work here: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return encode, decode_add
