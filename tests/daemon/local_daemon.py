"""A daemon of one run for the SDK's tests: the real control socket, TrainerLink and arena, with a toy for peers.

The toy's outer step is "the anchor becomes what the trainer delivered, plus 1", so that every adoption shows.
`Run` is what survives a restart; `serving` is one life or several of the daemon, in a thread of its own.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import trio

from intellectd.daemon.arena import arena_tensor, create_arena, map_arena
from intellectd.daemon.attach import TrainerLink
from intellectd.daemon.attach_events import (
    EncodedDelta,
    TrainerAttached,
    TrainerDetached,
    TrainerEvent,
    TrainerInitial,
    TrainerReady,
)
from intellectd.daemon.attach_request import check_tensors, read_request
from intellectd.daemon.control import ControlError, ControlServer
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name
from intellectd.kernels.layout import Layout

RUN_ID = "run-1"
START_TIMEOUT_S = 60.0


@dataclass
class Run:
    """Round numbers start at 1; `anchor` is the state after round `round - 1`."""

    rounds: int = 3
    steps: int = 2
    anchor: torch.Tensor | None = None
    layout: Layout | None = None
    round: int = 1
    tokens_total: int = 0
    die_on_ready: int | None = None  # the daemon dies when it hears of this round, before it is answered
    not_ready: int = 0  # attaches to turn away first
    creates: bool | None = None  # the first parameters found the run, or fail to
    knows_by_name_only: bool = False  # it is one of several, so that "" names none
    events: list[TrainerEvent] = field(default_factory=list)
    heard_one: threading.Condition = field(default_factory=threading.Condition)
    codec: str = "int8"  # in which a trainer that can is asked for its deltas
    manifest: dict[str, Any] = field(default_factory=lambda: {"name": "toy", "seed": 7})

    def heard(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class _Life:
    """One life of the daemon."""

    def __init__(self, run: Run, path: Path) -> None:
        self.run, self.scope = run, trio.CancelScope()
        self.link = TrainerLink(self.on_event)
        self.server = ControlServer(path, {}, self.attach)
        self.arena = torch.empty(0)
        self.resumed = False

    async def serve(self, started: threading.Event) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.server.serve)
                started.set()
                await trio.sleep_forever()

    async def attach(self, sock: trio.socket.SocketType, frame: dict[str, Any]) -> None:
        run, request = self.run, read_request(frame)
        if request.run != RUN_ID and (request.run or run.knows_by_name_only):
            raise ControlError("no_such_run", f"no run {request.run!r} here", "see `intellectd runs`")
        if run.not_ready:
            run.not_ready -= 1
            raise ControlError("not_ready", "the run is still being joined", "")
        if run.layout is not None:
            check_tensors(run.layout, request)
        run.layout = request.layout
        self.resumed = request.training_round == run.round
        elements = request.layout.elements
        reply = {
            "run": RUN_ID,
            "peer": "12D3KooToy",
            "elements": elements,
            "want": "initial" if run.anchor is None else "round",
            "manifest": run.manifest,
            "evaluate": True,
            "resume": self.resumed,
            "encode": run.codec if request.encodes else None,
        }
        descriptor = create_arena(elements)
        if not self.link.attached:
            self.arena = arena_tensor(map_arena(descriptor, elements))
        try:
            await self.link.accept(sock, request, reply, descriptor)
        finally:
            os.close(descriptor)

    def on_event(self, event: TrainerEvent) -> None:
        run = self.run
        with run.heard_one:
            run.events.append(event)
            run.heard_one.notify_all()
        match event:
            case TrainerAttached() if run.anchor is not None and not self.resumed:
                self.give()
            case TrainerInitial():
                run.anchor = self.arena.clone()
                if run.creates is None:
                    self.give()
                elif run.creates:
                    run.knows_by_name_only = True
                    self.link.dismiss({"op": "created", "run": RUN_ID})
                else:
                    message = "the run was not created: the disk is full"
                    error = {"code": "not_created", "message": message, "hint": ""}
                    self.link.dismiss({"op": "not_created", "error": error})
            case TrainerReady(round=number) if number == run.die_on_ready:
                run.die_on_ready = None
                self.scope.cancel()
            case TrainerReady():
                run.anchor = self.delivered(event.encoded) + 1
                run.tokens_total += event.tokens
                run.round += 1
                self.give()

    def delivered(self, encoded: EncodedDelta | None) -> torch.Tensor:
        """The parameters, as well as the codec tells them."""
        run = self.run
        if encoded is None:
            return self.arena
        assert run.anchor is not None
        codec = codec_by_name(encoded.codec)
        delta = torch.empty_like(run.anchor)
        ops.decode(codec, self.arena.view(torch.uint8)[: codec.encoded_bytes(delta.numel())], delta)
        return run.anchor - delta

    def give(self) -> None:
        run = self.run
        assert run.anchor is not None
        self.arena.copy_(run.anchor)
        if run.round > run.rounds:
            self.link.finish("all rounds are done", run.round - 1)
        else:
            self.link.start_round(
                run.round, run.steps, [(run.round, 0)], tokens_total=run.tokens_total, state_round=run.round - 1
            )


class Daemon:
    """Handle on the thread: `stop` and `start` may be called from the training loop."""

    def __init__(self, run: Run, path: Path) -> None:
        self.run, self.path = run, path
        self._life: _Life | None = None
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stopped = False

    def start(self) -> None:
        started = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._lives, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(START_TIMEOUT_S), "the daemon's thread did not start"

    def settle(self) -> None:
        """Until every trainer that came has gone: what it said last has been heard by then."""
        run = self.run
        with run.heard_one:
            gone = run.heard_one.wait_for(
                lambda: len(run.heard(TrainerAttached)) == len(run.heard(TrainerDetached)), START_TIMEOUT_S
            )
        assert gone, "a trainer never left"

    def stop(self) -> None:
        if self._thread is None:
            return
        self._stopped = True
        with contextlib.suppress(trio.RunFinishedError):
            self.tell(lambda life: life.scope.cancel())
        self._thread.join()
        self._thread = None

    def tell(self, what: Any) -> None:
        """Run `what(life)` on the daemon's own thread."""
        assert self._token is not None and self._life is not None
        trio.from_thread.run_sync(what, self._life, trio_token=self._token)

    def _lives(self, started: threading.Event) -> None:
        """A daemon that dies by itself is started again at once, as systemd would."""
        while not self._stopped:
            trio.run(self._one_life, started)

    async def _one_life(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._life = _Life(self.run, self.path)
        await self._life.serve(started)


@contextlib.contextmanager
def serving(run: Run, path: Path) -> Iterator[Daemon]:
    daemon = Daemon(run, path)
    daemon.start()
    try:
        yield daemon
        daemon.settle()
    finally:
        daemon.stop()
