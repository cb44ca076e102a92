"""What a schedule tells one member: what to send at first, and what each arrival means.

Owns the vocabulary. All member numbers are positions in the plan's list. A chunk goes through numbered steps; in each
one member sends it to one or several others. No member gets a chunk from the same neighbour more than twice: once as a
part of the sum, once as the result. Of a chunk a schedule asks who its owner is, and nothing else: all of a slice go
the same way.
"""

import enum
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from intellectd.daemon.bulk.schedules.chunks import Chunk


class Content(enum.Enum):
    """What a frame is filled with."""

    START = enum.auto()  # this host's weighted part
    HELD = enum.auto()  # the chunk's place in `out` as it is
    OWN = enum.auto()  # this host's delta as it was encoded


class Action(enum.Enum):
    """What to do with what arrives. W is the sum of the weights, w this host's, x its delta."""

    ADD = enum.auto()  # out <- incoming + w x
    FINISH = enum.auto()  # out <- (incoming + w x) / W
    MERGE = enum.auto()  # out <- incoming + out, when out holds its row's sum
    MERGE_FINISH = enum.auto()  # out <- (incoming + out) / W, likewise
    GATHER = enum.auto()  # to the sum in fp32, in the members' order; complete, out <- sum / W
    STORE = enum.auto()  # out <- incoming, which is the result


ROW_ENDS = (Action.MERGE, Action.MERGE_FINISH)


class Send(NamedTuple):
    to: int
    chunk: int
    step: int
    content: Content = Content.HELD


class Arrival(NamedTuple):
    source: int
    action: Action
    then: tuple[Send, ...] = ()
    ends_row: bool = False  # from here on `out` holds the row's sum


class Program(Protocol):
    @property
    def chunks(self) -> tuple[Chunk, ...]: ...

    parts_from_own: bool  # parts leave from this host's delta as it was encoded, which no result overwrites

    def begin(self) -> Iterator[Send]:
        """What waits for nothing, in order."""
        ...

    def steps_here(self, chunk: int) -> tuple[int, ...]:
        """The steps in which it comes to this member."""
        ...

    def arrival(self, chunk: int, step: int) -> Arrival | None:
        """What it means here; None if no plan lets it come here."""
        ...

    def gathered(self, chunk: int) -> tuple[Send, ...]:
        """What to send when all parts of a chunk are in the sum here; nothing, where that does not happen."""
        ...

    def is_result(self, step: int) -> bool: ...


def size_of(program: Program, chunk: int, step: int) -> int:
    """Bytes that it has in this step."""
    found = program.chunks[chunk]
    return found.part_size if program.parts_from_own and not program.is_result(step) else found.size
