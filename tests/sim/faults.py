"""What befalls a world: each kind of fault, and what it does to the host that it names.

Owns which faults a run must survive (a voter's disk is only lost while the others are a quorum without it) and how
many took effect. Refuses to know the protocol, and draws nothing: every number is in the scenario.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

from intellectd.protocol import events as ev
from intellectd.protocol.branch import FIRST_ATTEMPT, branch_bytes
from intellectd.protocol.ids import NO_HASH, Ballot
from intellectd.protocol.records import Certificate, Entry, Vote
from intellectd.protocol.recovery import NoRecovery
from tests.sim.host import CrashPoint, Disk, Host, roots_of
from tests.sim.network import Pair
from tests.sim.scenario import CALM_S, Fault, Scenario, Weather
from tests.sim.tags import QuickCrypto
from tests.sim.truth import enough
from tests.sim.world import OWNER, RUN, World

Spells = Sequence[Sequence[float]]  # of a cut: (begins, ends), in seconds after it strikes; several: it flaps


class Faults:
    def __init__(self, world: World, scenario: Scenario) -> None:
        self._world, self._scenario = world, scenario
        self.counts: Counter[str] = Counter()
        self._calm_at = scenario.seconds - CALM_S

    def schedule(self) -> None:
        """They come until it is calm; then the weather clears and everybody is started again."""
        for fault in self._scenario.faults:
            if fault.at < self._calm_at:
                self._world.at(fault.at, self._strike, fault)
        self._world.at(max(0.0, self._calm_at), self._calm)

    def _strike(self, fault: Fault) -> None:
        host = self._world.hosts.get(fault.host)
        if host is not None and KINDS[fault.kind](self, host, **fault.params) is not False:
            self.counts[fault.kind] += 1
            self._world.say(host, f"FAULT {fault.kind} {fault.params or ''}")

    def _calm(self) -> None:
        world = self._world
        world.net.weather = Weather(ring_s=world.weather.ring_s)
        world.net.mend_all()
        world.crash_points.clear()
        for host in world.hosts.values():
            host.stopped_until = host.full_until = host.event_s = 0.0
            host.uplink = None
            world.revive(host)
        if world.trace:
            world.log.append(f"{world.now:9.3f} CALM")

    # ---- daemons and machines

    def crash(self, host: Host, back: float, machine: bool = False) -> bool:
        """kill -9; with `machine`, the trainer beside it goes too."""
        if host.node is None:
            return False
        if machine:
            host.trainer.life += 1
            host.trainer.working = False
        self._world.die(host, back, "")
        return True

    def crash_point(self, host: Host, effect: str, skip: int, back: float) -> None:
        """Between two effects: just before one of that kind."""
        self._world.crash_points[host.name] = CrashPoint(effect, skip, back)

    def freeze(self, host: Host, seconds: float) -> None:
        """The process is stopped, and goes on later as if nothing had been."""
        host.stopped_until = self._world.now + seconds
        host.steady_since = host.stopped_until

    def slow(self, host: Host, event_s: float, seconds: float) -> None:
        """Each event takes it so long."""
        host.event_s = event_s
        self._later(host, seconds, "event_s", 0.0)

    def trainer(self, host: Host) -> None:
        self._world.training.die(host)

    def clock(self, host: Host, wall: float, jump: float) -> None:
        """The wall clock is set; the monotonic one, which never goes back, leaps as after a suspended machine."""
        host.wall_offset_s += wall
        host.clock_offset_s += jump

    # ---- links

    def split(self, host: Host, side: list[str], spells: Spells) -> bool:
        there = [name for name in self._world.hosts if name not in side]
        return self._cut([*product(side, there), *product(there, side)], spells)

    def one_way(self, host: Host, side: list[str], spells: Spells) -> bool:
        """Nothing comes out of that side, everything goes in."""
        return self._cut([*product(side, (name for name in self._world.hosts if name not in side))], spells)

    def deaf(self, host: Host, spells: Spells) -> bool:
        """It hears nobody, and everybody hears it."""
        return self._cut([(name, host.name) for name in self._world.hosts if name != host.name], spells)

    def mute(self, host: Host, spells: Spells) -> bool:
        return self._cut([(host.name, name) for name in self._world.hosts if name != host.name], spells)

    def pair(self, host: Host, other: str, spells: Spells) -> bool:
        """Two hosts that cannot reach each other; the others reach both."""
        pairs = [(host.name, other), (other, host.name)]
        return self._cut(pairs if other != host.name else [], spells)

    def narrow(self, host: Host, uplink: float, seconds: float) -> None:
        before, host.uplink = host.uplink, uplink
        self._later(host, seconds, "uplink", before)

    def _cut(self, pairs: list[Pair], spells: Spells) -> bool:
        net, world = self._world.net, self._world

        def mend() -> None:
            if world.now < self._calm_at:
                net.mend(pairs)

        for begins, ends in spells:
            if world.now + begins < self._calm_at:
                world.at(begins, lambda: net.cut(pairs))
                world.at(ends, mend)
        return bool(pairs)

    # ---- disks

    def wipe(self, host: Host, back: float) -> bool:
        """Its disk is lost, its key is not: a voter without memory."""
        if host.leaving or not host.disk.entries or (self._scenario.must_go_on and not self._can_lose(host)):
            return False
        if self._scenario.forks and not (self._held_elsewhere(host) and self._leaves_quorums(host)):
            return False
        world = self._world
        world.die(host, back, "and its disk is lost")
        host.disk = Disk()
        world.truth.wiped(host)
        host.joined = [name for name in sorted(world.hosts) if name != host.name]
        return True

    def _can_lose(self, host: Host) -> bool:
        """Without its vote and its log, the others are a quorum that has the newest record, and one of the next if that
        has been voted on: it may yet be decided, and names those that have forgotten their votes. So may the record of
        who computes together now."""
        world, voters = self._world, self._world.newest_voters()
        newest, hosts = max(world.truth.entries, default=-1), world.hosts
        knowing = [v for v in self._sane_without(host) if len(hosts[v].disk.entries) > newest]
        knowing = [v for v in knowing if hosts[v].disk.snapshots and not hosts[v].leaving]
        votes = [h.disk.vote for h in hosts.values() if h.disk.vote is not None]
        for value in [vote.accepted.record for vote in votes if vote.accepted and vote.at.round > newest]:
            kept = [v for v in value.next_voters if v != host.name and not world.truth.forgetful(v)]
            if not enough(value.next_voters, kept):
                return False
        for node in [h.node for h in hosts.values() if h.node is not None and h.node.head.round == newest]:
            plan = node.round.parts.exchange.plan
            together = [m.peer for m in plan.members] if plan is not None else []
            kept = [v for v in together if v != host.name and not world.truth.forgetful(v)]
            if host.name in together and 2 * len(kept) <= len(together):  # which of them is senior is not known yet
                return False
        return host.name not in voters or (len(voters) >= 4 and enough(voters, knowing))

    def _held_elsewhere(self, host: Host) -> bool:
        """What the others have records of, they can come to without this host. A fork may be of one host, and all may
        follow it the moment before its disk is lost; then the owner must say from where to go on (SPEC G5)."""
        others = [h.disk for h in self._world.hosts.values() if h is not host]
        for disk in others:
            for entry in disk.entries[max(disk.snapshots, default=-1) + 1 :]:
                at, roots = entry.record.round, roots_of(entry)
                ahead = (
                    max(d.snapshots) >= at < len(d.entries) and d.entries[at].record == entry.record
                    for d in others
                    if d.snapshots
                )
                held = any(root in d.updates for d in others for root in roots)
                if roots != [NO_HASH] and not held and not any(ahead):
                    return False
        return True

    def _leaves_quorums(self, host: Host) -> bool:
        """On every line, as any may be the one that stands in the end: a branch may be of two, one of whom forgets,
        and who came to it later may open no other (SPEC G9)."""
        newest = [h.disk.entries[-1].record.next_voters for h in self._world.hosts.values() if h.disk.entries]
        forgetful = self._world.truth.forgetful
        kept = [[v for v in voters if v != host.name and not forgetful(v)] for voters in newest]
        return all(host.name not in voters or enough(voters, left) for voters, left in zip(newest, kept, strict=True))

    def _sane_without(self, host: Host) -> list[str]:
        """The other voters with a memory and the right state."""
        hosts, truth = self._world.hosts, self._world.truth
        others = [v for v in self._world.newest_voters() if v != host.name and not truth.forgetful(v)]
        return [v for v in others if not hosts[v].rots and not hosts[v].rotten]

    def full(self, host: Host, seconds: float) -> bool:
        """Its disk takes no more votes, records and updates: the daemon stops loudly, until a person made room."""
        host.full_until = self._world.now + seconds
        host.steady_since = host.full_until
        return True

    def rot(self, host: Host) -> bool:
        """A bit flips in its state: of three that stay one on another state is not right by itself. One at a time."""
        hosts = self._world.hosts
        sick = any(other.rots or other.rotten for other in hosts.values())
        staying = [v for v in self._world.newest_voters() if not hosts[v].leaving]
        if sick or len(staying) < 3:
            return False
        host.rots = True
        return True

    # ---- comings and goings

    def recover(self, host: Host, signs: float) -> bool:
        """`intellectd recover`: its daemon drafts, the owner signs after a while, the daemon announces."""
        try:
            return host.node is not None and recover(self._world, host, signs)
        except NoRecovery:
            return False

    def join(self, host: Host, name: str) -> bool:
        """A new host, which knows this one."""
        if name in self._world.hosts:
            return False
        self._world.add(name, [host.name])
        return True

    def leave(self, host: Host) -> bool:
        """The operator takes it out: it says so, and stops when it has lost its seat."""
        world = self._world
        staying = [h for h in world.hosts.values() if not h.leaving]
        going = any(h.leaving and not h.left for h in world.hosts.values())
        if going or host.leaving or host.node is None or len(staying) < 3 or not world.truth.entries:
            return False
        world.leave(host)
        return True

    # ---- inside

    def _later(self, host: Host, seconds: float, name: str, value: float | None) -> None:
        def change() -> None:
            if self._world.now < self._calm_at:
                setattr(host, name, value)
                host.steady_since = self._world.now

        host.steady_since = self._world.now + seconds
        self._world.at(seconds, change)


def recover(world: World, host: Host, signs_s: float = 0.0) -> bool:
    """By the owner's word, given so many seconds after the draft. Raises NoRecovery."""
    assert host.node is not None
    record, blob = host.node.recovery_draft(host.clock(world.now))
    vote = Vote(OWNER, QuickCrypto(OWNER).sign(branch_bytes(RUN, record)))
    certificate = Certificate(Ballot(FIRST_ATTEMPT, host.name), [vote])
    world.tell(host, ev.RecoverySigned(Entry(record, blob, certificate)), signs_s)
    return True


KINDS: dict[str, Callable[..., bool | None]] = {
    "crash": Faults.crash,
    "crash-point": Faults.crash_point,
    "freeze": Faults.freeze,
    "slow": Faults.slow,
    "trainer": Faults.trainer,
    "clock": Faults.clock,
    "split": Faults.split,
    "one-way": Faults.one_way,
    "deaf": Faults.deaf,
    "mute": Faults.mute,
    "pair": Faults.pair,
    "narrow": Faults.narrow,
    "wipe": Faults.wipe,
    "full": Faults.full,
    "rot": Faults.rot,
    "join": Faults.join,
    "leave": Faults.leave,
    "recover": Faults.recover,
}
