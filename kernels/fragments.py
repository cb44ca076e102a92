"""Fragments: parts of a model that are synchronised each on its own schedule; and the chunks a fragment travels in.

Owns where each fragment lies in the arena. A fragment is a vector by itself (a Layout), so it is encoded, reduced and
stepped like a whole model; it starts at a multiple of a digest's leaf, so its leaves are its own. One fragment is the
whole model, at 0. Refuses to know schedules; does not import torch.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from intellectd.kernels.codec import GROUP
from intellectd.kernels.digest import LEAF_BYTES
from intellectd.kernels.layout import ELEMENTS_MAX, TENSORS_MAX, Layout, LayoutError, TensorSpec

ALIGNMENT = LEAF_BYTES // 4  # elements: a leaf, 16 groups; at most 1 MiB of padding a fragment
FRAGMENTS_MAX = 1024  # one a layer, of the deepest models so far several times over


@dataclass(frozen=True)
class Fragment:
    """Elements [start, stop) of the arena; up to the next fragment follow zeros that belong to nobody."""

    index: int
    start: int
    layout: Layout

    @property
    def stop(self) -> int:
        return self.start + self.layout.elements

    def chunks(self, elements: int) -> Iterator[tuple[int, int]]:
        """[first, last) of the fragment's own elements, `elements` at a time: a multiple of a codec's group."""
        if elements <= 0 or elements % GROUP:
            raise LayoutError(f"a chunk has a multiple of {GROUP} elements, not {elements}")
        for first in range(0, self.layout.elements, elements):
            yield first, min(first + elements, self.layout.elements)


class Fragments:
    """The arena of a model in parts, in the order given. Raises LayoutError."""

    __slots__ = ("_starts", "elements", "parts")

    def __init__(self, layouts: Sequence[Layout]) -> None:
        if not 0 < len(layouts) <= FRAGMENTS_MAX:
            raise LayoutError(f"a model has 1 to {FRAGMENTS_MAX} fragments, not {len(layouts)}")
        parts: list[Fragment] = []
        seen: dict[str, None] = {}
        end = 0
        for index, layout in enumerate(layouts):
            for slot in layout.slots:
                if slot.name in seen:
                    raise LayoutError(f"tensor {slot.name!r} is in two fragments")
                seen[slot.name] = None
            start = -(-end // ALIGNMENT) * ALIGNMENT
            parts.append(Fragment(index, start, layout))
            end = start + layout.elements
            if end > ELEMENTS_MAX or len(seen) > TENSORS_MAX:
                raise LayoutError(f"more than {ELEMENTS_MAX} elements or {TENSORS_MAX} tensors up to fragment {index}")
        self.parts = tuple(parts)
        self.elements = end
        self._starts = [part.start for part in parts]

    def find(self, element_index: int) -> str:
        """Name of the tensor that holds this element of the arena. Raises LayoutError between fragments too."""
        part = self.parts[max(0, bisect_right(self._starts, element_index) - 1)]
        return part.layout.find(element_index - part.start)


def strided(specs: Sequence[TensorSpec], count: int, layer_of: Callable[[str], int | None]) -> list[Layout]:
    """Streaming DiLoCo's fragments (arXiv 2501.18512): layer l goes to number l modulo `count`, so that each has layers
    of every depth; tensors of no layer go to the first. Raises LayoutError when one would be empty."""
    parts: list[list[TensorSpec]] = [[] for _ in range(count)]
    for spec in specs:
        layer = layer_of(spec.name)
        parts[0 if layer is None else layer % count].append(spec)
    for index, part in enumerate(parts):
        if not part:
            raise LayoutError(f"fragment {index} of {count} has no tensor; use fewer fragments")
    return [Layout(part) for part in parts]


def layer_number(name: str) -> int | None:
    """The first number in a dotted name, as modules in a list have it: 7 in `model.layers.7.mlp.weight`."""
    return next((int(part) for part in name.split(".") if part.isascii() and part.isdigit()), None)
