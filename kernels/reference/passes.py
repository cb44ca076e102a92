"""The fused passes, unfused: what each reads, computes and leaves, in one order of operations.

`threads` is for implementations that have some; here it changes nothing, and nowhere may it change a bit.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from intellectd.kernels.codec import BLOCK, CANONICAL_NAN_BITS, Codec
from intellectd.kernels.interface import Feedback
from intellectd.kernels.reference.bits import fp32, magnitudes
from intellectd.kernels.reference.groups import decode_group, encode_group, group_finite, groups


@torch.no_grad()
def encode(codec: Codec, x: Tensor, out: Tensor, threads: int = 1) -> int | None:
    return _first(encode_group(codec, x[first:last], out, first) for first, last in groups(x.numel()))


@torch.no_grad()
def encode_delta(
    codec: Codec, anchor: Tensor, local: Tensor, out: Tensor, feedback: Feedback | None = None, threads: int = 1
) -> tuple[float, int | None]:
    """enc(anchor - local + decay * error); also the sum of squares of anchor - local alone."""
    total = 0.0
    first_refused: int | None = None
    for first, last in groups(anchor.numel()):
        delta = anchor[first:last] - local[first:last]
        total += _sum_of_squares(delta)
        if feedback is not None:
            delta = delta + fp32(feedback.decay) * feedback.error[first:last]
        refused = encode_group(codec, delta, out, first)
        first_refused = refused if first_refused is None else first_refused
        if feedback is not None:
            _keep_residual(codec, delta, out, first, feedback.residual)
    return total, first_refused


def _keep_residual(codec: Codec, wanted: Tensor, enc: Tensor, first: int, residual: Tensor) -> None:
    """What the encoding lost. A unit that was refused has lost everything: the canonical NaN."""
    last = first + wanted.numel()
    lost = wanted - decode_group(codec, enc, first, last)
    for start, stop in _units(codec, wanted.numel()):
        if bool((magnitudes(wanted[start:stop]) >= codec.refused_bits).any()):
            lost[start:stop].view(torch.int32).fill_(CANONICAL_NAN_BITS)
    residual[first:last].copy_(lost)


def _units(codec: Codec, elements: int) -> Iterator[tuple[int, int]]:
    width = max(codec.unit, BLOCK)
    for start in range(0, elements, width):
        yield start, min(start + width, elements)


@torch.no_grad()
def decode(codec: Codec, enc: Tensor, out: Tensor, threads: int = 1) -> None:
    for first, last in groups(out.numel()):
        out[first:last].copy_(decode_group(codec, enc, first, last))


@torch.no_grad()
def decode_add(codec: Codec, enc: Tensor, weight: float, total: Tensor, threads: int = 1) -> None:
    """total <- total + weight * dec(enc)."""
    for first, last in groups(total.numel()):
        part = fp32(weight) * decode_group(codec, enc, first, last)
        total[first:last].copy_(total[first:last] + part)


@torch.no_grad()
def encode_mean(codec: Codec, total: Tensor, divisor: float, out: Tensor, threads: int = 1) -> int | None:
    """out <- enc(total / divisor)."""
    return _first(
        encode_group(codec, total[first:last] / fp32(divisor), out, first) for first, last in groups(total.numel())
    )


@torch.no_grad()
def ring_hop(
    codec: Codec,
    incoming: Tensor | None,
    own: Tensor,
    weight: float,
    divisor: float | None,
    out: Tensor,
    threads: int = 1,
) -> bool:
    def sums() -> Iterator[int | None]:
        for first, last in groups(codec.elements(own.numel())):
            t = fp32(weight) * decode_group(codec, own, first, last)
            if incoming is not None:
                t = decode_group(codec, incoming, first, last) + t
            yield encode_group(codec, t if divisor is None else t / fp32(divisor), out, first)

    return _first(sums()) is None


@torch.no_grad()
def subtract_into(anchor: Tensor, x: Tensor, threads: int = 1) -> None:
    for first, last in groups(x.numel()):
        x[first:last].copy_(anchor[first:last] - x[first:last])


def finite(codec: Codec, enc: Tensor, threads: int = 1) -> bool:
    """Whether every element would decode to a finite number."""
    return all(group_finite(codec, enc, first, last) for first, last in groups(codec.elements(enc.numel())))


def _first(refused: Iterable[int | None]) -> int | None:
    """The first that is not None, after all groups have been worked through."""
    found: int | None = None
    for index in refused:
        found = index if found is None else found
    return found


def _sum_of_squares(x: Tensor) -> float:
    """Of one group, in fp64: halves added onto halves within a block, an order that vectorizes without choosing its
    own; then block after block. The groups' sums are added in their order too, whoever computed them."""
    squares = x.view(-1, BLOCK).to(torch.float64)
    squares = squares * squares
    while squares.shape[1] > 1:
        half = squares.shape[1] // 2
        squares = squares[:, :half] + squares[:, half:]
    total = 0.0
    for block_sum in squares.view(-1).tolist():
        total += block_sum  # one at a time: sum() compensates from Python 3.12 on
    return total
