"""The network between hosts: it loses, doubles, delays and reorders; links are slow, and cut in either direction.

Owns which links are cut, and since when. Refuses to know what is sent.
"""

import zlib
from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

from intellectd.protocol import events as ev
from tests.sim.host import Host
from tests.sim.scenario import Weather
from tests.sim.timeline import Moment

if TYPE_CHECKING:
    from tests.sim.world import World

UNREACHABLE_S = 2.0  # until a call to somebody who is not there has failed
QUEUE_S_MAX = 10.0  # what waits longer for a slow link is dropped, as a full send queue drops it
WIDE_BYTES_S = 64_000.0  # a link from here on slows no transfer down
NARROW_MAX = 6.0  # and none slows it down more than so many times
Pair = tuple[str, str]


class Arrival(Moment):
    """A message that was posted, whatever has become of the link since, and of its host."""

    def __init__(self, world: "World", host: Host, event: ev.MessageReceived) -> None:
        super().__init__()
        self._world, self._host, self._event = world, host, event

    def happen(self) -> None:
        host = self._host
        if host.node is not None and not self._world.net.blocked(self._event.via, host.name):
            self._world.fire(host, host.life, self._event)


class Network:
    def __init__(self, world: "World", rng: Random) -> None:
        self._world, self.rng = world, rng
        self._draw: Callable[[], float] = rng.random
        self._weather = Weather()
        self._loss = self._duplicates = self._reorder = self._latency_s = self._jitter = 0.0
        self.weather = Weather()
        self._cuts: dict[Pair, int] = {}  # by how many faults
        self.changed: dict[Pair, float] = {}  # when a link was last cut or mended
        self.messages = self.bytes = 0
        self.sent_by: dict[str, int] = {}  # messages
        self._posted = ev.MessageReceived("", b"")  # the newest: what goes to many is one event

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        """Never changed in place: what each message asks for is taken out of it here."""
        self._weather = weather
        self._loss, self._duplicates, self._reorder = weather.loss, weather.duplicates, weather.reorder
        self._latency_s, self._jitter = weather.latency_s, weather.jitter

    # ---- links

    def blocked(self, source: str, target: str) -> bool:
        return bool(self._cuts) and (source, target) in self._cuts

    def cut(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self._cuts[pair] = self._cuts.get(pair, 0) + 1
            self.changed[pair] = self._world.now

    def mend(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self.changed[pair] = self._world.now
            left = self._cuts.pop(pair, 1) - 1
            if left > 0:
                self._cuts[pair] = left

    def mend_all(self) -> None:
        for pair in self._cuts:
            self.changed[pair] = self._world.now
        self._cuts = {}

    def joined(self, one: str, other: str, since: float) -> bool:
        """Has the link between them been whole, both ways, since then?"""
        pairs = ((one, other), (other, one))
        return not any(p in self._cuts or self.changed.get(p, -1.0) > since for p in pairs)

    # ---- messages

    def post(self, host: Host, peer: str, data: bytes) -> None:
        self.messages += 1
        self.sent_by[host.name] = self.sent_by.get(host.name, 0) + 1
        self.bytes += len(data)
        waits = self._queue(host, len(data))
        if waits > QUEUE_S_MAX:
            return
        copies = 2 if self._duplicates and self._draw() < self._duplicates else 1
        for _ in range(copies):
            if not self._loss or self._draw() >= self._loss:
                self._deliver(host.name, peer, data, waits + self.delay())

    def delay(self) -> float:
        late = 10 if self._draw() < self._reorder else 1
        return self._latency_s * (1 + self._jitter * (2 * self._draw() - 1)) * late

    def _queue(self, host: Host, length: int) -> float:
        """How long this waits for what goes up the same link before it."""
        if host.uplink is None:
            return 0.0
        now = self._world.now
        free_at = max(now, host.sending_until)
        if free_at - now <= QUEUE_S_MAX:
            free_at += length / host.uplink
            host.sending_until = free_at
        return free_at - now

    def _deliver(self, source: str, target: str, data: bytes, delay: float) -> None:
        host = self._world.hosts.get(target)
        if host is not None:
            if self._posted.data is not data or self._posted.via != source:
                self._posted = ev.MessageReceived(source, data)
            self._world.timeline.push(self._world.now + delay, Arrival(self._world, host, self._posted))

    def call(
        self, host: Host, peer: str, call: str, answer: Callable[[Host], ev.Event], generation: bytes = b""
    ) -> None:
        world, target = self._world, self._world.hosts.get(peer)
        cut = self.blocked(host.name, peer) or self.blocked(peer, host.name)
        if target is None or target.node is None or cut or target.stopped(world.now):
            world.tell(host, ev.CallFailed(peer, call, "unreachable", generation), UNREACHABLE_S)
        else:
            world.tell(host, answer(target), 2 * self.delay())

    # ---- bulk

    def fetch(
        self,
        host: Host,
        donor: str,
        has: Callable[[Host], bool],
        good: Callable[[], ev.Event],
        bad: ev.Event,
        size: float = 1.0,
    ) -> None:
        """`size`: times as long as what is small takes."""
        world, life = self._world, host.life
        source = world.hosts.get(donor)

        def arrive() -> None:
            if host.life == life:
                there = source is not None and source.node is not None and not self.blocked(donor, host.name)
                world.tell(host, good() if source is not None and there and has(source) else bad)

        slow = self.narrowness([source] if source is not None else [])
        world.at(self.rng.uniform(0.3, 1.5) * slow * size, arrive)

    def probe(self, host: Host, peer: str) -> None:
        """What sending to this peer shows, if there is a way to it."""
        target = self._world.hosts.get(peer)
        if target is not None and target.node is not None and not self.blocked(host.name, peer):
            self._world.tell(host, self.measured(host, peer), self.rng.uniform(0.3, 1.5))

    def measured(self, host: Host, peer: str) -> ev.LinkMeasured:
        """Each pair has a width of its own, which the hosts' lines bound and the weather blurs."""
        pair = WIDE_BYTES_S * (1 + zlib.crc32(f"{host.name} {peer}".encode()) % 16)
        lines = [h.uplink for h in (host, self._world.hosts[peer]) if h.uplink is not None]
        return ev.LinkMeasured(peer, min([pair, *lines]) * self.rng.uniform(0.7, 1.4), 2 * self.delay())

    def narrowness(self, hosts: Iterable[Host]) -> float:
        """How many times longer a transfer takes over the narrowest link of these."""
        rates = [host.uplink for host in hosts if host.uplink is not None]
        return min(max(1.0, WIDE_BYTES_S / min(rates)), NARROW_MAX) if rates else 1.0
