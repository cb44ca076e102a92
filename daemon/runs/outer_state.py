"""Theta and momentum, the arena beside them, and the arithmetic between: frozen deltas, outer steps.

Owns the vectors of one run and what "adopt", "carry" and "keep" mean in numbers. Called from the compute queue
only, the arena's coming and going included: so what was asked for one trainer never touches another's. Refuses to
know rounds, peers and why.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from intellectd.daemon.attach_events import EncodedDelta
from intellectd.daemon.runs.error_feedback import ErrorFeedback
from intellectd.kernels import ops
from intellectd.kernels.codec import Codec, codec_by_name, update_codec
from intellectd.kernels.digest import state_digest, state_root, update_root
from intellectd.kernels.layout import Layout
from intellectd.kernels.outer import AverageStep, OuterStep, OuterVectors, is_fp32

Local = Literal["adopt", "carry", "keep", "none"]
NORM_ELEMENTS = 1 << 20  # at a time: 12 MiB of temporaries


@dataclass(frozen=True)
class Frozen:
    """An encoded delta, ready to be contributed."""

    encoded: torch.Tensor
    norm: str  # fp32 hex
    root: bytes
    trouble: str = ""  # for the operator


class NotUsable(ValueError):
    """The delta holds a NaN or Inf; the text names the tensor."""


class OuterState:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.theta: torch.Tensor | None = None
        self.momentum: torch.Tensor | None = None
        self._arena: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None  # the anchor that a trainer's work in progress started from
        self._group: torch.Tensor | None = None  # this host's anchor, where it is its group's and not theta (SPEC E5)
        self._threads = ops.usable_threads()
        # Called before theta and momentum change or are let go: somebody may be writing them to a disk.
        self.before_change: Callable[[], None] = lambda: None
        self.changes = 0  # grows before each: who has read something meanwhile has read a mixture
        self._baseless = False  # the arena's contents started from a state that was not the agreed one
        # A trainer that encodes keeps its parameters: the arena has the delta's bytes, later the anchor.
        self._encoded: EncodedDelta | None = None
        self._trainer_carries = False  # what is to be carried over lies with the trainer

    def attach(self, arena: torch.Tensor) -> None:
        """A trainer came. What an earlier one was doing is not carried over to it."""
        self._arena, self._kept, self._baseless = arena, None, False
        self._encoded, self._trainer_carries = None, False

    def detach(self) -> None:
        self._arena = self._kept = self._encoded = None
        self._trainer_carries = False

    def handed_over(self, encoded: EncodedDelta | None) -> None:
        """The arena is the application's again, with the trainer's parameters or the bytes of its delta."""
        self._encoded = encoded

    def hand_out(self, fresh: bool) -> bool:
        """The arena becomes what the trainer's next round starts from; whether it must carry its own work over."""
        carries = self._trainer_carries and not fresh
        if fresh:
            self.adopt()
        self._trainer_carries = False
        return carries

    def install(self, theta: torch.Tensor, momentum: torch.Tensor) -> None:
        """Another state, not by an outer step: work that started from the old one has no anchor any more."""
        self._change()
        self._baseless = self._arena is not None and self.theta is not None
        self.theta, self.momentum, self._kept, self._group = theta, momentum, None, None

    def _change(self) -> None:
        """Theta and momentum are about to."""
        self.before_change()
        self.changes += 1

    @property
    def anchor(self) -> torch.Tensor | None:
        """What a trainer's rounds begin from: fp32, flat; None without a state."""
        return self.theta if self._group is None else self._group

    def apart(self) -> float:
        """L2 of the anchor's distance from theta: 0 where it is theta."""
        if self.theta is None or self._group is None:
            return 0.0
        squares = 0.0
        for first in range(0, self.theta.numel(), NORM_ELEMENTS):
            part = slice(first, first + NORM_ELEMENTS)
            squares += float((self.theta[part] - self._group[part]).double().square().sum())
        return float(squares**0.5)

    def digest(self) -> bytes:
        assert self.theta is not None and self.momentum is not None
        return state_digest(self.theta, self.momentum, self._threads)

    def adopt(self) -> None:
        """The arena takes the anchor."""
        self._kept, self._encoded, self._baseless, self._trainer_carries = None, None, False, False
        if self._arena is not None and self.anchor is not None:
            self._arena.copy_(self.anchor)

    def freeze(self, codec_name: str, feedback: ErrorFeedback | None = None) -> Frozen:
        """Encode delta = anchor − arena, and what the anchor is apart from theta besides (SPEC E6); or take what the
        trainer encoded. Raises NotUsable."""
        codec = codec_by_name(codec_name)
        base = self._measured_from()
        if self._arena is None or base is None:
            raise NotUsable("the trainer is gone")
        if self._baseless:
            raise NotUsable("this host's state was replaced while its trainer worked on the old one")
        if self._encoded is not None:
            return self._taken(codec, self._arena, self._encoded)
        encoded = torch.empty(codec.encoded_bytes(self.layout.elements), dtype=torch.uint8)
        if feedback is not None:
            stats, root = feedback.encode(codec, base, self._arena, encoded, self._threads)
        else:
            stats = ops.encode_delta(codec, base, self._arena, encoded, threads=self._threads)
            root = update_root(encoded, self._threads)
        if stats.first_nonfinite is not None:
            raise self._not_finite(stats.first_nonfinite)
        if not is_fp32(stats.norm):  # of elements that each can be encoded
            raise self._not_finite(_largest(base, self._arena))
        norm = struct.pack(">f", stats.norm).hex()
        return Frozen(encoded, norm, root, feedback.trouble if feedback is not None else "")

    def _measured_from(self) -> torch.Tensor | None:
        """theta, and if the anchor has changed since the trainer began: as if it had not."""
        if self._kept is None or self.theta is None:
            return self.theta
        return self._kept if self._group is None else self.theta + (self._kept - self._group)

    def _taken(self, codec: Codec, arena: torch.Tensor, given: EncodedDelta) -> Frozen:
        """A copy: the arena is needed for the next anchor, the delta until it is committed."""
        if given.codec != codec.name:
            raise NotUsable(f"the trainer encoded it in {given.codec}, the round is in {codec.name}")
        if given.refused is not None:
            raise self._not_finite(min(given.refused, self.layout.elements - 1))
        encoded = arena.view(torch.uint8)[: codec.encoded_bytes(self.layout.elements)].clone()
        if not ops.finite(codec, encoded, self._threads):
            raise NotUsable("what the trainer encoded does not decode to numbers")
        return Frozen(encoded, given.norm, update_root(encoded, self._threads))

    def _not_finite(self, element: int) -> NotUsable:
        name = self.layout.find(element)
        return NotUsable(f"tensor {name!r} holds a NaN, an infinity or a number too large; did the loss diverge?")

    def apply(
        self, codec_name: str, update: torch.Tensor | None, step: OuterStep, local: Local, group: bool = False
    ) -> bytes:
        """One outer step (nothing for `update` None), the arena treated as `local` says; the new digest. Of a `group`'s
        update only this host's anchor is made: theta − update, or what it was for None.

        "carry": what the arena holds beyond the anchor, u = anchor − arena, is taken over: arena = new anchor − u.
        Where the trainer encodes, it has u and does the same with it, and the arena takes the new anchor.
        "keep": the trainer is writing to the arena; the anchor that it started from is kept aside for its delta.
        """
        assert self.theta is not None and self.momentum is not None
        trainers = self._encoded is not None or self._trainer_carries
        carries = local == "carry" and not self._baseless
        carried = self._arena if carries and not trainers else None
        if local == "keep" and self._kept is None:
            self._kept = self._anchor().clone()
        if carried is not None:
            ops.subtract_into(self._kept if self._kept is not None else self._anchor(), carried, self._threads)
        digest = None
        if group and update is not None:
            self._moved(codec_name, update)
        elif update is not None:
            digest, self._group = self._stepped(codec_name, update, step), None
        if carried is not None:
            ops.subtract_into(self._anchor(), carried, self._threads)
        if local == "carry" and carried is None:
            self.adopt()
            self._trainer_carries = carries and trainers
        if local in ("carry", "adopt"):
            self._kept = None
        return self.digest() if digest is None else digest

    def _anchor(self) -> torch.Tensor:
        assert self.anchor is not None
        return self.anchor

    def _moved(self, codec_name: str, update: torch.Tensor) -> None:
        """The anchor becomes theta − update, in the same memory once there is some."""
        assert self.theta is not None
        codec, group = update_codec(codec_by_name(codec_name)), self._group
        group = torch.empty_like(self.theta) if group is None else group
        group.copy_(self.theta)
        ops.outer_step(codec, update, AverageStep(1.0), OuterVectors(group), self._threads)
        self._group = group

    def _stepped(self, codec_name: str, update: torch.Tensor, step: OuterStep) -> bytes:
        assert self.theta is not None
        self._change()
        codec, vectors = update_codec(codec_by_name(codec_name)), OuterVectors(self.theta, self.momentum)
        return state_root(ops.outer_step_leaves(codec, update, step, vectors, self._threads))


def _largest(base: torch.Tensor, local: torch.Tensor) -> int:
    """Index of the element of base - local that is largest in magnitude."""
    most, index = -1.0, 0
    for first in range(0, base.numel(), NORM_ELEMENTS):
        part = slice(first, first + NORM_ELEMENTS)
        magnitudes = (base[part] - local[part]).abs()
        at = int(magnitudes.argmax())
        if float(magnitudes[at]) > most:
            most, index = float(magnitudes[at]), first + at
    return index
