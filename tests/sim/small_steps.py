"""What one small host can do from each of its states, each step taken once with the production machines.

Owns the tables: states of a host and messages become numbers, a set of messages the bits of an integer. That is what
makes a search over millions of states of all hosts cheap. Refuses to know the other hosts.

Two states of a host are one when everything in its machines but the time is equal, and so is its disk; of a log
the records count, not which quorum signed them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from intellectd.protocol import effects as ef
from intellectd.protocol import messages as m
from intellectd.protocol.entries import record_hash
from intellectd.protocol.ids import Ballot, encode
from intellectd.protocol.leader import ACCEPT, PREPARE, REDUCE
from tests.sim.small import Disk, Event, Learn, Small, Take
from tests.sim.small_host import SmallHost

# Shared by all states of a host, looked at elsewhere, or of no weight without a clock.
_SHARED = ("context", "_context", "head", "_head", "members", "_members", "timers", "_timers", "_decision", "held")
_WORKED_OUT = ("_looked_at", "_alive", "_asked")  # of what was asked, which changes nothing
_LEFT_OUT = dict.fromkeys((*_SHARED, *_WORKED_OUT, "attempts", "reason", "_suspicion", "_said_at"))


@dataclass(slots=True)
class Local:
    """A state of one host, and how to come to it again."""

    name: str
    disk: Disk  # at its last start
    events: tuple[Event, ...]  # since
    now: Disk
    log: tuple[bytes, ...]
    choices: list[Event]
    leads: tuple[Ballot, str] | None
    live: SmallHost | None = None  # the machines themselves, until the first step that uses them up
    restarts_as: int | None = None
    looked_at: int = 0  # messages: whether they do anything here is known
    idle: int = 0  # of those: which do nothing in this state
    over: int = 0  # of those: which do nothing in any later state either


@dataclass(frozen=True, slots=True)
class Outcome:
    local: int
    said: int
    crashed: bool = False


@dataclass
class Steps:
    world: Small
    rounds: int
    ballots: int
    crashes: bool
    locals: list[Local] = field(default_factory=list)
    messages: list[tuple[str, str, Any]] = field(default_factory=list)  # (sender, receiver, message)
    votes: int = 0  # which messages are votes
    taken: int = 0

    def __post_init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._message_numbers: dict[Any, int] = {}
        self._memo: dict[Any, list[Outcome]] = {}
        self.addressed = dict.fromkeys(self.world.hosts, 0)
        self.votes_on = [0] * self.rounds  # as above, by the round of the decision

    # ---- states

    def start(self, name: str, disk: Disk) -> int:
        key = (name, _disk_key(disk))
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = self._number(SmallHost(self.world, name, disk), disk, ())
        return found

    def restart(self, local: int) -> int:
        it = self.locals[local]
        if it.restarts_as is None:
            it.restarts_as = self.start(it.name, it.now)
        return it.restarts_as

    def _number(self, host: SmallHost, disk: Disk, events: tuple[Event, ...]) -> int:
        leads = host.company.attempt if host.round.leading.attempt else -1
        key = (host.name, _disk_key(host.disk), leads, _canonical(host.round))
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.locals)
            log = tuple(record_hash(entry.record) for entry in host.disk.entries)
            choices = list(host.choices(self.rounds, self.ballots))
            attempt = host.round.leading.attempt
            leads = (attempt.ballot, attempt.phase) if attempt else None
            self.locals.append(Local(host.name, disk, events, host.disk, log, choices, leads, host))
        return found

    def _machines(self, it: Local) -> SmallHost:
        host, it.live = it.live, None
        if host is None:
            host = SmallHost(self.world, it.name, it.disk)
            for event in it.events:
                host.handle(event)
        return host

    # ---- steps

    def choose(self, local: int, event: Event) -> list[Outcome]:
        return self._remembered((local, event), local, event)

    def learn(self, local: int, event: Learn) -> list[Outcome]:
        return self._remembered((local, record_hash(event.entry.record)), local, event)

    def take(self, local: int, message: int) -> list[Outcome]:
        sender, _, body = self.messages[message]
        return self._remembered((local, message), local, Take(sender, body))

    def look(self, local: int, soup: int) -> Local:
        """Find out what each message does here."""
        it = self.locals[local]
        new = soup & self.addressed[it.name] & ~it.looked_at
        for number in bits(new):
            if self.take(local, number) == [Outcome(local, 0)]:
                it.idle |= 1 << number
                it.over |= self._is_over(it, self.messages[number][2]) << number
        it.looked_at |= new
        return it

    def _is_over(self, it: Local, message: m.AnyMessage) -> bool:
        """It did nothing; will it ever? What makes it late is on the disk, so that no crash undoes it."""
        if message.at.round < len(it.log):
            return True
        promised = it.now.vote.promised if it.now.vote else None
        if promised is None or message.at != it.now.vote.at:
            return False
        if isinstance(message, m.Prepare | m.Accept | m.Plan):
            return message.ballot < promised
        # An answer to an attempt that is over: none is begun again, because its leader's own promise is on disk.
        answer = isinstance(message, m.Promise | m.Refuse | m.Accepted)
        return answer and message.ballot <= promised and it.leads not in _awaiting(message)

    def _remembered(self, key: Any, local: int, event: Event) -> list[Outcome]:
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._step(local, event)
        return found

    def _step(self, local: int, event: Event) -> list[Outcome]:
        """What comes of an event, and of a crash between any two of its effects."""
        self.taken += 1
        it = self.locals[local]
        host, disk, said = self._machines(it), it.now, 0
        cuts: dict[Any, Outcome] = {}
        for effect in host.handle(event):
            if self.crashes and (disk != it.now or said):
                cuts.setdefault((_disk_key(disk), said), Outcome(self.start(it.name, disk), said, True))
            disk = disk.after(effect)
            said |= self._said(host.name, effect)
        whole = Outcome(self._number(host, it.disk, (*it.events, event)), said)
        return [whole, *cuts.values()]

    def _said(self, sender: str, effect: ef.Out) -> int:
        if not isinstance(effect, ef.To):
            return 0
        key = (effect.peer, sender, encode(effect.message))
        number = self._message_numbers.get(key)
        if number is None:
            number = self._message_numbers[key] = len(self.messages)
            self.messages.append((sender, effect.peer, effect.message))
            if effect.peer != sender:  # to oneself it came in place; it counts only as a vote
                self.addressed[effect.peer] |= 1 << number
            if isinstance(effect.message, m.Accepted):
                self.votes |= 1 << number
                self.votes_on[effect.message.at.round] |= 1 << number
        return 1 << number


def bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        mask ^= low
        yield low.bit_length() - 1


def _awaiting(answer: m.Promise | m.Refuse | m.Accepted) -> list[tuple[Ballot, str]]:
    """The phases of its attempt in which an answer may count."""
    phases = {m.Promise: [PREPARE], m.Accepted: [ACCEPT]}.get(type(answer), [PREPARE, REDUCE, ACCEPT])
    return [(answer.ballot, phase) for phase in phases]


def _disk_key(disk: Disk) -> Any:
    log = tuple(record_hash(entry.record) for entry in disk.entries)
    return log, _canonical(disk.vote), disk.held


def _canonical(value: Any) -> Any:
    """Everything in it, as tuples; dictionaries in their order, since machines may go by it."""
    if value is None or isinstance(value, bytes | str | int):
        return value
    if isinstance(value, float):
        return "a time"
    if isinstance(value, dict):
        return tuple((_canonical(k), _canonical(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(_canonical(v) for v in value)
    if hasattr(value, "__struct_fields__"):
        return encode(value)
    return (type(value).__name__, *((k, _canonical(v)) for k, v in sorted(vars(value).items()) if k not in _LEFT_OUT))
