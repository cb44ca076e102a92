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
STEPS = 40  # of a long transfer: its steps are longer
LOOK_S, LARGE = 1.0, 32  # of large rings it is looked so often whether they are whole
STARVED_STALLS = 3  # as long as the bulk engine bears neighbours that live and pass nothing on
Verdict = tuple[str | None, bool]  # the suspect, and whether it only fell silent
UPDATE_BYTES = 260  # one block of int8
TOTAL_BYTES = 1000


@dataclass
class Ring:
    members: tuple[str, ...]
    joined: dict[str, int] = field(default_factory=dict)  # in which life
    finished: dict[str, int] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)  # when each joined last
    words: dict[str, tuple[float, Verdict]] = field(default_factory=dict)  # who gave up: when, blaming whom
    places: dict[str, int] = field(default_factory=dict)
    looked_at: float = -1.0  # whether it is whole is the same for all who look within a step
    whole: bool = False
    needs_s: float = 0.0


class Rings:
    def __init__(self, world: "World") -> None:
        self._world = world
        self._rings: dict[bytes, Ring] = {}

    def start(self, host: Host, effect: ef.StartTransfer) -> None:
        places = {member: number for number, member in enumerate(effect.members)}
        ring = self._rings.setdefault(effect.transfer, Ring(effect.members, places=places))
        ring.joined[host.name] = host.life
        ring.finished.pop(host.name, None)
        ring.since[host.name] = self._world.now
        step_s = max(STEP_S, self._world.weather.ring_s / STEPS)
        self._world.at(step_s, self._step, host, effect, host.life, 0.0, 0.0, step_s)

    def abort(self, host: Host, transfer: bytes) -> None:
        """The engine says of an aborted transfer, too, that it broke."""
        ring = self._rings.get(transfer)
        if ring and ring.joined.pop(host.name, None) == host.life:
            ring.words[host.name] = self._world.now, (None, False)
            self._world.tell(host, ev.TransferBroke(transfer, None, False, "aborted here"), 0.1)

    def _step(
        self, host: Host, effect: ef.StartTransfer, life: int, moved: float, stalled: float, step_s: float
    ) -> None:
        ring, world = self._rings[effect.transfer], self._world
        if host.life != life or ring.joined.get(host.name) != life or host.name in ring.finished:
            return
        whole = self._whole(ring)
        if whole:
            moved, stalled = moved + step_s, 0.0
            done = int(TOTAL_BYTES * min(1.0, moved / ring.needs_s))
            world.tell(host, ev.TransferMoved(effect.transfer, done, TOTAL_BYTES))
        else:
            stalled += step_s
        if moved >= ring.needs_s:
            self._end(host, ring, effect.transfer)
            return
        (culprit, silent), patience_s = self._judged(ring, host, effect.stall_s)
        if stalled > patience_s:
            ring.joined.pop(host.name, None)
            ring.words[host.name] = world.now, (culprit, silent)
            world.tell(host, ev.TransferBroke(effect.transfer, culprit, silent, "stalled" if silent else "reset"))
        else:
            world.at(step_s, self._step, host, effect, life, moved, stalled, step_s)

    def _whole(self, ring: Ring) -> bool:
        now = self._world.now
        if len(ring.members) <= LARGE or now - ring.looked_at > LOOK_S:
            ring.looked_at, ring.needs_s = now, self._needs(ring)
            ring.whole = all(self._there(ring, peer) and self._linked(ring, peer) for peer in ring.members)
        return ring.whole

    def _end(self, host: Host, ring: Ring, transfer: bytes) -> None:
        root = hash_of("update", transfer)
        host.disk.updates[root] = True
        self._world.truth.groups.ended(host.name, root)
        ring.finished[host.name] = host.life
        after = ring.members[(ring.places[host.name] + 1) % len(ring.members)]
        if after != host.name:
            self._world.tell(host, self._world.net.measured(host, after))
        ended = ev.TransferEnded(transfer, root, UPDATE_BYTES)
        self._world.tell(host, ended, self._world.rng.uniform(0.0, 0.3))

    def _needs(self, ring: Ring) -> float:
        """The narrowest link is everybody's."""
        world = self._world
        return world.weather.ring_s * world.net.narrowness(world.hosts[member] for member in ring.members)

    def _judged(self, ring: Ring, host: Host, stall_s: float) -> tuple[Verdict, float]:
        """Who is named if no chunk comes for how long. A member judges its two neighbours alone; of what is further
        off they tell it when they leave, so that nobody blames the messenger."""
        here = ring.places[host.name]
        before, after = ring.members[here - 1], ring.members[(here + 1) % len(ring.members)]
        sides = ((before, self._linked(ring, before)), (after, self._linked(ring, host.name)))
        for peer, linked in sides:
            said_at, (suspect, silent) = ring.words.get(peer, (-1.0, (None, False)))
            # What was said of an earlier try of the same transfer was said on connections that are gone.
            if linked and said_at >= ring.since[host.name] and peer not in ring.joined and self._process(peer):
                return (None if suspect == host.name else suspect, silent), 0.0
        for peer, linked in sides:
            if not linked or not self._there(ring, peer):
                silent = self._process(peer)
                return (peer, silent), stall_s if silent else 0.0
        return (None, True), stall_s * STARVED_STALLS  # they are there, and say that they wait, too

    def _process(self, name: str) -> bool:
        """Is there one that could still hold a connection? A dead one's are reset."""
        return self._world.hosts[name].node is not None

    def _linked(self, ring: Ring, member: str) -> bool:
        """To the next one; a connection needs both directions."""
        after = ring.members[(ring.places[member] + 1) % len(ring.members)]
        blocked = self._world.net.blocked
        return not (blocked(member, after) or blocked(after, member))

    def _there(self, ring: Ring, member: str) -> bool:
        host = self._world.hosts[member]
        if member in ring.finished:
            return True
        return host.node is not None and ring.joined.get(member) == host.life and not host.stopped(self._world.now)
