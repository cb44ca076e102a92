"""Transfers of the simulated world: done when all members were in them long enough; else somebody notices."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.ids import hash_of
from tests.sim.host import Host

if TYPE_CHECKING:
    from tests.sim.world import World

STEP_S = 0.5
UPDATE_BYTES = 260  # one block of int8
TOTAL_BYTES = 1000


@dataclass
class Ring:
    members: tuple[str, ...]
    joined: dict[str, int] = field(default_factory=dict)  # in which life
    finished: dict[str, int] = field(default_factory=dict)


class Rings:
    def __init__(self, world: "World") -> None:
        self._world = world
        self._rings: dict[bytes, Ring] = {}

    def start(self, host: Host, effect: ef.StartTransfer) -> None:
        ring = self._rings.setdefault(effect.transfer, Ring(effect.members))
        ring.joined[host.name] = host.life
        ring.finished.pop(host.name, None)
        self._world.at(STEP_S, lambda: self._step(host, effect, host.life, 0.0, 0.0))

    def abort(self, host: Host, transfer: bytes) -> None:
        """The engine says of an aborted transfer, too, that it broke."""
        ring = self._rings.get(transfer)
        if ring and ring.joined.pop(host.name, None) == host.life:
            self._world.tell(host, ev.TransferBroke(transfer, None, False, "aborted here"), 0.1)

    def _step(self, host: Host, effect: ef.StartTransfer, life: int, moved: float, stalled: float) -> None:
        ring, world = self._rings[effect.transfer], self._world
        if host.life != life or ring.joined.get(host.name) != life or host.name in ring.finished:
            return
        missing = [peer for peer in ring.members if not self._there(ring, peer)]
        if not missing:
            moved, stalled = moved + STEP_S, 0.0
            done = int(TOTAL_BYTES * min(1.0, moved / world.weather.ring_s))
            world.tell(host, ev.TransferMoved(effect.transfer, done, TOTAL_BYTES))
        else:
            stalled += STEP_S
        if moved >= world.weather.ring_s:
            self._end(host, ring, effect.transfer)
        elif stalled > effect.stall_s:
            ring.joined.pop(host.name, None)
            silent = world.rng.random() < 0.7
            world.tell(host, ev.TransferBroke(effect.transfer, missing[0], silent, "stalled"))
        else:
            world.at(STEP_S, lambda: self._step(host, effect, life, moved, stalled))

    def _end(self, host: Host, ring: Ring, transfer: bytes) -> None:
        root = hash_of("update", transfer)
        host.disk.updates[root] = True
        ring.finished[host.name] = host.life
        ended = ev.TransferEnded(transfer, root, UPDATE_BYTES)
        self._world.tell(host, ended, self._world.rng.uniform(0.0, 0.3))

    def _there(self, ring: Ring, member: str) -> bool:
        world = self._world
        host = world.hosts[member]
        if member in ring.finished:
            return True
        others = [other for other in ring.members if other != member]
        cut = any(world.blocked(member, other) or world.blocked(other, member) for other in others)
        return (
            host.node is not None
            and ring.joined.get(member) == host.life
            and world.now >= host.frozen_until
            and not cut
        )
