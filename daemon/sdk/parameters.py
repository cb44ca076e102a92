"""A model's trainable parameters as one flat fp32 vector in Layout order, and back.

Owns which tensors count (those with requires_grad, tied weights once, in the model's own order) and the casts.
Refuses to know where the vector lies: it may be memory shared with the daemon.
"""

import struct
import sys
from bisect import bisect_right
from collections.abc import Iterator

import torch

from intellectd.daemon.sdk.errors import ModelUnsupported
from intellectd.daemon.sdk.placed import placed
from intellectd.kernels.layout import Layout, LayoutError, TensorSpec, plain_name

# Of what is loaded in fp32 these keep a part. A trainer hands over the rest with what it made of that part: else the
# agreed parameters would be drawn to what bf16 can tell apart, and what all learn by less than half of that be lost.
NARROW = (torch.bfloat16, torch.float16)
PIECE_ELEMENTS = 2**22  # of a narrow tensor at a time: 8 MiB beside it, on its device and on the host


class Parameters:
    """Buffers (running means and the like) are not averaged: they stay each trainer's own.

    Of a model that is sharded over ranks (DTensors, as of `fully_shard`) this process stores and loads its own part.
    """

    def __init__(self, model: torch.nn.Module, rank: int = 0, ranks: int = 1) -> None:
        self._model = _unwrapped(model)
        _refuse_flat_shards(self._model)
        reshard(self._model)
        whole = self._model.named_parameters()
        named = [(plain_name(name), p) for name, p in whole if p.requires_grad]
        for name, parameter in named:
            if parameter.is_meta:
                raise ModelUnsupported(f"parameter {name!r} is on the meta device", "materialize the model first")
            if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
                raise ModelUnsupported(
                    f"parameter {name!r} of a lazy module has no shape yet", "run the model once first"
                )
        try:
            self.layout = Layout([TensorSpec(name, tuple(p.shape), _dtype(p)) for name, p in named])
        except LayoutError as error:
            hint = "pass the module that holds its parameters; requires_grad_(False) leaves one of them out"
            raise ModelUnsupported(f"the model cannot be averaged: {error}", hint) from error
        self._tensors = [parameter for _, parameter in named]
        self._offsets = [slot.offset for slot in self.layout.slots]
        self._placed = [placed(slot, p, rank) for slot, p in zip(self.layout.slots, self._tensors, strict=True)]
        self._is_whole = ranks == 1 and not any(part.sharded for part in self._placed)

    @property
    def device(self) -> torch.device | None:
        """Where all of them lie whole, each in one run of memory; None where that is not so."""
        devices = {tensor.device for tensor in self._tensors}
        whole = self._is_whole and all(tensor.is_contiguous() for tensor in self._tensors)
        return devices.pop() if len(devices) == 1 and whole else None

    def mapped(self, descriptor: int) -> None:
        """A new arena is there, behind this descriptor, before anything is stored to it."""

    def to_wire(self) -> list[list[object]]:
        """[[name, shape, dtype], ...] as the attach frame carries them."""
        slots = zip(self.layout.slots, self._tensors, strict=True)
        return [[slot.name, list(slot.shape), _dtype(tensor)] for slot, tensor in slots]

    @torch.no_grad()
    def fingerprint(self) -> bytes:
        """The same on ranks that hold the same: a sum of each tensor that is not sharded."""
        sums = [part.local().sum(dtype=torch.float64).item() for part in self._placed if not part.sharded]
        return struct.pack(f"<{len(sums)}d", *sums)

    @torch.no_grad()
    def store(self, flat: torch.Tensor) -> None:
        """Parameters into `flat`, straight from their device; padding is left alone (it stays zero)."""
        for part in self._placed:
            if part.writes:
                part.place(flat).copy_(part.local())

    @torch.no_grad()
    def store_trained(self, flat: torch.Tensor) -> None:
        """Likewise, of parameters that `flat` was loaded into (zeros, where that is gone): what they are now, and what
        rounding had taken of what was loaded."""
        for part in self._placed:
            if part.writes:
                for place, values in _pieces(part.place(flat), part.local()):
                    _take(place, values)

    @torch.no_grad()
    def load(self, flat: torch.Tensor) -> None:
        reshard(self._model)
        for part in self._placed:
            if not part.box.empty:
                part.local().copy_(part.place(flat))

    @torch.no_grad()
    def store_piece(self, piece: torch.Tensor, first: int, loaded: torch.Tensor | None = None) -> None:
        """Elements [first, first + len(piece)) of the flat vector into `piece`, padding included. `loaded`: the same
        elements of what the parameters were loaded from, as for `store_trained`."""
        if loaded is None:
            piece.zero_()
        else:
            piece.copy_(loaded)
        for part, values in self._parts(piece, first):
            _take(part, values)

    @torch.no_grad()
    def load_piece(self, piece: torch.Tensor, first: int) -> None:
        for part, values in self._parts(piece, first):
            values.copy_(part)

    @torch.no_grad()
    def take_rest(self, base: torch.Tensor, piece: torch.Tensor, first: int) -> None:
        """From `base` what the parameters have no room for of the piece that they were loaded from."""
        for (part, values), (place, _) in zip(self._parts(piece, first), self._parts(base, first), strict=True):
            if values.dtype in NARROW:
                place.sub_(part - values)

    def _parts(self, piece: torch.Tensor, first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What the piece has of each tensor: its place in the piece, and in the tensor. For contiguous ones."""
        last = first + piece.numel()
        for at in range(bisect_right(self._offsets, first) - 1, len(self._tensors)):
            slot = self.layout.slots[at]
            start, stop = max(first, slot.offset), min(last, slot.offset + slot.size)
            if slot.offset >= last:
                return
            if start < stop:
                values = self._tensors[at].detach().view(-1)[start - slot.offset : stop - slot.offset]
                yield piece[start - first : stop - first], values


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Not what DDP makes of it, or this host would have other names than one with a single GPU."""
    while True:
        inner = model._modules.get("_orig_mod")  # torch.compile's, of whose kind torch has no public name
        if isinstance(model, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _refuse_flat_shards(model: torch.nn.Module) -> None:
    """Those of FSDP of before `fully_shard` look whole, and of one shape on all ranks: rank 0's would be loaded by all.
    Raises ModelUnsupported."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FullyShardedDataParallel", ())
    for name, module in model.named_modules():
        if isinstance(module, kind) and module.sharding_strategy.name != "NO_SHARD":
            raise ModelUnsupported(
                f"module {name or 'at the top'!r} is sharded by FullyShardedDataParallel, into pieces of no shape",
                "shard it with `fully_shard`, which keeps each parameter's own",
            )


def reshard(model: torch.nn.Module) -> None:
    """After a forward without a backward, as in an evaluation, FSDP2 leaves what the outermost module holds gathered in
    place of its shards: the next forward would compute with that, whatever the shards hold by then."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # else no module is one of its kind
    kind = getattr(fsdp, "FSDPModule", ())
    for module in model.modules():
        if isinstance(module, kind):
            module.reshard()


def _take(place: torch.Tensor, values: torch.Tensor) -> None:
    """What `place` has beyond the values' dtype stays, and is 0 where it holds 0."""
    if values.dtype in NARROW:
        place.sub_(place.to(values.dtype)).add_(values.to(place.device))
    else:
        place.copy_(values)


def _pieces(place: torch.Tensor, values: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Both of one shape, rows of it after rows where a copy in between should not be large."""
    if values.dtype not in NARROW or values.dim() == 0:
        yield place, values
        return
    rows = max(1, PIECE_ELEMENTS * max(1, values.shape[0]) // max(1, values.numel()))
    yield from zip(torch.split(place, rows), torch.split(values, rows), strict=True)


def _dtype(parameter: torch.Tensor) -> str:
    return str(parameter.dtype).removeprefix("torch.")
