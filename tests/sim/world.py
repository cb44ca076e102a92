"""A world on one heap: hosts that run the real Node, a network that loses and delays, disks that survive.

Owns virtual time and every random draw (one seed). Refuses to know why a node does what it does; tensors are
a hash chain: state after a round = hash(state before, update).
"""

from collections.abc import Callable
from random import Random
from typing import Any

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.farewell import farewell
from intellectd.protocol.head import Head
from intellectd.protocol.ids import hash_of
from intellectd.protocol.manifest import Manifest, RunConfig, Tensor, canonical
from intellectd.protocol.node import Node
from intellectd.protocol.seat import first_mark
from tests.sim.config import sim_config
from tests.sim.decoded import Memory, once
from tests.sim.host import ASKED_S, STATE_BYTES, CrashPoint, Host
from tests.sim.network import Network
from tests.sim.rings import Rings
from tests.sim.scenario import Weather
from tests.sim.tags import QuickCrypto
from tests.sim.timeline import Call, Timeline
from tests.sim.training import Training
from tests.sim.truth import Truth
from tests.sim.violation import Violation

RUN = hash_of("sim-run")
THETA0 = hash_of("sim-theta-0")
OWNER = "KEY"
TICK = ev.Tick()
READER = QuickCrypto(OWNER)  # it checks anybody's
SNAPSHOT_ROUNDS = 3
DISCOVERY_S = 20.0
CONFESSIONS = ("progress_dropped", "delta_refused", "switched")  # notes that say of a host's own work that it is lost
# Where an envelope says what it is: after the run, the sender and the lengths of them. No run key contains it.
BEACON, TAG_ENDS = b"\xa6beacon", 64
WRITES = (ef.PersistVote, ef.AppendEntry, ef.StartTransfer, ef.FetchUpdate)  # what a full disk refuses, loudly


class World:
    def __init__(self, seed: int, config: RunConfig | None = None) -> None:
        self.rng, self.seed, self.now = Random(seed), seed, 0.0
        self.config = config or sim_config()
        self.hosts: dict[str, Host] = {}
        self.net = Network(self, Random(f"network {seed}"))
        self.crash_points: dict[str, CrashPoint] = {}
        self.state_size = 1.0  # how many times longer than an update a state takes to fetch
        self.rings, self.training = Rings(self), Training(self)
        self.log: list[str] = []
        self.trace = False
        self.handled = 0
        self._manifest: Manifest | None = None
        self._truth: Truth | None = None
        self.timeline = Timeline()
        self._stood = False  # the host of the event at hand is where it was before
        self._beacon = self._said = b""  # the newest that was sent, and of the rest
        self._message: m.AnyMessage | None = None  # in that
        self._memory = Memory()

    @property
    def weather(self) -> Weather:
        return self.net.weather

    @property
    def truth(self) -> Truth:
        assert self._truth is not None, "nobody has founded the run"
        return self._truth

    # ---- hosts

    def add(self, name: str, knows: list[str]) -> Host:
        """A new host; the first founds the run."""
        host = self.hosts[name] = Host(name, speed=self.rng.uniform(0.9, 1.1), joined=knows)
        drift = self.weather.drift
        host.clock_offset_s, host.clock_rate = self.rng.uniform(0, 1e5), self.rng.uniform(1 - drift, 1 + drift)
        host.wall_offset_s = self.rng.uniform(0, 1e5)
        if self._manifest is None:
            tensors = [Tensor("w", [256])]
            self._manifest = Manifest(1, canonical(self.config), OWNER, bytes(32), [name], tensors, THETA0)
            self._truth = Truth(name, THETA0, OWNER, self.config)
            host.disk.snapshots[-1] = THETA0
            host.disk.vote = first_mark(Head(self._manifest, RUN, None))
        self.start(host)
        return host

    def start(self, host: Host) -> None:
        assert self._manifest is not None
        host.life += 1
        host.steady_since, host.tick_at = self.now, 0.0
        disk = host.disk
        newest = max(disk.snapshots, default=None)
        host.state = (newest, disk.snapshots[newest]) if newest is not None else None
        host.anchor, host.rotten = None, False  # no wrong state is ever on disk, and nothing but states
        host.node = Node(
            peer=host.name,
            run=RUN,
            manifest=self._manifest,
            crypto=QuickCrypto(host.name),
            rng=Random(self.rng.random()),
            now=host.clock(self.now),
            incarnation=host.next_incarnation(self.now),
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
        self._arm(host)
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
        host.steady_since = self.now
        host.node, host.state, host.attached = None, None, False

    def leave(self, host: Host) -> None:
        """The operator's `leave`: the daemon goes when its vote is gone; a crash on the way changes nothing."""
        host.leaving = True
        self.tell(host, ev.LeaveRequested())
        life = host.life

        def look() -> None:
            if host.life == life and host.node is not None:
                # Its operator heeds what it says of the others.
                if host.name in host.node.head.voters or self._is_missed(host, host.node):
                    self.at(1.0, look)
                else:
                    host.left = True
                    self.kill(host)

        self.at(1.0, look)

    def _is_missed(self, host: Host, node: Node) -> bool:
        now = host.clock(self.now)
        alive, sparse = node.membership.alive_beacons(now), node.membership.sparse
        stand = farewell(host.name, node.head, node.catchup.reach, alive, sparse=sparse)
        return stand.must_stay or stand.takes_last_state

    def newest_voters(self) -> list[str]:
        """Of the newest record that anybody has."""
        newest = max(self.truth.entries, default=None)
        return list(self.truth.entries[newest].record.next_voters) if newest is not None else []

    # ---- time

    def at(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        self.timeline.push(self.now + delay, Call(action, arguments))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Advance virtual time; True when `until` came true, which is about where hosts stand: of an event that moved
        none it is not asked."""
        end, timeline, asked = self.now + seconds, self.timeline, False
        with once(self._memory):
            while timeline.next_at() <= end:
                self._stood = False
                moment = timeline.pop()
                self.now = moment.at
                moment.happen()
                if until is not None and not (self._stood and asked):
                    asked = True
                    if until():
                        return True
        self.now = end
        return until is not None and until()

    def tell(self, host: Host, event: ev.Event, delay: float = 0.0) -> None:
        """An event for this life of a host; a stopped process gets it when it goes on, in its turn."""
        self.at(delay, self.fire, host, host.life, event)

    def fire(self, host: Host, life: int, event: ev.Event) -> None:
        """Now."""
        if host.life == life and host.node is not None:
            if self.now < host.stopped_until:
                self.at(host.stopped_until - self.now, self.fire, host, life, event)
            else:
                self._handle(host, event)

    def _arm(self, host: Host) -> None:
        """The tick that the node asks for now: the one before was for another moment."""
        assert host.node is not None
        now = host.clock(self.now)
        wait = min(max((host.node.deadline(now) - now) / host.clock_rate + 1e-6, 0.01), 5.0)  # by the world's clock
        if self.now < host.tick_at <= self.now + wait:
            return  # an earlier tick asks again
        host.tick_at = self.now + wait
        self.at(wait, self._tick, host, host.life, host.tick_at)

    def _tick(self, host: Host, life: int, moment: float) -> None:
        if host.life == life and host.tick_at == moment:
            if self.now < host.stopped_until:
                self.at(host.stopped_until - self.now, self._tick, host, life, moment)
            else:
                self._handle(host, TICK)

    def _handle(self, host: Host, event: ev.Event) -> None:
        assert host.node is not None
        life, head, state = host.life, host.node.head, host.state
        self.handled += 1
        if host.event_s:
            host.stopped_until = self.now + host.event_s
        effects = host.node.handle(event, host.clock(self.now))
        if self.handled % 64 == 0:
            self.truth.bounded(host.node, len(self.hosts))
        for effect in effects:
            if self.crash_points:
                self._crash_before(host, effect)
            if host.life == life:
                self._perform(host, effect)
            if host.life != life:
                return
        self._stood = host.node.head is head and host.state is state
        self._arm(host)

    def _crash_before(self, host: Host, effect: ef.Effect) -> None:
        point = self.crash_points.get(host.name)
        if point is not None and point.is_here(effect):
            del self.crash_points[host.name]
            self.die(host, point.back_s, f"before {type(effect).__name__}")

    def die(self, host: Host, back_s: float, why: str) -> None:
        """The daemon ends here and is started again after a while."""
        self.say(host, f"DIES {why}, back in {back_s:.1f} s")
        self.kill(host)
        self.at(back_s, lambda: self.revive(host))

    def revive(self, host: Host) -> None:
        if host.node is None and not host.left:
            self.say(host, "STARTS")
            self.start(host)

    def say(self, host: Host, text: str) -> None:
        if self.trace:
            self.log.append(f"{self.now:9.3f} {host.name:>4} {text}")

    # ---- effects

    def _perform(self, host: Host, effect: ef.Effect) -> None:  # noqa: PLR0912 - one case an effect
        if self.now < host.full_until and isinstance(effect, WRITES):
            return self.die(host, host.full_until - self.now + 1.0, "of a full disk")
        match effect:
            case ef.Send():
                self._send(host, effect)
            case ef.AskEntries():
                self.net.call(host, effect.peer, "entries", lambda p: self._entries(p, effect), effect.generation)
            case ef.AskMembers():
                self.net.call(host, effect.peer, "members", self._members)
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
            case ef.ProbeLink():
                self.net.probe(host, effect.peer)
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
                self.training.freeze(host)
            case ef.PeerFault():
                raise Violation(f"{host.name} blames {effect.peer}: {effect.reason}")
            case ef.Halt():
                raise Violation(f"{host.name} halts: {effect.reason}")
            case ef.Note():
                if effect.event == "restless":
                    raise Violation(f"{host.name} does not come to rest")
                host.confessed = host.confessed or effect.event in CONFESSIONS
                self.say(host, f"{effect.event}: {effect.text}")

    def _send(self, host: Host, effect: ef.Send) -> None:
        data = effect.data
        if data is not self._beacon:  # beacons are many and promise nothing
            if BEACON in data[:TAG_ENDS]:
                self._beacon = data
            else:
                if data is not self._said:
                    envelope = self._memory.open_envelope(data)
                    self._said, self._message = data, self._memory.open_message(envelope, READER)
                if self._message is not None:
                    self.truth.said(host, self._message)
        self.net.post(host, effect.peer, data)

    def _entries(self, donor: Host, effect: ef.AskEntries) -> ev.Event:
        known = donor.node is not None and donor.node.head.generation == effect.generation
        found = donor.disk.entries[effect.from_round :][:64] if known else []
        return ev.EntriesReceived(donor.name, tuple(found), effect.generation)

    def _members(self, donor: Host) -> ev.Event:
        return ev.MembersReceived(donor.name, tuple(donor.node.membership.envelopes()) if donor.node else ())

    # ---- states and updates

    def _fetch_update(self, host: Host, effect: ef.FetchUpdate) -> None:
        def hold() -> ev.Event:
            host.disk.updates[effect.root] = True
            return ev.UpdateHeld(effect.root)

        missed = ev.UpdateMissed(effect.root, effect.donor, "not there")
        self.net.fetch(host, effect.donor, lambda d: effect.root in d.disk.updates, hold, missed)

    def _fetch_snapshot(self, host: Host, effect: ef.FetchSnapshot) -> None:
        def install() -> ev.Event:
            host.state = (effect.round, effect.digest)
            if self.truth.after(host, effect.round) == effect.digest:  # else another line was taken meanwhile
                host.disk.snapshots[effect.round] = effect.digest
            host.anchor, host.steady_since = None, self.now if host.rotten else host.steady_since  # it was ill so far
            host.rotten = host.sound = False  # what the arena holds began from a state that is no more
            self.tell(host, self._held(host))
            return ev.SnapshotInstalled(effect.round, effect.digest, STATE_BYTES)

        missed = ev.SnapshotMissed(effect.round, effect.donor, "not there")
        rounds = (-1, 0) if effect.round < 0 else (effect.round,)  # the first parameters are the state after round 0
        has = lambda donor: effect.digest in [donor.disk.snapshots.get(r) for r in rounds]  # noqa: E731
        for name in [name for name in (effect.donor, *effect.others) if name in self.hosts]:
            self.hosts[name].disk.asked[effect.round] = self.now + ASKED_S * self.state_size
        self.net.fetch(host, effect.donor, has, install, missed, self.state_size)

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
        entry = host.disk.entries[effect.round] if effect.round < len(host.disk.entries) else None
        if entry is None or not self.truth.groups.may_apply(host, entry, effect.root):
            raise Violation(f"{host.name} applies round {effect.round}, which is not in its log")
        life, before = host.life, host.state[1]
        apart, was_apart = effect.anchor == "group", host.anchor is not None
        digest = before if effect.root is None or apart else hash_of("state", before, effect.root)

        def done() -> None:
            if host.life != life:
                return
            if host.disk.entries[effect.round : effect.round + 1] != [entry]:  # of a line that was left meanwhile
                host.state = None
                self.tell(host, ev.Applied(effect.round, digest))
                return
            if host.rots and len(self.newest_voters()) >= 3:  # the senior of two is right, whatever it says (Q1)
                host.rots, host.rotten = False, True
            after = hash_of("rot", digest) if host.rotten else digest
            host.anchor = (effect.root or host.anchor) if apart else None
            if not host.rotten:
                self.truth.applied(host, effect.round, digest)
            host.state = (effect.round, after)
            if effect.local == "adopt":
                self.training.discard(host, effect.round)
                host.sound = not host.rotten
            room = self.now >= host.full_until  # without it there is no snapshot, and a line in the log
            if not host.rotten and room and not apart and (was_apart or effect.round % SNAPSHOT_ROUNDS == 0):
                host.disk.snapshots[effect.round] = digest
                self.tell(host, self._held(host))
            self.tell(host, ev.Applied(effect.round, after))

        self.at(0.1, done)

    def _held(self, host: Host) -> ev.SnapshotsHeld:
        first = host.disk.prune(self.now)
        return ev.SnapshotsHeld(tuple(sorted(max(r, 0) for r in host.disk.snapshots)), first)
