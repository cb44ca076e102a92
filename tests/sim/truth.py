"""What must never happen, judged by an observer that sees every disk and every message. SPEC A*, R*, P*, L*.

Owns the rules in a form of their own, simpler than the machines': a mutated machine must not fool them.
"""

from dataclasses import dataclass, field

from intellectd.protocol import effects as ef
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.ids import NO_HASH, At, Ballot, hash_of
from intellectd.protocol.node import Node
from intellectd.protocol.records import Entry, record_hash
from tests.sim.host import Host, Stream

TOKENS_PER_STREAM = 100


class Violation(AssertionError):
    """An invariant broke."""


@dataclass
class Ballots:
    """Everything that was said about one decision."""

    voters: list[str]
    votes: dict[tuple[str, Ballot], bytes] = field(default_factory=dict)
    promised: dict[str, dict[Ballot, None]] = field(default_factory=dict)  # on disk, by voter
    chosen: tuple[Ballot, bytes] | None = None  # the first ballot that a quorum accepted


class Truth:
    def __init__(self, founder: str, theta0: bytes) -> None:
        self.entries: dict[int, Entry] = {}  # the one history
        self.chain: dict[int, bytes] = {-1: theta0}
        self._voters: dict[int, list[str]] = {0: [founder]}  # of the decision of each round
        self._decisions: dict[At, Ballots] = {}
        self._used: dict[Stream, int] = {}
        self._deltas: dict[bytes, int] = {}
        self._made: dict[Stream, None] = {}
        self._forgetful: dict[str, None] = {}  # voters whose disk was lost, until they lose the seat
        self.largest = 0  # table of any machine

    # ---- what is said, and on disk

    def persisted(self, host: Host, vote: ef.PersistVote) -> None:
        """Called before the disk has it: a journal never goes back."""
        known, old = self._ballots(vote.at), host.disk.vote
        same = old is not None and old.at == vote.at
        if same and old and (vote.promised < old.promised or (old.accepted is not None and vote.accepted is None)):
            raise Violation(f"the journal of {host.name} goes back from {old.promised} to {vote.promised}")
        known.promised.setdefault(host.name, {})[vote.promised] = None
        if vote.accepted is not None and vote.accepted_ballot is not None:
            self._voted(host, vote.at, vote.accepted_ballot, record_hash(vote.accepted.record))

    def wiped(self, host: Host, voters: list[str]) -> None:
        """Its disk is gone, and if it is a voter, so is the memory of its votes."""
        if host.name in voters:
            self._forgetful[host.name] = None

    def said(self, host: Host, message: m.AnyMessage) -> None:
        if host.name in self._forgetful and isinstance(message, m.Promise | m.Accepted):
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

    def _promised(self, host: Host, message: m.Promise) -> None:
        vote = host.disk.vote
        if vote is None or vote.at != message.at or vote.promised < message.ballot:
            raise Violation(f"{host.name} promises {message.ballot} and its disk does not know")

    def _accepted(self, host: Host, message: m.Accepted) -> None:
        vote, known = host.disk.vote, self._ballots(message.at)
        if vote is None or vote.at != message.at or vote.accepted_ballot != message.ballot or vote.accepted is None:
            raise Violation(f"{host.name} votes in {message.ballot} and its disk does not know")
        if any(message.ballot < promised for promised in known.promised.get(host.name, {})):
            raise Violation(f"{host.name} votes in {message.ballot} below its promise")
        root = vote.accepted.record.update_root
        if root != NO_HASH and root not in host.disk.updates:
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
        return self._decisions.setdefault(at, Ballots(self._voters.get(at.round, [])))

    # ---- what is written

    def appended(self, host: Host, entry: Entry, hosts: dict[str, Host]) -> None:
        record = entry.record
        last = host.disk.entries[-1].record.round if host.disk.entries else -1
        if record.round != last + 1:
            raise Violation(f"{host.name} appends round {record.round} after {last}")
        known = self.entries.get(record.round)
        if known is None:
            self._decided(entry, hosts)
        elif record_hash(known.record) != record_hash(record):
            raise Violation(f"two records for round {record.round}")

    def _decided(self, entry: Entry, hosts: dict[str, Host]) -> None:
        record = entry.record
        voters = self._voters[record.round]
        if not enough(voters, [vote.voter for vote in entry.certificate.votes]):
            raise Violation(f"round {record.round} is decided without a quorum of {voters}")
        before = self.chain[record.round - 1]
        if record.state_digest != before:
            raise Violation(f"record {record.round} proves another state")
        root = record.update_root
        self.entries[record.round] = entry
        self.chain[record.round] = before if root == NO_HASH else hash_of("state", before, root)
        self._voters[record.round + 1] = list(record.next_voters)
        self._forgetful = {name: None for name in self._forgetful if name in record.next_voters}
        self._count(entry, hosts)

    def _count(self, entry: Entry, hosts: dict[str, Host]) -> None:
        """Each delta once, each stream once, nothing lost; and what is claimed is what is inside."""
        for c in entry.blob.contributions:
            delta = hosts[c.peer].deltas.get(c.delta_root)
            if self._deltas.setdefault(c.delta_root, entry.record.round) != entry.record.round:
                raise Violation(f"a delta of {c.peer} counted twice")
            claimed = tuple(sorted((s.round, s.slot) for s in c.streams))
            if delta is None or not delta.sound:
                raise Violation(f"{c.peer} contributed a delta from an anchor that is gone")
            if claimed != delta.content or c.tokens != TOKENS_PER_STREAM * len(claimed):
                raise Violation(f"{c.peer} claims {claimed} and {c.tokens} tokens, its delta holds {delta.content}")
            for stream in claimed:
                if self._used.setdefault(stream, entry.record.round) != entry.record.round:
                    raise Violation(f"stream {stream} counted twice")
        blob = entry.blob
        waiting = [*(s for a in blob.assignments for s in a.streams), *(p.stream for p in blob.pending)]
        here = [(s.round, s.slot) for s in [*waiting, *blob.unconsumed]]
        if len(dict.fromkeys(here)) != len(here) or any(stream in self._used for stream in here):
            raise Violation(f"round {entry.record.round} hands a stream out twice")
        self._made.update(dict.fromkeys(here))
        lost = [s for s in self._made if s not in self._used and s not in dict.fromkeys(here)]
        if lost:
            raise Violation(f"round {entry.record.round} loses the streams {lost}")

    def applied(self, host: Host, round_: int, digest: bytes) -> None:
        if self.chain.get(round_) != digest:
            raise Violation(f"{host.name} stands elsewhere after round {round_}")

    # ---- what is kept in memory

    def bounded(self, node: Node) -> None:
        """Every table of every machine, by walking through it."""
        sizes = list(_tables(node, "node", 0))
        path, size = max(sizes, key=lambda item: item[1])
        self.largest = max(self.largest, size)
        if size > max(limits.PEERS_MAX, limits.WINDOW_ROUNDS + 1):
            raise Violation(f"{path} has grown to {size}")


def _tables(value: object, path: str, depth: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    if isinstance(value, dict | list):
        found.append((path, len(value)))
    elif depth < 5 and type(value).__module__.startswith("intellectd.protocol") and hasattr(value, "__dict__"):
        for name, inner in vars(value).items():
            if name not in ("context", "_context", "head", "_head", "manifest", "config"):
                found += _tables(inner, f"{path}.{name}", depth + 1)
    return found


def enough(voters: list[str], present: list[str]) -> bool:
    """The quorum rule as arithmetic: the most senior voter has half a vote more."""
    weight = {voter: 2.5 if voter == voters[0] else 2.0 for voter in voters}
    return sum(weight.get(voter, 0.0) for voter in dict.fromkeys(present)) > sum(weight.values()) / 2
