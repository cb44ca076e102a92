"""Relative RMS error of each codec and of INTELLECT-1's codebook on Gaussian and heavy-tailed data.

EXPECTED was computed apart from these kernels, in numpy, before they were written; for heavy tails it does not say
which distribution it took, so those figures stand beside ours without a ratio.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from intellectd.kernels import ops
from intellectd.kernels.codec import CODECS, Codec
from tests.bench.rivals import encode_codebook

ELEMENTS = 2**22
EXPECTED = {"int8": 0.007, "codebook": 0.016, "int4": 0.108, "e3m0": 0.195, "topk": 0.94}
FREEDOM = 3  # of Student's t: finite variance, infinite kurtosis


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    gaussian = torch.randn(ELEMENTS, generator=generator)
    chi = torch.randn(FREEDOM, ELEMENTS, generator=generator).square().sum(dim=0)
    return {"gaussian": gaussian, "student_t3": torch.randn(ELEMENTS, generator=generator) / (chi / FREEDOM).sqrt()}


def back(codec: Codec, x: Tensor) -> Tensor:
    encoded, out = torch.empty(codec.encoded_bytes(x.numel()), dtype=torch.uint8), torch.empty_like(x)
    ops.encode(codec, x, encoded)
    ops.decode(codec, encoded, out)
    return out


def through_codebook(x: Tensor) -> Tensor:
    codes, book = encode_codebook(x)
    return book[codes.to(torch.int64)]


def errors() -> Iterator[tuple[str, str, float]]:
    """(codec, data, relative RMS error)."""
    for kind, x in data().items():
        for codec in CODECS.values():
            yield codec.name, kind, float((back(codec, x) - x).norm() / x.norm())
        yield "codebook", kind, float((through_codebook(x) - x).norm() / x.norm())
