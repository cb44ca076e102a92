"""The place of one trainer in a run: who sits there, who the node believes sits there, and the arena between.

A trainer comes and goes while the node still works off older events. So what the node orders is meant for the
trainer that it knows of, and is dropped when another sits there by then: the news of the change is already on its
way to the node. Owns that, and the arena's memory. Refuses to know what a round means.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import trio

from intellectd.daemon.arena import ArenaError, arena_tensor, create_arena, map_arena
from intellectd.daemon.attach import TrainerLink
from intellectd.daemon.attach_events import (
    EncodedDelta,
    TrainerAttached,
    TrainerDetached,
    TrainerEvent,
    TrainerReady,
)
from intellectd.daemon.attach_request import AttachRequest
from intellectd.daemon.control import ControlError
from intellectd.daemon.runs.compute import Compute, RunsWork
from intellectd.daemon.runs.outer_state import OuterState
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev


@dataclass(eq=False)
class Sitting:
    """One trainer, from its attachment to its end."""

    arena: torch.Tensor
    resumed_round: int | None
    encoded: EncodedDelta | None = None  # what it last said of the arena


class Seat:
    def __init__(
        self, state: OuterState, compute: Compute, runner: RunsWork, on_event: Callable[[TrainerEvent], None]
    ) -> None:
        self._state, self._compute, self._runner, self._on_event = state, compute, runner, on_event
        self.link = TrainerLink(self._on_trainer)
        self.post: Callable[[ev.Event], None] = lambda event: None
        self._arriving: Sitting | None = None
        self._sits: Sitting | None = None
        self._known: Sitting | None = None  # to the node
        self._announced: deque[Sitting] = deque()  # TrainerAttached events on their way to the node

    # ---- coming and going

    async def attach(
        self,
        sock: trio.socket.SocketType,
        request: AttachRequest,
        reply: Callable[[], Mapping[str, Any]],
        resumes: Callable[[], bool],
    ) -> None:
        """Serve this trainer until it is gone. Raises ControlError."""
        self.link.refuse_second()
        descriptor, arena = await self._runner(lambda: make_arena(request.layout.elements))
        try:
            self.link.refuse_second()  # another one may have come in the meantime
            resumed = resumes()
            self._arriving = Sitting(arena, request.training_round if resumed else None)
            await self.link.accept(sock, request, {**reply(), "resume": resumed}, descriptor)
        finally:
            os.close(descriptor)

    def _on_trainer(self, event: TrainerEvent) -> None:
        match event:
            case TrainerAttached():
                assert self._arriving is not None
                self._sits, self._arriving = self._arriving, None
                self._announced.append(self._sits)
                self.post(ev.TrainerAttached(self._sits.resumed_round))
            case TrainerReady() if self._sits is not None:
                self._sits.encoded = event.encoded
            case TrainerDetached() if self._sits is not None:
                self._sits = None
                self.post(ev.TrainerDetached(event.reason))
        self._on_event(event)

    def before(self, event: ev.Event) -> None:
        """The node is about to hear this: what it orders from now on is meant for the trainer of this news."""
        if isinstance(event, ev.TrainerAttached):
            self._known = sitting = self._announced.popleft()
            self._compute.submit(lambda: self._state.attach(sitting.arena), _nothing)
        elif isinstance(event, ev.TrainerReady) and self._known is not None:
            encoded = self._known.encoded
            self._compute.submit(lambda: self._state.handed_over(encoded), _nothing)
        elif isinstance(event, ev.TrainerDetached):
            self._known = None
            self._compute.submit(self._state.detach, _nothing)

    # ---- the node's orders

    def start_training(self, effect: ef.StartTraining, then: Callable[[], None]) -> None:
        sitting = self._known
        if sitting is None or sitting is not self._sits:
            return
        if not self.link.arena_is_free:
            # It came back to go on with a round that was decided a moment later. It is told so when it asks again.
            self.link.detach("the run went on without the round that it was training")
            return

        def started(carry: bool) -> None:
            if sitting is self._sits:
                self.link.start_round(
                    effect.round,
                    effect.steps,
                    effect.streams,
                    tokens_total=effect.tokens_total,
                    state_round=effect.state_round,
                    carried_over=not effect.fresh,
                    carry=carry,
                )
                then()

        self._compute.submit(lambda: self._state.hand_out(effect.fresh), started)

    def finish(self, effect: ef.FinishTraining) -> None:
        sitting = self._known
        if sitting is None or sitting is not self._sits:
            return
        if not self.link.arena_is_free:
            self.link.finish(effect.reason, None)
            return

        def finished(_: object) -> None:
            if sitting is self._sits:
                self.link.finish(effect.reason, effect.state_round)

        self._compute.submit(self._state.adopt, finished)


def make_arena(elements: int) -> tuple[int, torch.Tensor]:
    """(a descriptor to send and close, the mapped memory). Takes seconds for a large model. Raises ControlError."""
    try:
        descriptor = create_arena(elements)
    except ArenaError as error:
        raise _no_memory(error) from error
    try:
        return descriptor, arena_tensor(map_arena(descriptor, elements))
    except ArenaError as error:
        os.close(descriptor)
        raise _no_memory(error) from error


def _no_memory(error: ArenaError) -> ControlError:
    return ControlError("no_memory", str(error), "free memory on this host, or train a smaller model")


def _nothing(_: object) -> None:
    pass
