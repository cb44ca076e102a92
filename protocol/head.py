"""The newest decided point of a line of history: what the next record must follow. SPEC R*, A1, G6.

Owns what follows from the last entry and the manifest, worked out once. Refuses to judge entries (records.py).
"""

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from intellectd.kernels.codec import codec_by_name, update_codec
from intellectd.protocol import limits
from intellectd.protocol.entries import GOSSIP, Assignment, Blob, Entry, record_hash
from intellectd.protocol.ids import At, Stream, hash_of
from intellectd.protocol.manifest import Manifest, RunConfig, config_of, elements_of, manifest_hash
from intellectd.protocol.warmup import warming_after

STATE_BYTES = 8  # an element of the parameters and one of the momentum, in fp32


def draw_groups(parent: bytes, peers: Sequence[str], size: int) -> list[list[str]]:
    """Groups of `size` members or a few more, none where there would be only one: a shuffle by hash, cut in pieces that
    differ by one at most. A function of its arguments alone; the order of `peers` does not count (SPEC E1)."""
    count = min(len(peers) // size, limits.GROUPS_MAX)
    if count < 2:
        return []
    order = sorted(peers, key=lambda peer: hash_of("gossip", parent, peer.encode()))
    ends = [len(order) * n // count for n in range(count + 1)]
    return [order[begin:end] for begin, end in pairwise(ends)]


class Head:
    """The newest decided point of a generation: what the next record must follow."""

    def __init__(self, manifest: Manifest, run: bytes, entry: Entry | None, before: "Head | None" = None) -> None:
        self.manifest, self.run, self.entry = manifest, run, entry
        self.config: RunConfig = before.config if before else config_of(manifest)
        self._elements: int = before._elements if before else elements_of(manifest)
        if entry is None:
            self.round, self.hash = -1, manifest_hash(manifest)
            self.generation = hash_of("generation", run, self.hash)
            self.voters, self.tokens_total = list(manifest.first_voters), 0
            self.codec: str = self.config.outer.codec
            self.blob = Blob([], [], [], [], [])
            self.branches = self.recoveries = self.since_exact = 0
            self.warming: dict[str, int] = {}
        else:
            record = entry.record
            self.round, self.hash, self.generation = record.round, record_hash(record), record.generation
            self.voters, self.tokens_total, self.codec = record.next_voters, record.tokens_total, record.next_codec
            self.blob = entry.blob
            named = [a.peer for a in before.blob.assignments] if before else []
            self.warming = warming_after(self.config.swarm.warmup, before.warming if before else {}, named, entry)
            parted = before is not None and before.generation != record.generation
            self.branches = (before.branches if before else 0) + parted
            # Not by its certificate, which is in no hash: it would count here and not there.
            self.recoveries = (before.recoveries if before else 0) + bool(entry.blob.lives)
            # Gossip rounds in a row; a record that only names a roster changes nothing in that (E2).
            grouped, since = record.schedule == GOSSIP, before.since_exact if before else 0
            self.since_exact = since + grouped if grouped or not entry.blob.contributions else 0
        self.rank: tuple[int, int] = (self.recoveries, self.tokens_total)
        """Of two lines of history the one with more recoveries stands, then the one with more tokens (G6)."""
        self.told: bytes = self.hash if entry is not None else bytes(32)
        """What beacons say of it. They go to strangers, too, and the manifest's hash begins with the run's id (B1)."""
        self.at = At(self.generation, self.round + 1, self.hash)
        """The decision that comes next."""
        self._assigned: dict[str, Assignment] = {a.peer: a for a in self.blob.assignments}
        self._pending: dict[str, list[Stream]] = {}
        for item in self.blob.pending:
            self._pending.setdefault(item.peer, []).append(item.stream)
        self.update_bytes: int = update_codec(codec_by_name(self.codec)).encoded_bytes(self._elements)
        """The size of an encoded update of the next record: it follows from the manifest's tensors (R6)."""
        self.groups: list[list[str]] = self._drawn()
        """The groups that the assigned peers make in the next round; none where it is an exact one (E1, E2)."""

    def _drawn(self) -> list[list[str]]:
        gossip = self.config.outer.gossip
        if isinstance(gossip, msgspec.UnsetType) or self.config.outer.schedule != GOSSIP:
            return []
        if self.round + 1 == self.config.until.rounds or self.since_exact + 1 >= gossip.exact_every:
            return []
        return draw_groups(self.hash, [a.peer for a in self.blob.assignments], gossip.group_size)

    @property
    def state_bytes(self) -> int:
        """Theta and momentum, in fp32."""
        return STATE_BYTES * self._elements

    @property
    def transfer_bytes(self) -> int:
        """What to reckon a transfer's time with: where deltas and their mean have codecs of their own, the mean size
        of both, for with equal slices each host sends as much of either."""
        return (codec_by_name(self.codec).encoded_bytes(self._elements) + self.update_bytes) // 2

    def assignment(self, peer: str) -> Assignment | None:
        return self._assigned.get(peer)

    def pending_streams(self, peer: str) -> list[Stream]:
        """Data that this peer was given for an earlier round and may still contribute (R9)."""
        return self._pending.get(peer, [])

    def allowed_streams(self, peer: str) -> list[Stream]:
        """The data a contribution of this peer may rest on: assigned now, or pending with it."""
        given = self.assignment(peer)
        return [*(given.streams if given else []), *self.pending_streams(peer)]

    def next(self, entry: Entry) -> "Head":
        return Head(self.manifest, self.run, entry, self)
