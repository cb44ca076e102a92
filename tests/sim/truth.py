"""What must never happen, judged by an observer that sees every disk and every message. SPEC A*, R*, P*, L*.

Owns the rules in a form of their own, simpler than the machines': a mutated machine must not fool them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from intellectd.protocol import effects as ef
from intellectd.protocol import messages as m
from intellectd.protocol.ids import NO_HASH, At, Ballot, hash_of
from intellectd.protocol.manifest import RunConfig
from intellectd.protocol.node import Node
from intellectd.protocol.records import Entry, record_hash
from intellectd.protocol.seat import NO_BALLOT
from tests.sim import tables
from tests.sim.groups import Groups
from tests.sim.host import Host, Stream
from tests.sim.violation import Violation
from tests.sim.warmth import Warmth

TOKENS_PER_STREAM = 100


@dataclass
class Ballots:
    """Everything that was said about one decision."""

    voters: list[str]
    votes: dict[tuple[str, Ballot], bytes] = field(default_factory=dict)
    promised: dict[str, dict[Ballot, None]] = field(default_factory=dict)  # on disk, by voter
    chosen: tuple[Ballot, bytes] | None = None  # the first ballot that a quorum accepted


@dataclass
class Ledger:
    """What one line of records has used up. Lines that part have one each."""

    used: dict[Stream, int] = field(default_factory=dict)
    deltas: dict[bytes, int] = field(default_factory=dict)
    waiting: dict[Stream, None] = field(default_factory=dict)  # handed out, or left for later, and not used up
    tip: bytes = b""  # the record it stands after


@dataclass
class Link:
    """A point of history: what a record led to."""

    round: int
    state: bytes
    voters: list[str]
    generation: bytes | None
    parent: bytes | None
    entry: Entry | None
    ledger: Ledger


class Truth:
    def __init__(self, founder: str, theta0: bytes, owner: str, config: RunConfig) -> None:
        self._owner, self._forks = owner, config.swarm.on_quorum_loss == "fork"
        self.groups, self.warmth = Groups(config), Warmth(config)
        self.entries: dict[int, Entry] = {}  # the history of the record with the most tokens
        self.theta0 = theta0
        self._first = Link(-1, theta0, [founder], None, None, None, Ledger())
        self._links: dict[bytes, Link] = {}
        self._decided_at: dict[tuple[bytes, int], bytes] = {}  # one record a generation and round
        self._decisions: dict[At, Ballots] = {}
        # Whose disk was lost: the generations in which it had a seat then, each until it loses that.
        self._forgetful: dict[str, dict[bytes, None]] = {}
        self.largest = 0  # table of any machine

    # ---- what is said, and on disk

    def persisted(self, host: Host, vote: ef.PersistVote) -> None:
        """Called before the disk has it: a journal never goes back."""
        if vote.promised == NO_BALLOT:
            if vote.at.generation in host.disk.votes:
                raise Violation(f"the journal of {host.name} begins twice")
            return
        known, old = self._ballots(vote.at), host.disk.voted(vote.at.generation)
        same = old is not None and old.at == vote.at
        if same and old and (vote.promised < old.promised or (old.accepted is not None and vote.accepted is None)):
            raise Violation(f"the journal of {host.name} goes back from {old.promised} to {vote.promised}")
        known.promised.setdefault(host.name, {})[vote.promised] = None
        if vote.accepted is not None and vote.accepted_ballot is not None:
            self._voted(host, vote.at, vote.accepted_ballot, record_hash(vote.accepted.record))

    def wiped(self, host: Host) -> None:
        """Its disk is gone, and with it the memory of its votes: on each line on whose newest decision it has one."""
        newest: dict[bytes, Link] = {}
        for link in self._links.values():
            if link.generation and (link.generation not in newest or newest[link.generation].round < link.round):
                newest[link.generation] = link
        self._forgetful[host.name] = {g: None for g, link in newest.items() if host.name in link.voters}

    def forgetful(self, voter: str) -> bool:
        """On the line with the most tokens."""
        newest = self.entries.get(max(self.entries, default=-1))
        return newest is not None and newest.record.generation in self._forgetful.get(voter, {})

    def said(self, host: Host, message: m.AnyMessage) -> None:
        forgotten = self._forgetful.get(host.name, {})
        if isinstance(message, m.Promise | m.Accepted) and message.at.generation in forgotten:
            raise Violation(f"{host.name} votes without the memory of its votes")
        if isinstance(message, m.Promise):
            self._promised(host, message)
        elif isinstance(message, m.Accepted):
            self._accepted(host, message)
        elif isinstance(message, m.Accept):
            known = self._ballots(message.at)
            value = record_hash(message.proposal.record)
            if not enough(known.voters, [v for v, b in known.promised.items() if message.ballot in b]):
                raise Violation(f"{host.name} proposes in {message.ballot}, which no quorum has promised")
            if known.chosen and message.ballot > known.chosen[0] and value != known.chosen[1]:
                raise Violation(f"{host.name} proposes another value than the chosen one in {message.ballot}")

    def _stands_there(self, host: Host, at: At) -> None:
        """Whoever takes part in a decision has the record before it on disk: so a quorum of one record's voters is
        bound by what a quorum decided before, whoever was named since."""
        log = host.disk.entries
        if at.round != len(log) or (log and record_hash(log[-1].record) != at.parent):
            raise Violation(f"{host.name} takes part in round {at.round} with a log of {len(log)}")

    def _promised(self, host: Host, message: m.Promise) -> None:
        self._stands_there(host, message.at)
        vote = host.disk.voted(message.at.generation)
        if vote is None or vote.at != message.at or vote.promised < message.ballot:
            raise Violation(f"{host.name} promises {message.ballot} and its disk does not know")

    def _accepted(self, host: Host, message: m.Accepted) -> None:
        self._stands_there(host, message.at)
        vote, known = host.disk.voted(message.at.generation), self._ballots(message.at)
        if vote is None or vote.at != message.at or vote.accepted_ballot != message.ballot or vote.accepted is None:
            raise Violation(f"{host.name} votes in {message.ballot} and its disk does not know")
        if any(message.ballot < promised for promised in known.promised.get(host.name, {})):
            raise Violation(f"{host.name} votes in {message.ballot} below its promise")
        root = vote.accepted.record.update_root
        grouped = vote.accepted.record.schedule == "gossip"  # that its members hold it is groups.py's to see
        if root != NO_HASH and root not in host.disk.updates and not grouped:
            raise Violation(f"{host.name} votes for an update that it does not hold")
        self._voted(host, message.at, message.ballot, message.record)

    def _voted(self, host: Host, at: At, ballot: Ballot, record: bytes) -> None:
        known = self._ballots(at)
        if known.votes.setdefault((host.name, ballot), record) != record:
            raise Violation(f"{host.name} votes for two values in {ballot}")
        present = [v for (v, b), r in known.votes.items() if b == ballot and r == record]
        if enough(known.voters, present) and (known.chosen is None or ballot < known.chosen[0]):
            known.chosen = (ballot, record)

    def _ballots(self, at: At) -> Ballots:
        return self._decisions.setdefault(at, Ballots(self._link(at.parent).voters))

    def _link(self, parent: bytes) -> Link:
        """The point that follows this record; whatever record 0 follows is the beginning."""
        return self._links.get(parent, self._first)

    # ---- what is written

    def appended(self, host: Host, entry: Entry, hosts: dict[str, Host]) -> None:
        record, log = entry.record, host.disk.entries
        if log and (record.parent != record_hash(log[-1].record) or record.round != log[-1].record.round + 1):
            raise Violation(f"{host.name} appends round {record.round} after {log[-1].record.round}, on another record")
        if not log and record.round != 0:
            raise Violation(f"{host.name} begins its log with round {record.round}")
        self.known(entry, hosts)

    def known(self, entry: Entry, hosts: dict[str, Host]) -> None:
        """A record is on somebody's disk."""
        record = entry.record
        name = record_hash(record)
        if self._decided_at.setdefault((record.generation, record.round), name) != name:
            raise Violation(f"two records for round {record.round} of one generation")
        if name not in self._links:
            self._decided(entry, name, hosts)

    def _decided(self, entry: Entry, name: bytes, hosts: dict[str, Host]) -> None:
        record, before = entry.record, self._link(entry.record.parent)
        if record.round != before.round + 1:
            raise Violation(f"round {record.round} follows round {before.round}")
        self._may_be(entry, before)
        if record.state_digest != before.state:
            raise Violation(f"record {record.round} proves another state")
        if self.groups.every:
            self.groups.decided(entry, self._line(record.parent))
        if self.warmth.rounds:
            self.warmth.decided(entry, self._line(record.parent))
        root = record.update_root
        state = before.state if root == NO_HASH or record.schedule == "gossip" else hash_of("state", before.state, root)
        ledger = before.ledger if before.ledger.tip in (b"", record.parent) else self._replayed(record.parent)
        ledger.tip = name
        voters = list(record.next_voters)
        self._links[name] = Link(record.round, state, voters, record.generation, record.parent, entry, ledger)
        for voter, generations in self._forgetful.items():
            if voter not in voters:
                generations.pop(record.generation, None)
        self._count(entry, ledger, hosts)
        self._remember(name, entry)

    def rebased(self, host: Host, effect: ef.Rebase) -> None:
        """Called before the disk has it: nobody leaves a line of history for one with less in it."""
        left, taken = host.disk.entries[effect.round + 1 :], effect.entries
        if not left or not taken or self._recovered(left, taken):
            return
        if taken[-1].record.tokens_total < left[-1].record.tokens_total:
            raise Violation(f"{host.name} leaves a line of history for one with fewer tokens")

    def _recovered(self, left: Sequence[Entry], taken: Sequence[Entry]) -> bool:
        return self._by_owner(taken) > self._by_owner(left)

    def _by_owner(self, line: Sequence[Entry]) -> int:
        return sum(any(vote.voter == self._owner for vote in entry.certificate.votes) for entry in line)

    def _may_be(self, entry: Entry, before: Link) -> None:
        """By whose word this record stands."""
        signers = [vote.voter for vote in entry.certificate.votes]
        parts = before.generation is not None and entry.record.generation != before.generation
        if parts or signers == [self._owner]:  # the owner's word may also stand before the opening
            named = [a.peer for a in entry.blob.assignments]
            if signers != [self._owner] and not (self._forks and len(signers) == 1 and signers[0] in named):
                raise Violation(f"round {entry.record.round} opens a branch by the word of {signers}")
            if entry.blob.contributions or any(v not in named for v in entry.record.next_voters):
                raise Violation(f"round {entry.record.round} opens a branch with more than a roster")
            return
        if not enough(before.voters, [vote.voter for vote in entry.certificate.votes]):
            raise Violation(f"round {entry.record.round} is decided without a quorum of {before.voters}")
        record, ballot = entry.record, entry.certificate.ballot
        cast = self._ballots(At(record.generation, record.round, record.parent)).votes
        for vote in entry.certificate.votes:
            if cast.get((vote.voter, ballot)) != record_hash(record):
                raise Violation(f"round {record.round} counts a vote that {vote.voter} has not on disk")

    def _replayed(self, name: bytes) -> Ledger:
        """The ledger as it stood after an older record: somebody goes on from there."""
        line: list[Entry] = []
        tip: bytes | None = name
        while tip is not None and (link := self._links.get(tip)) is not None and link.entry is not None:
            line.append(link.entry)
            tip = link.parent
        ledger = Ledger(tip=name)
        for entry in reversed(line):
            for c in entry.blob.contributions:
                ledger.deltas[c.delta_root] = entry.record.round
                ledger.used.update({(s.round, s.slot): entry.record.round for s in c.streams})
            ledger.waiting.update(dict.fromkeys(_handed(entry)))
        ledger.waiting = {stream: None for stream in ledger.waiting if stream not in ledger.used}
        return ledger

    def _remember(self, name: bytes, entry: Entry) -> None:
        """`entries` is the line with the most tokens; of equals, the first that came so far."""
        newest = self.entries.get(max(self.entries, default=-1))
        if newest is not None and entry.record.tokens_total < newest.record.tokens_total:
            return
        if newest is None or entry.record.parent == record_hash(newest.record):
            self.entries[entry.record.round] = entry
        elif entry.record.tokens_total > newest.record.tokens_total:
            self.entries = {e.record.round: e for e in self._line(name)}

    def _line(self, name: bytes) -> list[Entry]:
        line: list[Entry] = []
        link = self._links.get(name)
        while link is not None and link.entry is not None:
            line.insert(0, link.entry)
            link = self._links.get(link.parent or b"")
        return line

    def _count(self, entry: Entry, ledger: Ledger, hosts: dict[str, Host]) -> None:
        """Each delta once, each stream once, nothing lost; and what is claimed is what is inside."""
        for c in entry.blob.contributions:
            delta = hosts[c.peer].deltas.get(c.delta_root)
            if ledger.deltas.setdefault(c.delta_root, entry.record.round) != entry.record.round:
                raise Violation(f"a delta of {c.peer} counted twice")
            claimed = tuple(sorted((s.round, s.slot) for s in c.streams))
            if delta is None or not delta.sound:
                raise Violation(f"{c.peer} contributed a delta from an anchor that is gone")
            if self.groups.every and delta.round != entry.record.round - 1:
                raise Violation(f"a delta of {c.peer} for round {entry.record.round} is of round {delta.round}")
            idle = self.warmth.rounds and not c.tokens and not claimed  # whether it may be is warmth.py's to see
            if not idle and (claimed != delta.content or c.tokens != TOKENS_PER_STREAM * len(claimed)):
                raise Violation(f"{c.peer} claims {claimed} and {c.tokens} tokens, its delta holds {delta.content}")
            for stream in claimed:
                if ledger.used.setdefault(stream, entry.record.round) != entry.record.round:
                    raise Violation(f"stream {stream} counted twice")
                ledger.waiting.pop(stream, None)
        before = self._link(entry.record.parent).entry
        total = (before.record.tokens_total if before else 0) + sum(c.tokens for c in entry.blob.contributions)
        if entry.record.tokens_total != total:
            raise Violation(f"round {entry.record.round} says {entry.record.tokens_total} tokens, they are {total}")
        here = _handed(entry)
        handed = dict.fromkeys(here)
        if len(handed) != len(here) or any(stream in ledger.used for stream in here):
            raise Violation(f"round {entry.record.round} hands a stream out twice")
        lost = [stream for stream in ledger.waiting if stream not in handed]
        ledger.waiting.update(handed)
        if lost:
            raise Violation(f"round {entry.record.round} loses the streams {lost}")

    def applied(self, host: Host, round_: int, digest: bytes) -> None:
        if self.after(host, round_) != digest:
            raise Violation(f"{host.name} stands elsewhere after round {round_}")
        if self.groups.every:
            self.groups.applied(host, round_)

    def after(self, host: Host, round_: int) -> bytes | None:
        """The state after this round of the host's own log."""
        if round_ < 0:
            return self.theta0
        log = host.disk.entries
        return self._links[record_hash(log[round_].record)].state if round_ < len(log) else None

    # ---- what is kept in memory

    def bounded(self, node: Node, hosts: int) -> None:
        """Every table of every machine, by walking through it."""
        self.largest = max(self.largest, tables.bounded(node, hosts))


def _handed(entry: Entry) -> list[Stream]:
    """The streams that wait somewhere after this record."""
    blob = entry.blob
    waiting = [*(s for a in blob.assignments for s in a.streams), *(p.stream for p in blob.pending)]
    return [(s.round, s.slot) for s in [*waiting, *blob.unconsumed]]


def enough(voters: list[str], present: list[str]) -> bool:
    """The quorum rule as arithmetic: the most senior voter has half a vote more."""
    weight = {voter: 2.5 if voter == voters[0] else 2.0 for voter in voters}
    return sum(weight.get(voter, 0.0) for voter in dict.fromkeys(present)) > sum(weight.values()) / 2
