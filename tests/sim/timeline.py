"""What is to happen when, in order: of two of one moment the one that was said first.

Owns the order, as a binary heap of its own: compiled, two moments are compared as the numbers they are, which for
`heapq` are objects in tuples.
"""

from collections.abc import Callable
from typing import Any


class Moment:
    """What is to happen, by a method of whoever is made from this."""

    def __init__(self) -> None:
        self.at, self.number = 0.0, 0

    def happen(self) -> None:
        raise NotImplementedError


class Call(Moment):
    def __init__(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.action, self.arguments = action, arguments

    def happen(self) -> None:
        self.action(*self.arguments)


class Timeline:
    def __init__(self) -> None:
        self._heap: list[Moment] = []
        self._count = 0

    def next_at(self) -> float:
        """Seconds; infinity when there is nothing more."""
        return self._heap[0].at if self._heap else float("inf")

    def push(self, at: float, new: Moment) -> None:
        self._count += 1
        new.at, new.number, heap = at, self._count, self._heap
        place = len(heap)
        heap.append(new)
        while place > 0:
            above = (place - 1) >> 1
            parent = heap[above]
            if parent.at <= at:  # of equals the older one stays above
                break
            heap[place] = parent
            place = above
        heap[place] = new

    def pop(self) -> Moment:
        """The next one. Raises IndexError when there is none."""
        heap = self._heap
        last = heap.pop()
        if not heap:
            return last
        first, place, below, end = heap[0], 0, 1, len(heap)
        while below < end:
            child = heap[below]
            if below + 1 < end:
                other = heap[below + 1]
                if other.at < child.at or (other.at == child.at and other.number < child.number):
                    child, below = other, below + 1
            if last.at < child.at or (last.at == child.at and last.number < child.number):
                break
            heap[place] = child
            place, below = below, 2 * below + 1
        heap[place] = last
        return first
