"""What an implementation of the kernels provides: `reference` is one, `native.load()` gives another.

Owns the signatures between `ops` and the implementations. Tensors arrive checked; scalars are finite in fp32.
"""

from typing import Protocol

from torch import Tensor

from intellectd.kernels.codec import Codec


class Kernels(Protocol):
    """Indexes returned are of the first element that could not be encoded."""

    def encode(self, codec: Codec, x: Tensor, out: Tensor) -> int | None: ...

    def encode_delta(self, codec: Codec, anchor: Tensor, local: Tensor, out: Tensor) -> tuple[float, int | None]:
        """Also the sum of squares, which means nothing when an element was refused."""
        ...

    def decode(self, codec: Codec, enc: Tensor, out: Tensor) -> None: ...

    def ring_hop(
        self,
        codec: Codec,
        incoming: Tensor | None,
        own: Tensor,
        weight: float,
        divisor: float | None,
        out: Tensor,
    ) -> bool: ...

    def outer_step(
        self, codec: Codec, update: Tensor, theta: Tensor, momentum: Tensor, lr: float, mu: float
    ) -> None: ...

    def subtract_into(self, anchor: Tensor, x: Tensor) -> None: ...

    def finite(self, codec: Codec, enc: Tensor) -> bool: ...
