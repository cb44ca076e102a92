"""What must hold of rounds in groups, in a form of its own: who may be in one, what is applied, that all meet again.

Owns the rules of SPEC E* as an observer sees them. Refuses to know how groups are planned.
"""

from typing import TYPE_CHECKING

from intellectd.protocol.entries import Group
from intellectd.protocol.ids import NO_HASH, hash_of
from intellectd.protocol.manifest import Gossip, RunConfig
from intellectd.protocol.records import Entry, record_hash
from tests.sim.violation import Violation

if TYPE_CHECKING:
    from tests.sim.host import Host


class Groups:
    def __init__(self, config: RunConfig) -> None:
        gossip = config.outer.gossip
        given = gossip if isinstance(gossip, Gossip) else None
        self.every = given.exact_every if given else 0
        self._until = config.until.rounds
        self._size = given.group_size if given else 0
        self._ended: dict[bytes, dict[str, None]] = {}  # by root: whose disk had it
        self.rounds = 0  # that were decided in groups
        self.exact = 0  # that made all equal again

    def ended(self, peer: str, root: bytes) -> None:
        if self.every:
            self._ended.setdefault(root, {})[peer] = None

    def decided(self, entry: Entry, line: list[Entry]) -> None:
        """`line` is what it follows, newest last."""
        record, contributed = entry.record, [c.peer for c in entry.blob.contributions]
        expected = self._expected(line)
        if not contributed:
            return
        if bool(expected) != (record.schedule == "gossip"):
            raise Violation(f"round {record.round} is a {record.schedule}, with {len(expected)} groups to be")
        if not expected:
            self.exact += bool(line) and self.every > 0
            return
        self.rounds += 1
        sizes = [part.members for part in record.shape if isinstance(part, Group)]
        if len(sizes) != len(record.shape) or sum(sizes) != len(contributed):
            raise Violation(f"round {record.round} has groups of {sizes}, and {len(contributed)} contributed")
        for root, members in members_by_root(entry).items():
            whole = next((group for group in expected if members[0] in group), [])
            if any(peer not in whole for peer in members):
                raise Violation(f"round {record.round} has a group of {members}, which nobody drew")
            if 2 * len([p for p in members if p in self._ended.get(root, {})]) <= len(members):
                raise Violation(f"round {record.round} lists a result that no majority of {members} has")

    def _expected(self, line: list[Entry]) -> list[list[str]]:
        """The groups of the round after these."""
        if not self.every or not line:
            return []
        since = 0
        for entry in reversed(line):
            if entry.record.schedule == "gossip":
                since += 1
            elif entry.blob.contributions:
                break
        peers = [a.peer for a in line[-1].blob.assignments]
        count = min(len(peers) // self._size, 64)
        if since >= self.every - 1 or line[-1].record.round + 1 == self._until or count < 2:
            return []
        parent = record_hash(line[-1].record)
        lots = sorted((hash_of("gossip", parent, peer.encode()), peer) for peer in peers)
        found: list[list[str]] = [[] for _ in range(count)]
        for number, (_, peer) in enumerate(lots):
            found[max(n for n in range(count) if len(lots) * n // count <= number)].append(peer)
        return found

    def may_apply(self, host: "Host", entry: Entry, root: bytes | None) -> bool:
        """What the log names for it; of a round in groups its own group's, if it knows that to lie on its disk, or
        another's, or nothing at all."""
        if entry.record.schedule != "gossip":
            return entry.record.update_root == (root or NO_HASH)
        groups = members_by_root(entry)
        own = next((r for r, members in groups.items() if host.name in members), None)
        known = own in host.disk.updates and host.node is not None and own in host.node.catchup.held
        return root == own if known else root is None or root in groups

    def applied(self, host: "Host", round_: int) -> None:
        """After an exact round all anchors are the state; else one is what some group since then came to."""
        proven: list[bytes | None] = [None]
        for entry in host.disk.entries[: round_ + 1]:
            if entry.record.schedule == "gossip":
                proven += members_by_root(entry)
            elif entry.blob.contributions:
                proven = [None]
        if host.anchor not in proven:
            raise Violation(f"{host.name} stands on an anchor after round {round_} that no group since has made")


def members_by_root(entry: Entry) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    peers = [c.peer for c in entry.blob.contributions]
    for part in entry.record.shape:
        if isinstance(part, Group):
            found[part.root], peers = peers[: part.members], peers[part.members :]
    return found
