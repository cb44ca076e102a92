"""What befalls a world: a schedule of faults drawn from one seed, then calm.

Owns the choice of faults, their rhythm, and which of them a run must survive: a voter's disk is only lost while
the others are a quorum without it. Refuses to know the protocol.
"""

from collections.abc import Callable
from random import Random

from tests.sim.host import Disk, Host
from tests.sim.world import Weather, World

BEGINS_S, CALM_S = 30.0, 20.0  # the first fault; from the last one to the end
RESTARTS_S_MAX = 60.0


class Faults:
    def __init__(self, world: World, rng: Random, until_s: float) -> None:
        """They come until that moment; then the weather clears and everybody is started again."""
        self._world, self._rng, self._until_s = world, rng, until_s
        self._begins_s, self._mean_s, self._down_s = BEGINS_S, rng.choice([15.0, 40.0, 120.0]), RESTARTS_S_MAX
        self._wiped = self._left = self._rotted = self._reckless = False
        weather = world.weather
        weather.loss, weather.duplicates = rng.choice([0, 0.01, 0.05]), rng.choice([0, 0, 0.02])
        weather.crash_chance = rng.choice([0, 0.0005, 0.002])
        weather.ring_s = rng.choice([1.0, 1.0, 3.0, 9.0])
        weather.latency_s = rng.choice([0.01, 0.05, 0.3])
        for host in world.hosts.values():
            host.speed *= rng.choice([1, 1, 1, 1.4, 2.5])
        self._kinds = [self._crash, self._crash, self._split, self._deafen, self._stop, self._trainer, self._pair]
        self._kinds += [self._join, self._leave, self._wipe, self._rot]

    def storm(self, kind: str) -> None:
        """As bad as it gets, from the beginning, and never mind whether it can go on: is a broken machine found out?"""
        self._begins_s, self._mean_s, self._down_s, self._reckless = 4.0, 5.0, 12.0, True
        self._world.weather = Weather(loss=0.08, duplicates=0.02, latency_s=0.5, crash_chance=0.004, ring_s=1.0)
        self._kinds = [self._crash, self._crash, self._split, self._split, self._stop, self._pair, self._deafen]
        if kind == "amnesia":
            self._kinds.append(self._wipe)
        if kind == "rot":
            self._world.weather = Weather(latency_s=0.2)
            self._kinds = [self._rot, self._rot, self._trainer]

    def schedule(self) -> None:
        moment = self._begins_s
        while moment < self._until_s - CALM_S:
            moment += self._rng.expovariate(1 / self._mean_s)
            self._world.at(moment, self._strike)
        self._world.at(self._until_s - CALM_S, self._calm)

    def _strike(self) -> None:
        if self._world.now < self._until_s - CALM_S:
            host = self._world.hosts[self._rng.choice(sorted(self._world.hosts))]
            self._rng.choice(self._kinds)(host)

    def _calm(self) -> None:
        world = self._world
        world.weather = Weather(ring_s=world.weather.ring_s)
        world.blocked = lambda a, b: False
        for host in world.hosts.values():
            host.frozen_until = 0.0
            self._revive(host)

    # ---- kinds

    def _crash(self, host: Host) -> None:
        if host.node is None:
            return
        self._world.kill(host)
        if self._rng.random() < 0.5:  # the machine, not only the daemon
            host.trainer.life += 1
            host.trainer.working = False
        self._world.at(self._rng.uniform(1, self._down_s), lambda: self._revive(host))

    def _split(self, host: Host) -> None:
        side = {name: self._rng.random() < 0.5 for name in self._world.hosts}
        self._cut(lambda a, b: side.get(a, False) != side.get(b, False))

    def _deafen(self, host: Host) -> None:
        """It hears nobody, and everybody hears it; or the other way round."""
        name, deaf = host.name, self._rng.random() < 0.5
        self._cut(lambda a, b: (b if deaf else a) == name)

    def _pair(self, host: Host) -> None:
        """Two hosts that cannot reach each other; the others reach both."""
        pair = (host.name, self._rng.choice(sorted(self._world.hosts)))
        self._cut(lambda a, b: a in pair and b in pair and a != b)

    def _cut(self, blocked: Callable[[str, str], bool]) -> None:
        """For a while; sometimes it flaps."""
        spells = 3 if self._rng.random() < 0.3 else 1
        begins = 0.0
        for _ in range(spells):
            ends = begins + (self._rng.uniform(3, 40) if spells == 1 else self._rng.uniform(2, 8))
            self._block(begins, blocked)
            self._block(ends, lambda a, b: False)
            begins = ends + self._rng.uniform(1, 5)

    def _block(self, delay: float, blocked: Callable[[str, str], bool]) -> None:
        def change() -> None:
            if self._world.now < self._until_s - CALM_S:
                self._world.blocked = blocked

        self._world.at(delay, change)

    def _stop(self, host: Host) -> None:
        host.frozen_until = self._world.now + self._rng.choice([self._rng.uniform(1, 24), self._rng.uniform(24, 70)])

    def _trainer(self, host: Host) -> None:
        self._world.training.die(host)

    def _join(self, host: Host) -> None:
        names = [n for n in ("PX", "PY", "PZ") if n not in self._world.hosts]
        if names:
            self._world.add(names[0], [host.name])

    def _leave(self, host: Host) -> None:
        """The operator takes it out: it says so, and stops when it has lost its seat."""
        if self._left or host.node is None or len(self._world.hosts) < 3 or not self._world.truth.entries:
            return
        self._left = True
        self._world.leave(host)

    def _wipe(self, host: Host) -> None:
        """Its disk is lost, its key is not: a voter without memory. Once, and not when it would take the quorum."""
        voters = self._world.newest_voters()
        few = len(voters) < 4 or self._wiped or any(self._world.hosts[voter].leaving for voter in voters)
        if host.leaving or not host.disk.entries or (host.name in voters and few and not self._reckless):
            return
        self._wiped = True
        self._world.kill(host)
        host.disk = Disk()
        self._world.truth.wiped(host, voters)
        host.joined = [name for name in sorted(self._world.hosts) if name != host.name]
        self._world.at(self._rng.uniform(1, self._down_s), lambda: self._revive(host))

    def _rot(self, host: Host) -> None:
        """A bit flips in its state: the others, a quorum on the right one, must see it. One at a time."""
        sick = any(other.rots or other.rotten for other in self._world.hosts.values())
        if len(self._world.newest_voters()) >= 3 and not sick and (not self._rotted or self._reckless):
            self._rotted = host.rots = True

    def _revive(self, host: Host) -> None:
        if host.node is None and not host.left:
            self._world.start(host)
