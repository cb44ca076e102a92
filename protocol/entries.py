"""The form of the log: records, their blobs and certificates, and the head that the next one follows. SPEC R*.

Owns fields, bounds and hashes. Refuses to judge: whether an entry follows from its head is records.py's, how
one comes about the round's.
"""

from collections import defaultdict
from functools import cached_property
from typing import Annotated

import msgspec
from msgspec import Meta

from intellectd.kernels.codec import codec_by_name, update_codec
from intellectd.protocol import limits
from intellectd.protocol.ids import (
    At,
    Ballot,
    Count,
    Float32Hex,
    Hash,
    Name,
    PeerId,
    Round,
    Signature,
    Stream,
    Wire,
    encode,
    hash_of,
)
from intellectd.protocol.manifest import Manifest, RunConfig, config_of, elements_of, manifest_hash

VERSION = 1
Streams = Annotated[list[Stream], Meta(max_length=limits.STREAMS_MAX)]
Share = Annotated[int, Meta(ge=0, le=limits.SHARE_MAX)]
Shape = Annotated[list[Share], Meta(max_length=limits.DIRECT_MEMBERS_MAX)]


class BadRecord(ValueError):
    """An entry, proposal or certificate that does not follow from what stands before it."""


class Contribution(Wire, frozen=True, array_like=True):
    """A member of the round, in ring order: what it put in."""

    peer: PeerId
    tokens: Count  # its weight
    steps: Count
    norm: Float32Hex  # L2 of its delta
    delta_root: Hash  # BLAKE3 root of its encoded delta
    streams: Streams  # the samples behind it, carried-over ones included


class Assignment(Wire, frozen=True, array_like=True):
    """Who may contribute to the next round, and from which data."""

    peer: PeerId
    slot: Annotated[int, Meta(ge=0, le=limits.PEERS_MAX * 4)]
    steps: Count
    streams: Streams


class Pending(Wire, frozen=True, array_like=True):
    """Data that a living member was given but that has not been committed yet."""

    peer: PeerId
    stream: Stream
    since: Round  # the round it was first given out for


class Blob(Wire, frozen=True, array_like=True):
    """The long lists of a record; the record holds their hash. `lives` tells a recovery from all else (G4)."""

    contributions: Annotated[list[Contribution], Meta(max_length=limits.ASSIGNMENTS_MAX)]
    assignments: Annotated[list[Assignment], Meta(max_length=limits.ASSIGNMENTS_MAX)]
    pending: Annotated[list[Pending], Meta(max_length=limits.UNCONSUMED_MAX)]
    unconsumed: Annotated[list[Stream], Meta(max_length=limits.UNCONSUMED_MAX)]
    lives: Annotated[list[Count], Meta(max_length=limits.VOTERS_MAX)]  # of a recovery: the incarnations of its voters


class Record(Wire, frozen=True, array_like=True):
    """What a round decided. Round 0 opens the run: it has no contributions, only a roster."""

    version: Annotated[int, Meta(ge=1, le=65_535)]
    run: Hash  # the run key
    generation: Hash
    round: Round
    parent: Hash  # hash of the record before; of round 0: the manifest's hash
    fragment: Count
    schedule: Name
    shape: Shape
    codec: Name
    transfer: Hash  # id of the transfer that computed the update; zero when there is none
    update_root: Hash  # R; zero when nothing was contributed
    update_bytes: Count
    optimizer: Name
    lr: Float32Hex
    momentum: Float32Hex
    state_digest: Hash  # of the state BEFORE this record, so that hashing never delays a vote
    tokens_total: Count  # committed so far, this round included
    blob: Hash
    next_codec: Name
    next_voters: Annotated[list[PeerId], Meta(min_length=1, max_length=limits.VOTERS_MAX)]


class Vote(Wire, frozen=True, array_like=True):
    voter: PeerId
    signature: Signature  # over the Accepted message that `accepted_bytes` rebuilds


class Certificate(Wire, frozen=True, array_like=True):
    ballot: Ballot
    votes: Annotated[list[Vote], Meta(max_length=limits.VOTERS_MAX)]


class Entry(Wire, frozen=True, array_like=True):
    """One link of the log: a decided record with the proof."""

    record: Record
    blob: Blob
    certificate: Certificate


class Member(Wire, frozen=True, array_like=True):
    """One place of a planned ring."""

    peer: PeerId
    tokens: Count
    delta_root: Hash


class Collective(Wire, frozen=True, array_like=True):
    """Who computes the update together, and how its bytes go. With the decision and the codec it names the transfer,
    so whoever follows a plan does the same as all the others (C1, C7)."""

    members: Annotated[list[Member], Meta(min_length=1, max_length=limits.ASSIGNMENTS_MAX)]  # in the schedule's order
    schedule: Name
    shape: Shape  # of a ring nothing, of a torus its rows, of a direct exchange each member's share of the vector


class Proposal(Wire, frozen=True, array_like=True):
    """A record before its certificate: with the signatures of the members that computed R."""

    record: Record
    blob: Blob
    results: Annotated[list[Vote], Meta(max_length=limits.ASSIGNMENTS_MAX)]


def record_hash(record: Record) -> bytes:
    return hash_of("record", encode(record))


def blob_hash(blob: Blob) -> bytes:
    return hash_of("blob", encode(blob))


def transfer_id(at: At, collective: Collective, codec: str) -> bytes:
    """Names a transfer by what it computes, not by the ballot: an equal one is the same one (SPEC C1)."""
    return hash_of("transfer", encode(at), encode(collective), codec.encode())


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
            self.branches = self.recoveries = 0
        else:
            record = entry.record
            self.round, self.hash, self.generation = record.round, record_hash(record), record.generation
            self.voters, self.tokens_total, self.codec = record.next_voters, record.tokens_total, record.next_codec
            self.blob = entry.blob
            parted = before is not None and before.generation != record.generation
            self.branches = (before.branches if before else 0) + parted
            # Not by its certificate, which is in no hash: it would count here and not there.
            self.recoveries = (before.recoveries if before else 0) + bool(entry.blob.lives)

    @property
    def rank(self) -> tuple[int, int]:
        """Of two lines of history the one with more recoveries stands, then the one with more tokens (G6)."""
        return self.recoveries, self.tokens_total

    @cached_property
    def at(self) -> At:
        """The decision that comes next."""
        return At(self.generation, self.round + 1, self.hash)

    @property
    def update_bytes(self) -> int:
        """The size of an encoded update of the next record: it follows from the manifest's tensors (R6)."""
        return update_codec(codec_by_name(self.codec)).encoded_bytes(self._elements)

    @property
    def transfer_bytes(self) -> int:
        """What to reckon a transfer's time with: where deltas and their mean have codecs of their own, the mean size
        of both, for with equal slices each host sends as much of either."""
        return (codec_by_name(self.codec).encoded_bytes(self._elements) + self.update_bytes) // 2

    @cached_property
    def _assigned(self) -> dict[str, Assignment]:
        return {a.peer: a for a in self.blob.assignments}

    @cached_property
    def _pending(self) -> dict[str, list[Stream]]:
        found: dict[str, list[Stream]] = defaultdict(list)
        for item in self.blob.pending:
            found[item.peer].append(item.stream)
        return found

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


def decode_entry(data: bytes) -> Entry:
    """An entry from disk. Raises BadRecord."""
    try:
        return msgspec.msgpack.decode(data, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(f"these bytes are no log entry: {error}") from None
