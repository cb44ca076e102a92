"""A host of the simulated world: what survives a crash, what does not, its clock, and its trainer.

Owns no behaviour of the protocol. Work is a list of data streams: what the arena holds beyond the anchor.
"""

from dataclasses import dataclass, field

from intellectd.protocol import effects as ef
from intellectd.protocol.ids import hash_of
from intellectd.protocol.node import Node
from intellectd.protocol.records import Entry, Group

Stream = tuple[int, int]
STATE_BYTES = 2048  # of 256 elements
ASKED_S = 10.0  # no fetch of an update takes longer
LOG_ROUNDS_MAX = 8  # of updates that are kept for whoever fetches a state: as many as take its room

WALL_S = 1e6  # when worlds begin: however far a clock is set back, it is no time before all time


@dataclass
class Disk:
    """What survives a crash of the daemon."""

    incarnation: int = 0
    entries: list[Entry] = field(default_factory=list)
    vote: ef.PersistVote | None = None  # the newest
    votes: dict[bytes, ef.PersistVote] = field(default_factory=dict)  # the newest of each generation
    snapshots: dict[int, bytes] = field(default_factory=dict)
    updates: dict[bytes, bool] = field(default_factory=dict)
    asked: dict[int, float] = field(default_factory=dict)  # until when somebody fetches this snapshot
    _decided: dict[bytes, int] = field(default_factory=dict)  # the round of each update of the first `_read` entries
    _read: int = 0
    _last: Entry | None = None  # of these

    def voted(self, generation: bytes) -> ef.PersistVote | None:
        """The newest there: whoever comes back to a line that it had left says what it promised there before."""
        return self.votes.get(generation, self.vote)

    def prune(self, now: float) -> int:
        """Two snapshots, one more that is being fetched, and the updates since the oldest; what was voted for and is
        not decided stays too."""
        asked = max((r for r, until in self.asked.items() if now < until), default=None)
        for old in sorted(self.snapshots)[:-2]:
            if old != asked or len(self.entries) - old > LOG_ROUNDS_MAX:
                del self.snapshots[old]
        first = max(0, min(self.snapshots, default=-1)) + 1
        voted = self.vote.accepted.record.update_root if self.vote and self.vote.accepted else b""
        decided = self._rounds()
        for root in [r for r in self.updates if decided.get(r, first) < first and r != voted]:
            del self.updates[root]
        return first

    def _rounds(self) -> dict[bytes, int]:
        """By update. The log only grows, or is left for another: an entry names the one before it, so that where the
        last one that was read still stands, all before it do."""
        if len(self.entries) < self._read or (self._read and self.entries[self._read - 1] is not self._last):
            self._decided, self._read = {}, 0
        for entry in self.entries[self._read :]:
            self._decided.update({root: entry.record.round for root in roots_of(entry)})
            self._last = entry
        self._read = len(self.entries)
        return self._decided


def roots_of(entry: Entry) -> list[bytes]:
    """The updates that somebody applies for this record: one, or one a group."""
    return [part.root for part in entry.record.shape if isinstance(part, Group)] or [entry.record.update_root]


@dataclass
class Delta:
    """A frozen delta: the data really in it, and whether its base was the anchor that it claims."""

    content: tuple[Stream, ...]
    sound: bool
    round: int = -2  # where the host stood: what else is in it, of a run in groups, is measured from there


@dataclass
class Trainer:
    """A process of its own, with parameters of its own: it may outlive the daemon."""

    life: int = 0  # events of an earlier one are dropped
    round: int | None = None
    holds: list[Stream] = field(default_factory=list)  # carried-over work inside its parameters
    job: list[Stream] = field(default_factory=list)
    done_at: float = 0.0
    working: bool = False


@dataclass
class CrashPoint:
    """A host dies before the effect that comes `skip` effects after the next one of this kind ("": of any)."""

    effect: str
    skip: int
    back_s: float
    met: bool = field(default=False)

    def is_here(self, effect: ef.Effect) -> bool:
        self.met = self.met or not self.effect or type(effect).__name__ == self.effect
        self.skip -= self.met
        return self.skip < 0


@dataclass
class Host:
    name: str
    disk: Disk = field(default_factory=Disk)
    node: Node | None = None
    life: int = 0  # events for an earlier life are dropped
    state: tuple[int, bytes] | None = None
    anchor: bytes | None = None  # the group's update that its trainer's rounds begin from; None: the state itself
    steady_since: float = 0.0  # nothing befell it since
    stopped_until: float = 0.0  # its process does not run: stopped, or busy with what came before
    full_until: float = 0.0  # its disk takes nothing
    event_s: float = 0.0  # of computing for each event: a slow peer
    speed: float = 1.0  # how many times slower its trainer is
    uplink: float | None = None  # bytes a second; None: as fast as anybody's
    sending_until: float = 0.0
    tick_at: float = 0.0
    clock_offset_s: float = 0.0  # of the monotonic clock, which everything but incarnations is told by
    clock_rate: float = 1.0
    wall_offset_s: float = 0.0  # of the clock on the wall, which operators and NTP set
    joined: list[str] = field(default_factory=list)
    trainer: Trainer = field(default_factory=Trainer)
    attached: bool = False
    work: list[Stream] = field(default_factory=list)  # in the arena, beyond the anchor
    confessed: bool = False  # it said that this work is lost
    sound: bool = True  # the arena's anchor is the state's, or the one kept aside
    deltas: dict[bytes, Delta] = field(default_factory=dict)
    leaving: bool = False  # by its operator's word, which outlives a crash
    left: bool = False
    rots: bool = False  # the next update is applied wrongly: a bit flips
    rotten: bool = False  # the state is not what the log says

    def clock(self, now: float) -> float:
        return now * self.clock_rate + self.clock_offset_s

    def stopped(self, now: float) -> bool:
        """Longer than to finish what it is at."""
        return now < self.stopped_until - self.event_s

    def next_incarnation(self, now: float) -> int:
        """By the wall clock, and above every one that the disk remembers (SPEC I5)."""
        wall_ms = int((WALL_S + now + self.wall_offset_s) * 1000)
        self.disk.incarnation = max(wall_ms, self.disk.incarnation + 1)
        return self.disk.incarnation

    def freeze(self) -> bytes:
        root = hash_of("delta", self.name.encode(), len(self.deltas).to_bytes(8, "big"))
        self.deltas[root] = Delta(tuple(sorted(self.work)), self.sound, self.state[0] if self.state else -2)
        return root
