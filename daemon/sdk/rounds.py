"""What a trainer is given to do and what it hands back: assignments, results, and which sample is whose.

Owns these values and the one rule by which data is dealt: sample i of a stream is a pure function of (seed,
round, slot, i), so no crash repeats or skips any. Refuses to know who gives them. Standard library only.
"""

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# Hostile or not, a number in a frame fits a signed 64-bit counter of anything real.
COUNTER_MAX = 2**63 - 1
# A member takes over the samples of those who were left out; a run has at most some thousands of members.
STREAMS_MAX = 4096


@dataclass(frozen=True)
class Stream:
    """The samples of one data slot of one round; usually this peer's own slot of the current round."""

    round: int
    slot: int


@dataclass(frozen=True)
class Assignment:
    """One round's work: `steps` inner steps over `streams`, from the parameters that were just loaded."""

    round: int
    steps: int
    streams: tuple[Stream, ...]
    tokens_total: int  # committed by the whole run so far: what learning-rate schedules go by
    state_round: int  # the newest outer step in the parameters
    carried_over: bool  # they are that anchor plus this trainer's own work which is not committed yet
    seed: int
    carry: bool = False  # the carried-over work is not in what was handed out: whoever trained has it
    rank: int = 0  # of this process among those that are one peer together
    ranks: int = 1

    def sample(self, index: int) -> tuple[Stream, int]:
        """Which sample of which stream is this process's `index`-th of the round: ranks and streams take turns."""
        index = index * self.ranks + self.rank
        return self.streams[index % len(self.streams)], index // len(self.streams)

    def position(self, index: int, positions: int) -> int:
        """One of `positions` places in the training data for this process's `index`-th sample of the round."""
        stream, at = self.sample(index)
        return sample_position(self.seed, stream, at, positions)


@dataclass(frozen=True)
class RoundDone:
    """The parameters are written; this goes with them."""

    round: int
    tokens: int
    steps: int
    loss: float | None  # mean over the round; None where none was logged or it is not a number
    seconds: float


@dataclass(frozen=True)
class Finish:
    """The run has ended. With `state_round`, the last anchor has been loaded into the model."""

    reason: str
    state_round: int | None


@dataclass(frozen=True)
class Progress:
    """A line of the training log."""

    round: int
    step: int
    loss: float | None
    tokens: int
    tokens_per_s: float
    grad_norm: float | None = None  # None where the loop does not log it
    mfu: float | None = None  # None where the model's FLOPs or the device's peak are not known


class Rounds(Protocol):
    """Where rounds come from: the daemon's run, or this process alone. Loads the model's parameters itself."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    @property
    def evaluate(self) -> bool: ...

    def begin(self) -> Assignment | Finish: ...

    def deliver(self, done: RoundDone) -> Assignment | Finish:
        """Hand over the model's parameters, wait for the next round, load what it starts from."""
        ...

    def poll(self) -> Assignment | Finish | None:
        """Between inner steps; never waits for a peer."""
        ...

    def log(self, progress: Progress) -> None: ...

    def evaluated(self, state_round: int, loss: float | None) -> None: ...

    def close(self) -> None: ...


def sample_position(seed: int, stream: Stream, index: int, positions: int) -> int:
    """Uniform to within positions / 2**64. The seed is taken modulo 2**64."""
    key = struct.pack("<4Q", seed % 2**64, stream.round, stream.slot, index)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") % positions


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
