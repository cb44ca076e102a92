"""The record that opens a branch: a generation of its own, begun where a quorum was lost. SPEC G2-G5.

Owns its form and by whose word it stands; it is a roster (R7) that survivors give themselves. Refuses to know
when a branch is opened and which one is followed, which is branching.py's.
"""

from collections.abc import Mapping, Sequence

import msgspec

from intellectd.protocol import limits
from intellectd.protocol.entries import BadRecord, Blob, Certificate, Entry, Record, Vote, record_hash
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, Ballot, encode, hash_of
from intellectd.protocol.manifest import owners_of
from intellectd.protocol.port import Crypto
from intellectd.protocol.proposal import NOTHING, build_record, next_blob
from intellectd.protocol.words import counted

FIRST_ATTEMPT = 0  # a branch is not voted on: its ballot only names the initiator


def branch_record(
    head: Head, named: Sequence[str], state_digest: bytes, lives: Mapping[str, int] | None = None
) -> tuple[Record, Blob]:
    """The one record by which these peers go on from `head` by themselves: as a fork, or as a recovery of these
    `lives` (the incarnation of each that may become a voter). Its generation commits to all of it, so that no two
    records open one generation, and none is a fork to one host and a recovery to another."""
    voters = branch_voters(head, named)
    blob = next_blob(head, [], named, [])
    if lives is not None:
        blob = msgspec.structs.replace(blob, lives=[lives[voter] for voter in voters])
    record = build_record(head, NOTHING, blob, voters, state_digest)
    bare = msgspec.structs.replace(record, generation=NO_HASH)
    return msgspec.structs.replace(record, generation=hash_of("branch", head.generation, encode(bare))), blob


def branch_voters(head: Head, named: Sequence[str]) -> list[str]:
    """The voters that are left keep their order; then the others, by peer id."""
    senior = [voter for voter in head.voters if voter in named]
    return [*senior, *sorted(peer for peer in named if peer not in senior)][: limits.VOTERS_MAX]


def lives_of(entry: Entry) -> dict[str, int] | None:
    """The incarnations that a recovery names its voters in; None of every other record."""
    lives = entry.blob.lives
    return dict(zip(entry.record.next_voters, lives, strict=False)) if lives else None


def told_of(entry: Entry) -> str:
    """For people: the generation that this branch opens, and by whose word."""
    owners, initiator = "by the owner's word", f"by the fork of {entry.certificate.ballot.leader}"
    opened = f"generation {entry.record.generation.hex()[:8]}, begun with round {entry.record.round}"
    return f"{opened} {owners if entry.blob.lives else initiator}"


def branch_bytes(run: bytes, record: Record) -> bytes:
    """What the initiator of a fork signs, or the owners who recover a run (SPEC G4)."""
    return b"intellectd/1/branch\0" + run + record_hash(record)


def fork(head: Head, named: Sequence[str], state_digest: bytes, initiator: str, crypto: Crypto) -> Entry:
    """A branch by the initiator's own word, for runs whose manifest allows it."""
    record, blob = branch_record(head, named, state_digest)
    vote = Vote(initiator, crypto.sign(branch_bytes(head.run, record)))
    return Entry(record, blob, Certificate(Ballot(FIRST_ATTEMPT, initiator), [vote]))


def check_branch(head: Head, entry: Entry, crypto: Crypto) -> None:
    """The entry opens a branch at `head`, by the word of whoever may say so. Raises BadRecord."""
    named = [a.peer for a in entry.blob.assignments]
    if len(named) < max(1, head.config.swarm.min_peers) or len(dict.fromkeys(named)) != len(named):
        raise BadRecord("a branch of too few peers")
    if head.branches >= limits.BRANCHES_MAX:
        raise BadRecord(f"a line of history has at most {limits.BRANCHES_MAX} branches")
    if head.round < 0 and entry.record.state_digest != head.manifest.state_digest:
        raise BadRecord("not the manifest's first state")
    lives = lives_of(entry)
    if lives is not None and list(lives) != branch_voters(head, named):
        raise BadRecord("a recovery of other voters than it names")
    if (entry.record, entry.blob) != branch_record(head, named, entry.record.state_digest, lives):
        raise BadRecord("neither the next record of this generation nor one that opens a branch here")
    _check_word(head, entry, named, lives is not None, crypto)


def _check_word(head: Head, entry: Entry, named: list[str], recovers: bool, crypto: Crypto) -> None:
    certificate = entry.certificate
    message = branch_bytes(head.run, entry.record)
    signers = list(dict.fromkeys(vote.voter for vote in certificate.votes))
    if len(signers) != len(certificate.votes) or certificate.ballot.attempt != FIRST_ATTEMPT:
        raise BadRecord("a branch is signed twice by one key, or voted on")
    for vote in certificate.votes:
        if not crypto.verify(vote.voter, message, vote.signature):
            raise BadRecord(f"the signature of {vote.voter} on a branch is false")
    if recovers:
        owners, needed = owners_of(head.manifest, head.config)
        if any(signer not in owners for signer in signers) or len(signers) < needed:
            raise BadRecord(f"a recovery needs the signatures of {counted(needed, 'owner')}, and no other")
        return
    if head.config.swarm.on_quorum_loss != "fork" or head.round < 0:
        raise BadRecord("a branch without the owner's word, in a run that waits for its quorum")
    if signers != [certificate.ballot.leader] or signers[0] not in named:
        raise BadRecord("a branch by somebody who has no part in it")
