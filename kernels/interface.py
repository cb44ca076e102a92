"""What an implementation of the kernels provides: `reference` is one, `native.load()` gives another.

Owns the signatures between `ops` and the implementations. Tensors arrive checked; scalars are finite in fp32. Only
CPU vectors: flat, contiguous, fp32 of n elements or uint8 of the codec's bytes for n. `threads` is how many may work
at once; it changes no bit.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from intellectd.kernels.codec import Codec
from intellectd.kernels.outer import OuterStep, OuterVectors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Feedback:
    """Error feedback: `decay * error` is added to a delta before it is encoded, `residual` takes what the encoding
    loses. Both fp32 of the delta's length; they may be the same vector, when no retry needs the old error.

    The new error counts only if the peer's own delta is committed; until then `error` stands.
    """

    error: "Tensor"
    decay: float
    residual: "Tensor"


class Kernels(Protocol):
    """Indexes returned are of the first element that could not be encoded."""

    def encode(self, codec: Codec, x: "Tensor", out: "Tensor", threads: int = 1) -> int | None: ...

    def encode_delta(
        self,
        codec: Codec,
        anchor: "Tensor",
        local: "Tensor",
        out: "Tensor",
        feedback: Feedback | None = None,
        threads: int = 1,
    ) -> tuple[float, int | None]:
        """Also the sum of squares of anchor - local, which means nothing when an element was refused."""
        ...

    def decode(self, codec: Codec, enc: "Tensor", out: "Tensor", threads: int = 1) -> None: ...

    def decode_add(self, codec: Codec, enc: "Tensor", weight: float, total: "Tensor", threads: int = 1) -> None: ...

    def encode_mean(
        self, codec: Codec, total: "Tensor", divisor: float, out: "Tensor", threads: int = 1
    ) -> int | None: ...

    def ring_hop(
        self,
        codec: Codec,
        incoming: "Tensor | None",
        own: "Tensor",
        weight: float,
        divisor: float | None,
        out: "Tensor",
        threads: int = 1,
    ) -> bool: ...

    def outer_step(
        self, codec: Codec, update: "Tensor", step: OuterStep, vectors: OuterVectors, threads: int = 1
    ) -> None: ...

    def subtract_into(self, anchor: "Tensor", x: "Tensor", threads: int = 1) -> None: ...

    def finite(self, codec: Codec, enc: "Tensor", threads: int = 1) -> bool: ...
