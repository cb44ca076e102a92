"""`init`: a new run from a run.toml. The trainer builds the first parameters, the owner key signs the manifest.

Owns what happens before a run exists; nothing is kept if it fails. The result is a run folder like any other.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import trio

from intellectd.daemon import attach_events as trainer_events
from intellectd.daemon.attach import TrainerLink
from intellectd.daemon.attach_request import AttachRequest
from intellectd.daemon.control import ControlError
from intellectd.daemon.errors import OperatorError
from intellectd.daemon.logs import get_log
from intellectd.daemon.runs.host import Host
from intellectd.daemon.runs.new_run import CREATING, Founded, manifest_of, write_run
from intellectd.daemon.runs.seat import make_arena
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.store.snapshot import State
from intellectd.daemon.trainer_process import Pauses, TrainerCommand, TrainerProcess, trainer_command
from intellectd.kernels.codec import codec_by_name
from intellectd.kernels.digest import state_digest
from intellectd.kernels.layout import Layout
from intellectd.kernels.ops import encode as encode_floats
from intellectd.protocol.manifest import (
    ExternalModel,
    RunConfig,
    plain,
)

FIRST_PARAMETERS_S_MAX = 900.0  # a large model is initialised in minutes; an external program has to be started
TRAINER_LIVES_MAX = 2  # to be killed once may be bad luck; after the second the operator should not wait for a third
SECOND_LIFE_S = 0.2  # an operator waits: a trainer that can start does so now, one that cannot should say so now

log = get_log("init")


@dataclass(frozen=True)
class Mortal(Pauses):
    """The usual pauses between a trainer's lives, and word of each death."""

    on_death: Callable[[], None] = lambda: None

    def after(self, pause_s: float, lived_s: float) -> float:
        self.on_death()
        return super().after(pause_s, lived_s)


class Founding:
    def __init__(self, host: Host, config: RunConfig) -> None:
        self._host, self._config = host, config
        self._arriving: tuple[Layout, torch.Tensor] | None = None
        self._first: tuple[Layout, torch.Tensor] | None = None  # of the trainer that said "initial"
        self._over = trio.Event()
        self._link = TrainerLink(self._on_trainer)
        self._why = "no program attached"
        self._process: TrainerProcess | None = None
        self._began_at = trio.current_time()
        self.attach_id = f"{CREATING}-{secrets.token_hex(8)}"
        self.name = config.name

    async def found(self) -> Founded:
        """Raises ControlError or StorageError."""
        self._refuse_hopeless()
        async with trio.open_nursery() as nursery:
            self._start_trainer(nursery)
            with trio.move_on_after(FIRST_PARAMETERS_S_MAX) as timeout:
                await self._over.wait()
            nursery.cancel_scope.cancel()
        if self._first is None:
            late = f" within {FIRST_PARAMETERS_S_MAX:.0f} s" if timeout.cancelled_caught else ""
            raise ControlError(
                "no_first_parameters", f"no trainer delivered the first parameters{late}: {self._why}", self._remedy()
            )
        layout, theta = self._first
        with trio.CancelScope(shield=True):  # whole or not at all
            founded: Founded = await self._host.runner(lambda: self._write(layout, theta.clone()))
        return founded

    def _refuse_hopeless(self) -> None:
        if isinstance(self._config.model, ExternalModel) and self._host.config.trainer == "builtin":
            raise ControlError(
                "no_builtin_model",
                "the run's model is external, and this host's trainer is the built-in one",
                "set trainer = 'external' (or a command) in this host's configuration and restart the daemon",
            )

    def _remedy(self) -> str:
        config = self._host.config
        if config.trainer == "external":
            return f"start `INTELLECTD_SOCKET={config.socket} python your_program.py` while `init` waits"
        return "correct that, then `intellectd init` again; the daemon's log has all that the trainer said"

    def plain(self) -> dict[str, Any]:
        """For `status`, and for who waits for `init`."""
        trainer = self._host.config.trainer
        return {
            "name": self.name,
            "trainer": trainer if isinstance(trainer, str) else "command",
            "attached": self._link.attached,
            "delivered": self._first is not None,
            "last_failure": self._process.last_failure if self._process else "",
            "waited_s": round(trio.current_time() - self._began_at, 1),
        }

    def tell_created(self, run_id: str) -> None:
        self._link.dismiss({"op": "created", "run": run_id})

    def tell_not_created(self, error: BaseException) -> None:
        reason, hint = "`init` was interrupted", "start this program again when `intellectd init` waits for it"
        if isinstance(error, ControlError | OperatorError):
            reason, hint = error.message, error.hint
        told = {"code": "not_created", "message": f"the run was not created: {reason}", "hint": hint}
        self._link.dismiss({"op": "not_created", "error": told})

    def _start_trainer(self, nursery: trio.Nursery) -> None:
        config = self._host.config
        if config.trainer == "external":
            return
        command = trainer_command(
            config.trainer,
            self.attach_id,
            plain(self._config),
            config.socket,
            threads=config.trainer_threads,
            data=config.data,
        )
        nursery.start_soon(self._keep_trainer, command)

    async def _keep_trainer(self, command: TrainerCommand) -> None:
        """Give up when it fails by itself, or was killed twice: the reason will not go away by waiting."""

        def died() -> None:
            self._why = process.last_failure
            if process.is_hopeless or process.starts >= TRAINER_LIVES_MAX:
                self._over.set()

        process = self._process = TrainerProcess(command, Mortal(first_s=SECOND_LIFE_S, on_death=died))
        await process.run()
        self._why = "it ended without delivering any"
        self._over.set()

    async def attach(self, sock: trio.socket.SocketType, request: AttachRequest) -> None:
        """The first trainer that delivers defines the tensors. Raises ControlError."""
        layout = request.layout
        self._refuse_second()
        descriptor, arena = await self._host.runner(lambda: make_arena(layout.elements))
        try:
            self._refuse_second()
            self._arriving = layout, arena
            reply = {
                "run": self.attach_id,
                "peer": self._host.identity.peer_id,
                "elements": layout.elements,
                "want": "initial",
                "manifest": plain(self._config),
                "evaluate": False,
                "resume": False,
            }
            await self._link.accept(sock, request, reply, descriptor)
        finally:
            os.close(descriptor)

    def _refuse_second(self) -> None:
        if self._link.attached or self._first is not None:
            raise ControlError("trainer_attached", "another trainer makes the first parameters", "end that one first")

    def _on_trainer(self, event: trainer_events.TrainerEvent) -> None:
        if isinstance(event, trainer_events.TrainerInitial):
            self._first = self._arriving
            self._over.set()

    def _write(self, layout: Layout, theta: torch.Tensor) -> Founded:
        """In a thread."""
        _check_finite(layout, theta)
        momentum = torch.zeros_like(theta)
        digest = state_digest(theta, momentum)

        def put(store: RunStore) -> None:
            store.write_snapshot(State(theta, momentum), 0, digest, 0)

        return write_run(self._host, self.attach_id, manifest_of(self._host, self._config, layout, digest), put)


def _check_finite(layout: Layout, theta: torch.Tensor) -> None:
    codec = codec_by_name("int8")
    bad = encode_floats(codec, theta, torch.empty(codec.encoded_bytes(layout.elements), dtype=torch.uint8))
    if bad is not None:
        raise ControlError(
            "not_finite",
            f"tensor {layout.find(bad)!r} of the first parameters holds a NaN, an infinity or a number too large",
            "correct how the model is initialised",
        )
