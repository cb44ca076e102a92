"""The delta encoded on the device where the model is, so that a quarter of its bytes (int8) crosses to the host.

Owns the anchor's copy on that device, 4 bytes a parameter, and the carrying over of work that only this process
has. Refuses to know who takes the bytes. The bits are those that the daemon would have made of the parameters.
"""

import logging
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intellectd.daemon.sdk.parameters import Parameters
from intellectd.kernels.codec import GROUP, Codec, codec_by_name
from intellectd.kernels.device import DeviceUnavailable, load, trusted
from intellectd.kernels.outer import is_fp32

if TYPE_CHECKING:
    from intellectd.kernels.cuda.launch import Triton

log = logging.getLogger("intellectd")

ENCODE_ENV = "INTELLECTD_ENCODE"
HOST = "host"  # its one value: the daemon encodes, the parameters cross whole
# Of the vector at a time: 64 MiB of fp32, in which a launch and a wait for it are a hundredth, and whole groups.
PIECE_ELEMENTS = 2**24


@dataclass(frozen=True)
class Encoded:
    """What goes with the bytes: the codec, the delta's norm (fp32 hex), the first element that cannot be encoded."""

    codec: str
    norm: str
    refused: int | None


class DeviceEncoder:
    def __init__(self, parameters: Parameters, device: torch.device, kernels: "Triton") -> None:
        self._parameters, self._device, self._kernels = parameters, device, kernels
        self._anchor: Tensor | None = None
        self._began_there = False  # the model was loaded from the anchor alone, as it is here

    def check(self, codec_name: str) -> None:
        """Raises DeviceUnavailable unless the kernels give the reference's bits on this device."""
        trusted(self._device, codec_by_name(codec_name))

    @property
    def holds_anchor(self) -> bool:
        return self._anchor is not None

    def load(self, flat: Tensor) -> None:
        """A new anchor, also into the model. Raises torch.OutOfMemoryError."""
        if self._anchor is None:
            self._anchor = torch.empty(flat.numel(), dtype=torch.float32, device=self._device)
        self._anchor.copy_(flat)
        self._parameters.load(self._anchor)
        self._began_there = True

    def carry_over(self, flat: Tensor) -> None:
        """A new anchor, and into the model that less the work since the last one: θ_new − (θ_old − local). What a bf16
        model has no room for of that is taken off the anchor here: the next delta is as if the model had it."""
        anchor = self._known_anchor()
        for first, x in self._pieces():
            part = slice(first, first + x.numel())
            self._parameters.store_piece(x, first, self._loaded(part))
            self._kernels.subtract_into(anchor[part], x)
            anchor[part].copy_(flat[part])
            self._kernels.subtract_into(anchor[part], x)
            self._parameters.load_piece(x, first)
            self._parameters.take_rest(anchor[part], x, first)
        self._began_there = False

    def encode(self, codec_name: str, out: Tensor) -> Encoded:
        """enc(anchor − model) to the beginning of `out`, bytes in the host's memory."""
        from intellectd.kernels.cuda.launch import total_of

        codec, anchor = codec_by_name(codec_name), self._known_anchor()
        sums: list[float] = []
        refused: int | None = None
        enc = torch.empty(self._encoded_bytes(codec), dtype=torch.uint8, device=self._device)
        for first, x in self._pieces():
            self._parameters.store_piece(x, first, self._loaded(slice(first, first + x.numel())))
            start, stop = codec.byte_range(first, first + x.numel())
            piece = enc[: stop - start]
            of_groups, found = self._kernels.encode_delta_groups(codec, anchor[first : first + x.numel()], x, piece)
            out[start:stop].copy_(piece)
            sums += of_groups.tolist()
            refused = first + found if refused is None and found is not None else refused
        norm = math.nan if refused is not None else math.sqrt(total_of(sums))
        if refused is None and not is_fp32(norm):  # of elements that each can be encoded
            norm, refused = math.nan, self._largest(sums.index(max(sums)) * GROUP)
        return Encoded(codec.name, struct.pack(">f", norm).hex(), refused)

    def _largest(self, first: int) -> int:
        """Index of the element of the delta that is largest in magnitude, in the group that begins at `first`."""
        anchor = self._known_anchor()[first : first + GROUP]
        x = torch.empty_like(anchor)
        self._parameters.store_piece(x, first, self._loaded(slice(first, first + GROUP)))
        return first + int((anchor - x).abs().argmax())

    def _loaded(self, part: slice) -> Tensor | None:
        return self._known_anchor()[part] if self._began_there else None

    def _known_anchor(self) -> Tensor:
        if self._anchor is None:
            raise RuntimeError("no anchor was loaded: nothing can be told from it")
        return self._anchor

    def _encoded_bytes(self, codec: Codec) -> int:
        return codec.encoded_bytes(min(PIECE_ELEMENTS, self._parameters.layout.elements))

    def _pieces(self) -> Iterator[tuple[int, Tensor]]:
        """Room on the device for a piece of the vector, with the index of its first element, piece after piece."""
        elements = self._parameters.layout.elements
        room = torch.empty(min(PIECE_ELEMENTS, elements), dtype=torch.float32, device=self._device)
        for first in range(0, elements, PIECE_ELEMENTS):
            yield first, room[: elements - first]


def encoder_for(parameters: Parameters) -> DeviceEncoder | None:
    """What this model's process can encode with, if it can. Says in the log why a GPU is not made use of."""
    device = parameters.device
    if device is None or os.environ.get(ENCODE_ENV) == HOST:
        return None
    try:
        return DeviceEncoder(parameters, device, load(device))
    except DeviceUnavailable as why:
        if device.type == "cuda":
            log.info("deltas are encoded by the daemon, the parameters cross whole: %s", why)
        return None
