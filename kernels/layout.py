"""Where each tensor of a model lies in the one flat fp32 vector that peers exchange.

Owns offsets, padding and the limits on what a peer may claim. Refuses to know values: it never sees a tensor,
does not import torch, and treats every list from the wire as hostile.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

# One codec block: a tensor starts on a block of its own, so no scale is shared by two tensors.
ALIGNMENT = 256
# 4 TiB of fp32, an order above the largest dense model trained so far; keeps offsets far inside int64.
ELEMENTS_MAX = 2**40
# A mixture of 256 experts in 100 layers with 3 matrices each is 76,800 tensors.
TENSORS_MAX = 100_000
# torch itself stops being useful above 8 dimensions; names are dotted module paths. Both bound hostile input.
DIMENSIONS_MAX = 16
NAME_CHARACTERS_MAX = 512  # and so many a manifest takes
# What a trainer may hold; the flat vector is fp32 whichever it is.
FLOAT_DTYPES = ("bfloat16", "float16", "float32", "float64")


# What torch puts into names for who wraps a module: torch.compile, FSDP of before `fully_shard`, checkpoint_wrapper.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class LayoutError(ValueError):
    """The list of tensors cannot be laid out; the text names the tensor and what to change."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor as the trainer declares it; dtype without torch's prefix ("float32")."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Slot:
    """One tensor's place: `size` elements from `offset`, zeros from there to the next multiple of 256."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Layout:
    """The order given is the order in the vector: two layouts are equal when names, shapes and order are."""

    __slots__ = ("_offsets", "elements", "slots")

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        if not specs:
            raise LayoutError("the model has no tensors; declare at least one")
        if len(specs) > TENSORS_MAX:
            raise LayoutError(f"{len(specs)} tensors, at most {TENSORS_MAX} are supported; stack some of them")
        slots: list[Slot] = []
        seen: dict[str, None] = {}
        end = 0
        for spec in specs:
            _check_spec(spec)
            if spec.name in seen:
                raise LayoutError(f"tensor {spec.name!r} is listed twice; list tied weights once")
            seen[spec.name] = None
            size = prod(spec.shape)
            slots.append(Slot(spec.name, spec.shape, end, size))
            end += -(-size // ALIGNMENT) * ALIGNMENT
            if end > ELEMENTS_MAX:
                raise LayoutError(f"more than {ELEMENTS_MAX} elements up to tensor {spec.name!r} {spec.shape}")
        self.slots = tuple(slots)
        self.elements = end
        self._offsets = [slot.offset for slot in slots]

    @property
    def parameters(self) -> int:
        """Without the padding between tensors: what people count."""
        return sum(slot.size for slot in self.slots)

    def find(self, element_index: int) -> str:
        """Name of the tensor that holds this element (its padding included)."""
        if not 0 <= element_index < self.elements:
            raise LayoutError(f"element {element_index} is outside the vector of {self.elements}")
        return self.slots[bisect_right(self._offsets, element_index) - 1].name

    def to_wire(self) -> list[list[object]]:
        return [[slot.name, list(slot.shape)] for slot in self.slots]

    @classmethod
    def from_wire(cls, wire: object) -> "Layout":
        """Build from a peer's `[[name, [dimension, ...]], ...]`; LayoutError on anything else."""
        if not isinstance(wire, list | tuple):
            raise LayoutError(f"a layout is a list of [name, shape], not {type(wire).__name__}")
        if len(wire) > TENSORS_MAX:  # before building anything of that length
            raise LayoutError(f"{len(wire)} tensors, at most {TENSORS_MAX} are supported")
        return cls([_spec_from_wire(entry) for entry in wire])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.slots == other.slots

    def __hash__(self) -> int:
        return hash(self.slots)

    def __repr__(self) -> str:
        return f"Layout({len(self.slots)} tensors, {self.elements} elements)"


def plain_name(name: str) -> str:
    """The same for a parameter of a module and of that module wrapped."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _spec_from_wire(entry: object) -> TensorSpec:
    if not isinstance(entry, list | tuple) or len(entry) != 2:
        raise LayoutError("a tensor on the wire is [name, shape]")
    name, shape = entry
    if not isinstance(name, str) or not isinstance(shape, list | tuple):
        raise LayoutError("a tensor on the wire is [name: text, shape: list of integers]")
    return TensorSpec(name, tuple(shape))


def _check_spec(spec: TensorSpec) -> None:
    if not 0 < len(spec.name) <= NAME_CHARACTERS_MAX:
        raise LayoutError(f"a tensor name has 1 to {NAME_CHARACTERS_MAX} characters, not {len(spec.name)}")
    if len(spec.shape) > DIMENSIONS_MAX:
        raise LayoutError(f"tensor {spec.name!r} has {len(spec.shape)} dimensions, at most {DIMENSIONS_MAX}")
    for dimension in spec.shape:
        # bool is an int to Python, but True is no dimension
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension <= 0:
            raise LayoutError(f"tensor {spec.name!r} has dimension {dimension!r}; each must be an integer above 0")
        if dimension > ELEMENTS_MAX:
            raise LayoutError(f"tensor {spec.name!r} has a dimension above {ELEMENTS_MAX}")
    if spec.dtype not in FLOAT_DTYPES:
        raise LayoutError(f"tensor {spec.name!r} is {spec.dtype}, only {', '.join(FLOAT_DTYPES)} average; leave it out")
