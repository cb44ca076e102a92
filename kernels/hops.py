"""A ring's hops on ranges of two vectors that are checked once: a frame has some 30 microseconds of work in it, and the
checks of `ops.ring_hop` and two slices of tensors take as long, where every cache is full of payload.

Owns addresses within the two vectors. The vectors live as long as this does.
"""

import ctypes

from torch import Tensor

from intellectd.kernels.checks import check_bytes, check_divisor, check_overlap, check_scalar
from intellectd.kernels.codec import Codec
from intellectd.kernels.interface import Kernels
from intellectd.kernels.native import Native
from intellectd.kernels.ops import as_bytes, in_use


class Hops:
    """Positions are bytes [start, stop) of both vectors, at whole groups but for the vectors' end; ValueError where
    they are not in them."""

    def __init__(self, codec: Codec, own: Tensor, out: Tensor, weight: float, divisor: float) -> None:
        """`own`, `out`: uint8, encoded vectors of one length on the CPU. Raises ValueError as `ops.ring_hop` does."""
        if not codec.may_reencode:
            raise ValueError(f"{codec.name} loses too much to be encoded anew at each hop of a ring")
        check_bytes(codec, codec.elements(own.numel()), own=own, out=out)
        check_overlap(out, own)
        if own.device.type != "cpu" or out.device.type != "cpu":
            raise ValueError(f"the vectors lie on {own.device} and {out.device}; hops are for the CPU")
        check_divisor(divisor)
        self._codec, self._own, self._out, self._bytes = codec, own, out, own.numel()
        self._weight, self._divisor = check_scalar("weight", weight), divisor
        self._kernels: Kernels = in_use()
        self._native = self._kernels if isinstance(self._kernels, Native) else None
        self._own_at, self._out_at = own.data_ptr(), out.data_ptr()
        self._counted: dict[int, int] = {}  # elements, by bytes: of a few sizes

    def start(self, start: int, stop: int, room: memoryview) -> bool:
        """room <- enc(weight * dec(own)), of stop - start bytes. True if all of it was finite."""
        elements = self._elements(start, stop)
        if room.nbytes != stop - start or room.readonly:
            raise ValueError(f"a room of {room.nbytes} bytes for {stop - start}, or one that is read-only")
        if self._native is None:
            own = self._own[start:stop]
            return self._kernels.ring_hop(self._codec, None, own, self._weight, None, as_bytes(room))
        place = ctypes.addressof(ctypes.c_char.from_buffer(room))
        return self._native.hop_at(self._codec, elements, None, self._own_at + start, self._weight, None, place)

    def add(self, start: int, stop: int, divides: bool) -> bool:
        """out <- enc((dec(out) + weight * dec(own)) / divisor), undivided if not `divides`. True if all was finite."""
        elements, divisor = self._elements(start, stop), self._divisor if divides else None
        if self._native is None:
            own, out = self._own[start:stop], self._out[start:stop]
            return self._kernels.ring_hop(self._codec, out, own, self._weight, divisor, out)
        place = self._out_at + start
        return self._native.hop_at(self._codec, elements, place, self._own_at + start, self._weight, divisor, place)

    def finite(self, start: int, stop: int) -> bool:
        """Whether all of that range of `out` decodes to finite numbers."""
        elements = self._elements(start, stop)
        if self._native is None:
            return self._kernels.finite(self._codec, self._out[start:stop])
        return self._native.finite_at(self._codec, elements, self._out_at + start)

    def _elements(self, start: int, stop: int) -> int:
        if not 0 <= start <= stop <= self._bytes:
            raise ValueError(f"bytes {start} to {stop} of a vector of {self._bytes}")
        found = self._counted.get(stop - start)
        if found is None:
            found = self._counted[stop - start] = self._codec.elements(stop - start)
        return found
