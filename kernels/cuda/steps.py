"""The outer optimizers in Triton: decode + step, in place. As reference/steps.py."""

import triton
import triton.language as tl

from intellectd.kernels.cuda.bits import float_of
from intellectd.kernels.cuda.codecs import decode_tile
from intellectd.kernels.cuda.tiles import quarter, tile_rows

NESTEROV, AVERAGE, DELAYED, DELAYED_TURN = range(4)
_NESTEROV, _AVERAGE, _TURN = tl.constexpr(NESTEROV), tl.constexpr(AVERAGE), tl.constexpr(DELAYED_TURN)


@triton.jit(do_not_specialize=["lr", "mu", "delay", "blocks"])
def outer_step(enc, theta, momentum, gathered, lr, mu, delay, blocks, CODEC: tl.constexpr, OPTIMIZER: tl.constexpr):
    """lr, mu and delay are bits of fp32 numbers."""
    rows = tile_rows()
    inside = (rows < blocks)[:, None]
    d0, d1, d2, d3, _ = decode_tile(CODEC, enc, rows, blocks)
    lr, mu, delay = float_of(lr), float_of(mu), float_of(delay)
    _step(d0, quarter(rows, 0), inside, theta, momentum, gathered, lr, mu, delay, OPTIMIZER)
    _step(d1, quarter(rows, 1), inside, theta, momentum, gathered, lr, mu, delay, OPTIMIZER)
    _step(d2, quarter(rows, 2), inside, theta, momentum, gathered, lr, mu, delay, OPTIMIZER)
    _step(d3, quarter(rows, 3), inside, theta, momentum, gathered, lr, mu, delay, OPTIMIZER)


@triton.jit
def _step(d, at, inside, theta, momentum, gathered, lr, mu, delay, OPTIMIZER: tl.constexpr):
    if OPTIMIZER == _AVERAGE:
        moved = d
    elif OPTIMIZER == _NESTEROV:
        m = mu * tl.load(momentum + at, mask=inside, other=0.0) + d
        tl.store(momentum + at, m, mask=inside)
        moved = d + mu * m
    else:
        moved = _delayed(d, at, inside, momentum, gathered, mu, delay, OPTIMIZER)
    tl.store(theta + at, tl.load(theta + at, mask=inside, other=0.0) - lr * moved, mask=inside)


@triton.jit
def _delayed(d, at, inside, momentum, gathered, mu, delay, OPTIMIZER: tl.constexpr):
    share = tl.div_rn(d, delay)
    total = tl.load(gathered + at, mask=inside, other=0.0) + d
    if OPTIMIZER == _TURN:
        m = mu * tl.load(momentum + at, mask=inside, other=0.0) + tl.div_rn(total, delay)
        tl.store(momentum + at, m, mask=inside)
        tl.store(gathered + at, tl.zeros_like(total), mask=inside)
        share = share + mu * m
    else:
        tl.store(gathered + at, total, mask=inside)
    return share
