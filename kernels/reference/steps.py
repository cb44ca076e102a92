"""The outer optimizers, each multiply and add by itself, in the order written.

Nesterov momentum as DiLoCo has it (arXiv 2311.08105), plain averaging (FedAvg where lr is 1), delayed Nesterov
(arXiv 2401.09135, with c = 0).
"""

import torch
from torch import Tensor

from intellectd.kernels.codec import Codec
from intellectd.kernels.outer import AverageStep, DelayedNesterovStep, NesterovStep, OuterStep, OuterVectors
from intellectd.kernels.reference.bits import fp32
from intellectd.kernels.reference.groups import decode_group, groups


@torch.no_grad()
def outer_step(codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int = 1) -> None:
    for first, last in groups(vectors.theta.numel()):
        d = decode_group(codec, update, first, last)
        part = vectors.slice(first, last)
        match step:
            case NesterovStep():
                moved = _nesterov(d, step, part)
            case AverageStep():
                moved = d
            case DelayedNesterovStep():
                moved = _delayed(d, step, part)
        part.theta.copy_(part.theta - fp32(step.lr) * moved)


def _nesterov(d: Tensor, step: NesterovStep, part: OuterVectors) -> Tensor:
    assert part.momentum is not None
    m = fp32(step.mu) * part.momentum + d
    part.momentum.copy_(m)
    return d + fp32(step.mu) * m


def _delayed(d: Tensor, step: DelayedNesterovStep, part: OuterVectors) -> Tensor:
    assert part.momentum is not None and part.gathered is not None
    share = d / fp32(step.delay)
    gathered = part.gathered + d
    if not step.turn:
        part.gathered.copy_(gathered)
        return share
    m = fp32(step.mu) * part.momentum + gathered / fp32(step.delay)
    part.momentum.copy_(m)
    part.gathered.zero_()
    return share + fp32(step.mu) * m
