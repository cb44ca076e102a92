"""The arithmetic of every kernel in plain torch: what the bits must be. Every other implementation gives the same.

Slow and obvious on purpose, a file per codec. Arguments arrive checked by `ops`. Works a group at a time: below
torch's 32,768 element grain an operation stays in the calling thread, where flush-to-zero is known to be off.
"""

from intellectd.kernels.reference.passes import (
    decode,
    decode_add,
    encode,
    encode_delta,
    encode_mean,
    finite,
    ring_hop,
    subtract_into,
)
from intellectd.kernels.reference.steps import outer_step

__all__ = [
    "decode",
    "decode_add",
    "encode",
    "encode_delta",
    "encode_mean",
    "finite",
    "outer_step",
    "ring_hop",
    "subtract_into",
]
