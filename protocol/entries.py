"""The form of the log: records, their blobs and certificates. SPEC R*.

Owns fields, bounds and hashes. Refuses to judge: whether an entry follows from its head is records.py's, how
one comes about the round's.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

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

VERSION = 1
Streams = Annotated[list[Stream], Meta(max_length=limits.STREAMS_MAX)]
Share = Annotated[int, Meta(ge=0, le=limits.SHARE_MAX)]
Shape = Annotated[list[Share], Meta(max_length=limits.DIRECT_MEMBERS_MAX)]
GOSSIP = "gossip"  # a round in groups (SPEC E*)


class BadRecord(ValueError):
    """An entry, proposal or certificate that does not follow from what stands before it."""


class Contribution(Wire, frozen=True, array_like=True):
    """A member of the round, in the order of its schedule: what it put in."""

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


class Group(Wire, frozen=True, array_like=True):
    """Of a gossip round: so many of the contributions, after those of the groups before, and what they came to."""

    members: Annotated[int, Meta(ge=1, le=limits.ASSIGNMENTS_MAX)]
    root: Hash  # R of this group


class Record(Wire, frozen=True, array_like=True):
    """What a round decided. Round 0 opens the run: it has no contributions, only a roster."""

    version: Annotated[int, Meta(ge=1, le=65_535)]
    run: Hash  # the run key
    generation: Hash
    round: Round
    parent: Hash  # hash of the record before; of round 0: the manifest's hash
    fragment: Count
    schedule: Name
    shape: Annotated[list[Share | Group], Meta(max_length=limits.DIRECT_MEMBERS_MAX)]  # of a gossip round its groups
    codec: Name
    transfer: Hash  # id of the transfer that computed the update; zero when there is none
    update_root: Hash  # R; zero when nothing was contributed; of a gossip round the hash of its groups' (E3)
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
    """One place of a planned collective."""

    peer: PeerId
    tokens: Count
    delta_root: Hash


class Collective(Wire, frozen=True, array_like=True):
    """Who computes the update together, and how its bytes go. With the decision and the codec it names the transfer,
    so whoever follows a plan does the same as all the others (C1, C7)."""

    members: Annotated[list[Member], Meta(min_length=1, max_length=limits.ASSIGNMENTS_MAX)]  # in the schedule's order
    schedule: Name
    # Of a ring nothing, of a torus its rows, of a direct exchange each member's share of the vector, of a gossip round
    # the numbers of its groups' members.
    shape: Shape


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


def groups_root(roots: Sequence[bytes]) -> bytes:
    """What stands for the results of all groups of a round (SPEC E3)."""
    return hash_of("groups", *roots)


def groups_of(record: Record, blob: Blob) -> list[tuple[bytes, list[str]]]:
    """(root, members) of each group of a gossip round that follows its head; of any other record nothing."""
    found, at = [], 0
    for group in record.shape if record.schedule == GOSSIP else []:
        assert isinstance(group, Group), "checked where the record was (E3)"
        found.append((group.root, [c.peer for c in blob.contributions[at : at + group.members]]))
        at += group.members
    return found


def roots_of(entry: Entry) -> list[bytes]:
    """The updates that some host applies for this record; zero for one without."""
    return [root for root, _ in groups_of(entry.record, entry.blob)] or [entry.record.update_root]


def decode_entry(data: bytes) -> Entry:
    """An entry from disk. Raises BadRecord."""
    try:
        return msgspec.msgpack.decode(data, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(f"these bytes are no log entry: {error}") from None
