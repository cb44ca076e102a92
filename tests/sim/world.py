"""A world on one heap: hosts that run the real Node, a network that loses and delays, disks that survive.

Owns virtual time and every random draw (one seed). Refuses to know why a node does what it does; tensors are
a hash chain: state after a round = hash(state before, update).
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.ids import NO_HASH, hash_of
from intellectd.protocol.manifest import Manifest, RunConfig, Tensor, canonical, config_from_toml
from intellectd.protocol.node import Node
from tests.sim.host import Host
from tests.sim.rings import Rings
from tests.sim.tags import TagCrypto
from tests.sim.training import Training
from tests.sim.truth import Truth, Violation

RUN = hash_of("sim-run")
THETA0 = hash_of("sim-theta-0")
OWNER = "KEY"
SNAPSHOT_ROUNDS = 3
DISCOVERY_S = 20.0


@dataclass
class Weather:
    """How bad it is, for everybody."""

    loss: float = 0.0
    duplicates: float = 0.0
    latency_s: float = 0.05
    crash_chance: float = 0.0  # before each effect
    ring_s: float = 1.0


class World:
    def __init__(self, seed: int, config: RunConfig | None = None) -> None:
        self.rng, self.seed, self.now = Random(seed), seed, 0.0
        self.config = config or sim_config()
        self.hosts: dict[str, Host] = {}
        self.weather = Weather()
        self.blocked: Callable[[str, str], bool] = lambda a, b: False
        self.rings, self.training = Rings(self), Training(self)
        self.log: list[str] = []
        self.trace = False
        self.messages = self.handled = 0
        self._manifest: Manifest | None = None
        self._truth: Truth | None = None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    @property
    def truth(self) -> Truth:
        assert self._truth is not None, "nobody has founded the run"
        return self._truth

    # ---- hosts

    def add(self, name: str, knows: list[str]) -> Host:
        """A new host; the first founds the run."""
        host = self.hosts[name] = Host(name, speed=self.rng.uniform(0.9, 1.1), joined=knows)
        host.clock_offset_s, host.clock_rate = self.rng.uniform(0, 1e5), self.rng.uniform(0.999, 1.001)
        if self._manifest is None:
            tensors = [Tensor("w", [256])]
            self._manifest = Manifest(1, canonical(self.config), OWNER, bytes(32), [name], tensors, THETA0)
            self._truth = Truth(name, THETA0, OWNER, self.config.swarm.on_quorum_loss == "fork")
            host.disk.snapshots[-1] = THETA0
        self.start(host)
        return host

    def start(self, host: Host) -> None:
        assert self._manifest is not None
        host.life += 1
        disk = host.disk
        newest = max(disk.snapshots, default=None)
        host.state = (newest, disk.snapshots[newest]) if newest is not None else None
        host.rotten = False  # no wrong state is ever on disk
        host.node = Node(
            peer=host.name,
            run=RUN,
            manifest=self._manifest,
            crypto=TagCrypto(host.name),
            rng=Random(self.rng.random()),
            now=host.clock(self.now),
            incarnation=max(0, int(host.clock(self.now) * 1000)),
            bulk=("bulk", b"cert"),
            entries=list(disk.entries),
            applied=host.state[0] if host.state else -2,
            applied_digest=host.state[1] if host.state else None,
            vote=disk.vote,
            other_votes=tuple(disk.votes.values()),
            held_updates=tuple(disk.updates),
        )
        for peer in [*host.joined, *(n for n in self.hosts if disk.entries and n != host.name)]:
            self.tell(host, ev.PeerLearned(peer, ("/ip4/127.0.0.1",)))
        self.tell(host, self._held(host))
        self.training.attach_soon(host)
        self._tick(host)
        self._discover(host, host.life)
        if host.leaving:
            self.leave(host)

    def _discover(self, host: Host, life: int) -> None:
        """What the hash table does for a host now and then: it names somebody who may be there."""
        if host.life == life:
            self.tell(host, ev.PeerLearned(self.rng.choice(sorted(self.hosts)), ("/ip4/127.0.0.1",)))
            self.at(DISCOVERY_S, lambda: self._discover(host, life))

    def kill(self, host: Host) -> None:
        host.life += 1
        host.node, host.state, host.attached = None, None, False

    def leave(self, host: Host) -> None:
        """The operator's `leave`: the daemon goes when its vote is gone; a crash on the way changes nothing."""
        host.leaving = True
        self.tell(host, ev.LeaveRequested())
        life = host.life

        def look() -> None:
            if host.life == life and host.node is not None:
                if host.name in host.node.head.voters:
                    self.at(1.0, look)
                else:
                    host.left = True
                    self.kill(host)

        self.at(1.0, look)

    def newest_voters(self) -> list[str]:
        """Of the newest record that anybody has."""
        newest = max(self.truth.entries, default=None)
        return list(self.truth.entries[newest].record.next_voters) if newest is not None else []

    # ---- time

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, action))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Advance virtual time; True when `until` came true."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
            if until():
                return True
        self.now = end
        return until()

    def tell(self, host: Host, event: ev.Event, delay: float = 0.0) -> None:
        """An event for this life of a host; a stopped process gets it when it goes on."""
        life = host.life

        def fire() -> None:
            if host.life == life and host.node is not None:
                if self.now < host.frozen_until:
                    self.at(host.frozen_until - self.now, fire)
                else:
                    self._handle(host, event)

        self.at(delay, fire)

    def _tick(self, host: Host) -> None:
        life, node = host.life, host.node
        assert node is not None
        now = host.clock(self.now)
        wait = min(max(node.deadline(now) - now, 0.01), 5.0)

        def fire() -> None:
            if host.life == life:
                if self.now >= host.frozen_until:
                    self._handle(host, ev.Tick())
                if host.life == life:
                    self._tick(host)

        self.at(wait, fire)

    def _handle(self, host: Host, event: ev.Event) -> None:
        assert host.node is not None
        life = host.life
        self.handled += 1
        effects = host.node.handle(event, host.clock(self.now))
        if self.handled % 64 == 0:
            self.truth.bounded(host.node)
        for effect in effects:
            if self.weather.crash_chance and self.rng.random() < self.weather.crash_chance:
                self.kill(host)
                back = self.rng.uniform(1.0, 30.0)
                self.at(back, lambda: self.start(host) if host.node is None and not host.left else None)
            if host.life != life:
                return
            self._perform(host, effect)

    # ---- effects

    def _perform(self, host: Host, effect: ef.Effect) -> None:  # noqa: PLR0912 - one case an effect
        match effect:
            case ef.Send():
                self._send(host, effect)
            case ef.AskEntries():
                self._call(host, effect.peer, "entries", lambda p: self._entries(p, effect), effect.generation)
            case ef.AskMembers():
                self._call(host, effect.peer, "members", self._members)
            case ef.PersistVote():
                self.truth.persisted(host, effect)
                host.disk.vote = host.disk.votes[effect.at.generation] = effect
            case ef.AppendEntry():
                self.truth.appended(host, effect.entry, self.hosts)
                host.disk.entries.append(effect.entry)
            case ef.Rebase():
                self._rebase(host, effect)
            case ef.StartTransfer():
                self.rings.start(host, effect)
            case ef.AbortTransfer():
                self.rings.abort(host, effect.transfer)
            case ef.FetchUpdate():
                self._fetch_update(host, effect)
            case ef.FetchSnapshot():
                self._fetch_snapshot(host, effect)
            case ef.ApplyUpdate():
                self._apply(host, effect)
            case ef.StartTraining():
                self.training.start(host, effect)
            case ef.Freeze():
                self.tell(host, ev.DeltaFrozen("3f800000", host.freeze()), 0.1)
            case ef.PeerFault():
                raise Violation(f"{host.name} blames {effect.peer}: {effect.reason}")
            case ef.Halt():
                raise Violation(f"{host.name} halts: {effect.reason}")
            case ef.Note():
                if effect.event == "restless":
                    raise Violation(f"{host.name} does not come to rest")
                if self.trace:
                    self.log.append(f"{self.now:9.3f} {host.name:>4} {effect.event}: {effect.text}")

    def _send(self, host: Host, effect: ef.Send) -> None:
        self.messages += 1
        envelope = m.open_envelope(effect.data)
        if b"beacon" not in envelope.body[:16]:  # the tag comes first; beacons are many and promise nothing
            self.truth.said(host, m.decode(envelope.body, m.AnyMessage))  # type: ignore[arg-type]
        copies = 2 if self.rng.random() < self.weather.duplicates else 1
        for _ in range(copies):
            if self.rng.random() >= self.weather.loss:
                self._deliver(host.name, effect.peer, ev.MessageReceived(host.name, effect.data))

    def _deliver(self, source: str, target: str, event: ev.Event) -> None:
        host = self.hosts.get(target)

        def arrive() -> None:
            if host is not None and host.node is not None and not self.blocked(source, target):
                self.tell(host, event)

        self.at(self.delay(), arrive)

    def delay(self) -> float:
        return self.weather.latency_s * self.rng.uniform(0.5, 1.5) * (10 if self.rng.random() < 0.01 else 1)

    def _call(
        self, host: Host, peer: str, call: str, answer: Callable[[Host], ev.Event], generation: bytes = b""
    ) -> None:
        target = self.hosts.get(peer)
        reachable = target is not None and target.node is not None and not self.blocked(host.name, peer)
        if not reachable or target is None or self.blocked(peer, host.name) or self.now < target.frozen_until:
            self.tell(host, ev.CallFailed(peer, call, "unreachable", generation), 2.0)
        else:
            self.tell(host, answer(target), 2 * self.delay())

    def _entries(self, donor: Host, effect: ef.AskEntries) -> ev.Event:
        found = [e for e in donor.disk.entries if e.record.round >= effect.from_round]
        known = donor.node is not None and donor.node.head.generation == effect.generation
        return ev.EntriesReceived(donor.name, tuple(found[:64]) if known else (), effect.generation)

    def _members(self, donor: Host) -> ev.Event:
        return ev.MembersReceived(donor.name, tuple(donor.node.membership.envelopes()) if donor.node else ())

    # ---- states and updates

    def _fetch(
        self, host: Host, donor: str, has: Callable[[Host], bool], good: Callable[[], ev.Event], bad: ev.Event
    ) -> None:
        source, life = self.hosts.get(donor), host.life

        def arrive() -> None:
            if host.life == life:
                there = source is not None and source.node is not None and not self.blocked(donor, host.name)
                self.tell(host, good() if source is not None and there and has(source) else bad)

        self.at(self.rng.uniform(0.3, 1.5), arrive)

    def _fetch_update(self, host: Host, effect: ef.FetchUpdate) -> None:
        def hold() -> ev.Event:
            host.disk.updates[effect.root] = True
            return ev.UpdateHeld(effect.root)

        missed = ev.UpdateMissed(effect.root, effect.donor, "not there")
        self._fetch(host, effect.donor, lambda d: effect.root in d.disk.updates, hold, missed)

    def _fetch_snapshot(self, host: Host, effect: ef.FetchSnapshot) -> None:
        def install() -> ev.Event:
            host.state = (effect.round, effect.digest)
            host.disk.snapshots[effect.round] = effect.digest
            host.rotten = host.sound = False  # what the arena holds began from a state that is no more
            self.tell(host, self._held(host))
            return ev.SnapshotInstalled(effect.round, effect.digest)

        missed = ev.SnapshotMissed(effect.round, effect.donor, "not there")
        self._fetch(host, effect.donor, lambda d: d.disk.snapshots.get(effect.round) == effect.digest, install, missed)

    def _rebase(self, host: Host, effect: ef.Rebase) -> None:
        """The log goes on from an older record; states after that one are of no use any more."""
        disk = host.disk
        self.truth.rebased(host, effect)
        disk.entries = disk.entries[: effect.round + 1]
        disk.snapshots = {r: digest for r, digest in disk.snapshots.items() if r <= effect.round}
        if host.state is not None and host.state[0] > effect.round:
            host.state = None
        for entry in effect.entries:
            self.truth.appended(host, entry, self.hosts)
            disk.entries.append(entry)
        self.tell(host, self._held(host))

    def _apply(self, host: Host, effect: ef.ApplyUpdate) -> None:
        if host.state is None or host.state[0] != effect.round - 1:
            raise Violation(f"{host.name} applies round {effect.round} on {host.state}")
        if effect.root is not None and effect.root not in host.disk.updates:
            raise Violation(f"{host.name} applies an update it does not hold")
        entry = next((e for e in host.disk.entries if e.record.round == effect.round), None)
        if entry is None or entry.record.update_root != (effect.root or NO_HASH):
            raise Violation(f"{host.name} applies round {effect.round}, which is not in its log")
        life, before = host.life, host.state[1]
        digest = before if effect.root is None else hash_of("state", before, effect.root)

        def done() -> None:
            if host.life != life:
                return
            if host.rots and len(self.newest_voters()) >= 3:  # the senior of two is right, whatever it says (Q1)
                host.rots, host.rotten = False, True
            after = hash_of("rot", digest) if host.rotten else digest
            if not host.rotten:
                self.truth.applied(host, effect.round, digest)
            host.state = (effect.round, after)
            if effect.local == "adopt":
                host.work, host.sound = [], not host.rotten
            if not host.rotten and effect.round % SNAPSHOT_ROUNDS == 0:
                host.disk.snapshots[effect.round] = digest
                self.tell(host, self._held(host))
            self.tell(host, ev.Applied(effect.round, after))

        self.at(0.1, done)

    def _held(self, host: Host) -> ev.SnapshotsHeld:
        first = host.disk.prune()
        return ev.SnapshotsHeld(tuple(sorted(max(r, 0) for r in host.disk.snapshots)), first)


def sim_config(until: int | None = None, attempt_s: float = 4.0, **swarm: int | str) -> RunConfig:
    """A run with ten-second rounds and timers at a fifth of the defaults."""
    timers = {"beacon_s": 1.0, "suspect_s": 4.0, "expel_s": 20.0, "stall_s": 3.0, "grace_max_s": 20.0, "fork_s": 30.0}
    data = {"name": "sim", "swarm": swarm, "timers": {**timers, "attempt_s": attempt_s}, "inner": {"steps": 10}}
    return config_from_toml({**data, "until": {"rounds": until} if until else {}})
