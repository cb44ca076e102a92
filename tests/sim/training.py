"""Trainers of the simulated world: processes beside the daemons, with work that may outlive them."""

from typing import TYPE_CHECKING

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from tests.sim.host import Host, Stream
from tests.sim.truth import TOKENS_PER_STREAM
from tests.sim.violation import Violation

if TYPE_CHECKING:
    from tests.sim.world import World

ROUND_S = 10.0
NORM = "3f800000"  # of any delta


class Training:
    def __init__(self, world: "World") -> None:
        self._world = world
        self.round_s = ROUND_S

    def attach_soon(self, host: Host) -> None:
        """A daemon has started: its trainer, old or new, attaches after a while."""
        life, world = host.life, self._world
        world.at(world.rng.uniform(0.5, 2.0), lambda: self._attach(host, life))

    def die(self, host: Host) -> None:
        """The trainer process is gone with everything in it; a new one comes."""
        trainer = host.trainer
        trainer.life += 1
        trainer.round, trainer.working = None, False
        host.steady_since = self._world.now
        if host.attached and host.node is not None:
            host.attached = False
            self._world.tell(host, ev.TrainerDetached("killed"))
            self.attach_soon(host)

    def start(self, host: Host, effect: ef.StartTraining) -> None:
        """The daemon hands out a round: from the anchor, or going on from what is in the arena."""
        trainer, world = host.trainer, self._world
        if effect.fresh:
            self.discard(host, None)
            host.sound = not host.rotten
        trainer.life += 1
        trainer.round, trainer.working = effect.round, True
        trainer.holds, trainer.job = list(host.work), [*effect.streams]
        seconds = self.round_s * host.speed * world.rng.uniform(0.95, 1.05)
        trainer.done_at = world.now + seconds
        self._finish_at(host, seconds)

    def freeze(self, host: Host) -> None:
        """In its turn behind what is applied, as in a daemon, where a delta is measured from what that makes."""
        world, life = self._world, host.life
        if not world.truth.groups.every:
            world.tell(host, ev.DeltaFrozen(NORM, host.freeze()), 0.1)
            return

        def work() -> None:
            if host.life == life:
                world.tell(host, ev.DeltaFrozen(NORM, host.freeze()))

        world.at(0.1, work)

    def discard(self, host: Host, round_: int | None) -> None:
        """The anchor replaces what is in the arena: that counted in this round, or its host said that it is lost."""
        counted = host.disk.entries[round_].blob.contributions if round_ is not None else []
        deltas = [host.deltas[c.delta_root].content for c in counted if c.peer == host.name]
        if host.work and tuple(sorted(host.work)) not in deltas and not host.confessed:
            raise Violation(f"{host.name} loses its work on {host.work} silently")
        host.work = []

    # ---- inside

    def _finish_at(self, host: Host, delay: float) -> None:
        trainer_life = host.trainer.life

        def done() -> None:
            if host.trainer.life == trainer_life and host.attached and host.trainer.working:
                self._deliver(host)

        self._world.at(delay, done)

    def _deliver(self, host: Host) -> None:
        trainer = host.trainer
        assert trainer.round is not None
        trainer.working = False
        host.work, host.confessed = [*trainer.holds, *trainer.job], False
        tokens = TOKENS_PER_STREAM * len(trainer.job)
        self._world.tell(host, ev.TrainerReady(trainer.round, tokens, 10))

    def _attach(self, host: Host, life: int) -> None:
        node, trainer, world = host.node, host.trainer, self._world
        if host.life != life or node is None or host.attached:
            return
        if world.now < host.stopped_until:  # a stopped daemon takes nobody in: what came before has its turn first
            world.at(host.stopped_until - world.now, self._attach, host, life)
            return
        host.attached = True
        wants: int | None = trainer.round if trainer.working else None
        if wants is not None and node.progress.resumes(node.head, node.catchup.applied, wants):
            host.sound = True
            world.tell(host, ev.TrainerAttached(wants))
            # It delivers what it did meanwhile, or goes on until it is done; never before it is attached.
            self._finish_at(host, max(0.2, trainer.done_at - world.now))
        else:
            trainer.life += 1
            trainer.round, trainer.working = None, False
            host.work = []
            world.tell(host, ev.TrainerAttached(None))


__all__ = ["Stream", "Training"]
