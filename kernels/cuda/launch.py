"""The Triton kernels as an implementation of `interface.Kernels`: grids, scalars as bits, what comes back.

Vectors lie on one CUDA device (or, under Triton's interpreter, on the CPU). Refuses to check them: `ops` has. All of
a pass runs on the device's current stream; what returns an index or a norm waits for it. `threads` means nothing.
"""

import struct
from typing import Any

import torch
from torch import Tensor

from intellectd.kernels.codec import BLOCK, BLOCKS_PER_GROUP, TOPK, Codec
from intellectd.kernels.cuda import passes, squares, steps
from intellectd.kernels.cuda.tiles import TILE_BLOCKS
from intellectd.kernels.cuda.topk import PLACES
from intellectd.kernels.interface import Feedback
from intellectd.kernels.outer import AverageStep, DelayedNesterovStep, NesterovStep, OuterStep, OuterVectors

# No multiply and add become one operation: that rounds once where the reference rounds twice.
OPTIONS = {"enable_fp_fusion": False, "num_warps": 4}
_NO_INDEX = 2**63 - 1


class Triton:
    """No state: kernels are compiled when first used and kept by Triton, also on disk."""

    def encode(self, codec: Codec, x: Tensor, out: Tensor, threads: int = 1) -> int | None:
        return self._encode(codec, passes.PLAIN, x, out)[1]

    def encode_mean(self, codec: Codec, total: Tensor, divisor: float, out: Tensor, threads: int = 1) -> int | None:
        return self._encode(codec, passes.MEAN, total, out, number=divisor)[1]

    def encode_delta(
        self,
        codec: Codec,
        anchor: Tensor,
        local: Tensor,
        out: Tensor,
        feedback: Feedback | None = None,
        threads: int = 1,
    ) -> tuple[float, int | None]:
        sums, refused = self.encode_delta_groups(codec, anchor, local, out, feedback)
        return total_of(sums.tolist()), refused

    def encode_delta_groups(
        self, codec: Codec, anchor: Tensor, local: Tensor, out: Tensor, feedback: Feedback | None = None
    ) -> tuple[Tensor, int | None]:
        """As `encode_delta`, but each group's own sum of squares (fp64, on the device): whoever encodes a vector in
        pieces of whole groups adds up all of theirs with `total_of`."""
        if feedback is None:
            return self._encode(codec, passes.DELTA, anchor, out, local)
        return self._encode(codec, passes.FED, anchor, out, local, feedback, feedback.decay)

    def decode(self, codec: Codec, enc: Tensor, out: Tensor, threads: int = 1) -> None:
        self._decode(codec, enc, out, 0.0, adds=False)

    def decode_add(self, codec: Codec, enc: Tensor, weight: float, total: Tensor, threads: int = 1) -> None:
        self._decode(codec, enc, total, weight, adds=True)

    def ring_hop(
        self,
        codec: Codec,
        incoming: Tensor | None,
        own: Tensor,
        weight: float,
        divisor: float | None,
        out: Tensor,
        threads: int = 1,
    ) -> bool:
        first, blocks = _no_index(own), codec.elements(own.numel()) // BLOCK
        _launch(
            passes.ring_hop, blocks, own if incoming is None else incoming, own, out,
            _bits(weight), _bits(1.0 if divisor is None else divisor), first, blocks,
            CODEC=codec.native_id, ADDS=incoming is not None, DIVIDES=divisor is not None, REFUSED=codec.refused_bits,
        )  # fmt: skip
        return _index(first) is None

    def outer_step(
        self, codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int = 1
    ) -> None:
        theta, blocks, mu, delay = vectors.theta, vectors.theta.numel() // BLOCK, 0.0, 1.0
        match step:
            case NesterovStep():
                optimizer, mu = steps.NESTEROV, step.mu
            case AverageStep():
                optimizer = steps.AVERAGE
            case DelayedNesterovStep():
                optimizer, mu, delay = steps.DELAYED_TURN if step.turn else steps.DELAYED, step.mu, step.delay
        momentum = theta if vectors.momentum is None else vectors.momentum
        gathered = theta if vectors.gathered is None else vectors.gathered
        _launch(
            steps.outer_step, blocks, update, theta, momentum, gathered,
            _bits(step.lr), _bits(mu), _bits(delay), blocks, CODEC=codec.native_id, OPTIMIZER=optimizer,
        )  # fmt: skip

    def subtract_into(self, anchor: Tensor, x: Tensor, threads: int = 1) -> None:
        blocks = x.numel() // BLOCK
        _launch(passes.subtract_into, blocks, anchor, x, blocks)

    def finite(self, codec: Codec, enc: Tensor, threads: int = 1) -> bool:
        first, blocks = _no_index(enc), codec.elements(enc.numel()) // BLOCK
        _launch(passes.finite, blocks, enc, first, blocks, CODEC=codec.native_id)
        return _index(first) is None

    def _decode(self, codec: Codec, enc: Tensor, total: Tensor, weight: float, adds: bool) -> None:
        blocks = total.numel() // BLOCK
        _launch(passes.decode, blocks, enc, total, _bits(weight), blocks, CODEC=codec.native_id, ADDS=adds)

    def _encode(
        self,
        codec: Codec,
        source: int,
        x: Tensor,
        out: Tensor,
        y: Tensor | None = None,
        feedback: Feedback | None = None,
        number: float = 1.0,
    ) -> tuple[Tensor, int | None]:
        """The groups' sums of squares of x - y (empty where there is no y) and the first refused index."""
        first, blocks = _no_index(x), x.numel() // BLOCK
        sums = torch.empty(0 if y is None else blocks, dtype=torch.float64, device=x.device)
        inputs = (x, x if y is None else y, x if feedback is None else feedback.error)
        if codec is TOPK:
            self._encode_topk(source, inputs, feedback, number, out, sums, first)
        else:
            residual = x if feedback is None else feedback.residual
            _launch(
                passes.encode, blocks, *inputs, residual, _bits(number), out, sums, first, blocks,
                CODEC=codec.native_id, SOURCE=source, REFUSED=codec.refused_bits,
            )  # fmt: skip
        return _group_sums(sums), _index(first)

    def _encode_topk(
        self,
        source: int,
        inputs: tuple[Tensor, Tensor, Tensor],
        feedback: Feedback | None,
        number: float,
        out: Tensor,
        sums: Tensor,
        first: Tensor,
    ) -> None:
        """What is selected lies in memory between the kernels: 8 bytes for each of 64 places in 4,096 elements."""
        x, blocks, bits = inputs[0], inputs[0].numel() // BLOCK, _bits(number)
        chunks = -(-blocks // TILE_BLOCKS)
        picks = torch.full((chunks, PLACES), -1, dtype=torch.int32, device=x.device)
        picked_bits, refused = torch.zeros_like(picks), torch.empty(chunks, dtype=torch.int32, device=x.device)
        _launch(
            passes.topk_select, blocks, *inputs, bits, picks, picked_bits, refused, sums, first, blocks,
            SOURCE=source, REFUSED=TOPK.refused_bits,
        )  # fmt: skip
        _launch(passes.topk_pack, blocks, out, picks, picked_bits, refused, blocks)
        if feedback is not None:
            _launch(passes.topk_residual, blocks, *inputs, feedback.residual, bits, out, refused, blocks)


def total_of(group_sums: list[float]) -> float:
    """One after the other, as the reference adds them."""
    total = 0.0
    for group_sum in group_sums:
        total += group_sum
    return total


def _group_sums(sums: Tensor) -> Tensor:
    blocks = sums.numel()
    groups = -(-blocks // BLOCKS_PER_GROUP)
    out = torch.empty(groups, dtype=torch.float64, device=sums.device)
    if groups:
        with torch.cuda.device_of(sums):
            squares.group_sums[(-(-groups // squares.GROUPS_A_PROGRAM),)](sums, out, blocks, **OPTIONS)
    return out


def _launch(kernel: Any, blocks: int, *arguments: Any, **constants: Any) -> None:
    """A program per tile of the vector's blocks, on the device that the first argument lies on."""
    if blocks:
        with torch.cuda.device_of(arguments[0]):
            kernel[(-(-blocks // TILE_BLOCKS),)](*arguments, **constants, **OPTIONS)


def _bits(value: float) -> int:
    """Of the nearest fp32, as a signed integer."""
    bits: int = struct.unpack("<i", struct.pack("<f", value))[0]
    return bits


def _no_index(like: Tensor) -> Tensor:
    return torch.full((1,), _NO_INDEX, dtype=torch.int64, device=like.device)


def _index(first: Tensor) -> int | None:
    index = int(first.item())
    return None if index == _NO_INDEX else index
