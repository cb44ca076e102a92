"""Every check of the log that needs only two neighbouring entries and signatures. SPEC R*.

Owns the judgement of a proposal, its results and its certificate; `entries.py` has the forms, which are passed
on from here. Refuses to know how a record came about and what the update's bytes are.
"""

from intellectd.protocol.branch import check_branch
from intellectd.protocol.collectives import RING, allowed, misfit, parts
from intellectd.protocol.entries import (
    GOSSIP,
    VERSION,
    Assignment,
    BadRecord,
    Blob,
    Certificate,
    Collective,
    Contribution,
    Entry,
    Group,
    Member,
    Pending,
    Proposal,
    Record,
    Streams,
    Vote,
    blob_hash,
    decode_entry,
    groups_of,
    groups_root,
    record_hash,
    transfer_id,
)
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, At, Ballot, encode
from intellectd.protocol.manifest import float32_hex, outer_lr
from intellectd.protocol.port import Crypto
from intellectd.protocol.proposal import next_blob, next_voters, tokens_after
from intellectd.protocol.quorum import is_majority, is_quorum
from intellectd.protocol.warmup import counting, misweighed


def check_proposal(head: Head, record: Record, blob: Blob) -> None:
    """Everything that follows from the head alone. Raises BadRecord naming the first thing that does not."""
    config = head.config
    _require(record.version == VERSION, f"record version {record.version}")
    _require(record.run == head.run, "another run")
    _require(At(record.generation, record.round, record.parent) == head.at, "does not follow the head")
    _require(record.blob == blob_hash(blob), "blob hash")
    _require(head.round >= 0 or record.state_digest == head.manifest.state_digest, "not the manifest's first state")
    _require(record.codec == head.codec and record.next_codec == config.outer.codec, "codec")
    _require(record.fragment == 0, "fragment")
    _require(record.optimizer == config.outer.optimizer, "outer optimizer")
    _require(record.momentum == float32_hex(config.outer.momentum), "outer momentum")
    _require(record.lr == float32_hex(outer_lr(config, max(1, counting(blob.contributions)))), "outer learning rate")
    _require(record.tokens_total == tokens_after(head, blob.contributions), "total of tokens")
    _unique([c.peer for c in blob.contributions], "a contributor")
    _unique([a.peer for a in blob.assignments], "an assignment")
    _unique([str(a.slot) for a in blob.assignments], "a slot")
    _unique(list(record.next_voters), "a voter")
    _check_contributions(head, blob)
    _check_update(head, record, blob)
    _check_next(head, record, blob)


def _check_contributions(head: Head, blob: Blob) -> None:
    for contribution in blob.contributions:
        if head.assignment(contribution.peer) is None:
            raise BadRecord(f"{contribution.peer} contributed without being eligible")
        allowed = head.allowed_streams(contribution.peer)
        _require(contribution.tokens > 0 or not contribution.streams, "data of a contribution that counts nothing")
        _require(all(s in allowed for s in contribution.streams), f"{contribution.peer} used data that was not its own")
        _unique([f"{s.round}/{s.slot}" for s in contribution.streams], "a stream")


def _check_update(head: Head, record: Record, blob: Blob) -> None:
    if blob.contributions:
        collective = collective_of(record, blob)
        wrong = misfit(collective, allowed(head.config.outer), head.groups)
        _require(not wrong, wrong)
        fair = not misweighed(parts(collective), head.warming)
        _require(fair, "a contribution without tokens, or of a newcomer that counts while it warms up")
        expected = transfer_id(head.at, collective, record.codec)
        _require(record.transfer == expected and record.update_root != NO_HASH, "transfer id")
        roots = [root for root, _ in groups_of(record, blob)]
        _require(
            not roots or (NO_HASH not in roots and record.update_root == groups_root(roots)), "roots of the groups"
        )
        _require(record.update_bytes == head.update_bytes, "size of the update")
        _require(len(blob.contributions) >= head.config.swarm.min_peers, "fewer members than min_peers")
    else:
        _require(record.transfer == NO_HASH and record.update_root == NO_HASH, "an update without contributions")
        _require(record.schedule == RING and not record.shape, "a schedule without contributions")
        _require(record.update_bytes == 0 and len(blob.assignments) > 0, "an empty record that changes nothing")


def collective_of(record: Record, blob: Blob) -> Collective:
    """What these contributions were computed by together. Raises BadRecord."""
    grouped = record.schedule == GOSSIP
    _require(all(isinstance(part, Group) == grouped for part in record.shape), "the shape of another schedule")
    members = [Member(c.peer, c.tokens, c.delta_root) for c in blob.contributions]
    return Collective(members, record.schedule, [p.members if isinstance(p, Group) else p for p in record.shape])


def _check_next(head: Head, record: Record, blob: Blob) -> None:
    """Who is named is the leader's to say; which data they get and who may vote follows from that (R8-R11)."""
    named = [a.peer for a in blob.assignments]
    there, voters = dict.fromkeys(named), dict.fromkeys(record.next_voters)  # of a thousand each is looked for
    left = [c.peer for c in blob.contributions if c.peer not in there]
    _require(blob == next_blob(head, blob.contributions, named, left), "the data of the next round")
    known = [*head.voters, *(c.peer for c in blob.contributions), *(named if head.round == -1 else [])]
    gone = [peer for peer in known if peer not in voters]
    _require(record.next_voters == next_voters(head, blob.contributions, gone, named), "the next voters")


def check_results(head: Head, proposal: Proposal, crypto: Crypto) -> None:
    """R is signed by a majority of the members (SPEC A7), each group's by one of its own (E4). Raises BadRecord."""
    record, blob = proposal.record, proposal.blob
    if not blob.contributions:
        return
    roots = [root for root, _ in groups_of(record, blob)] or [record.update_root]
    for part, root in zip(parts(collective_of(record, blob)), roots, strict=True):
        members = dict.fromkeys(m.peer for m in part.members)
        transfer = record.transfer if record.schedule != GOSSIP else transfer_id(head.at, part, record.codec)
        message = result_bytes(head.run, head.at, transfer, root)
        listed = [v for v in proposal.results if v.voter in members]
        signers = [v.voter for v in listed if crypto.verify(v.voter, message, v.signature)]
        _require(is_majority(list(members), signers), "the result is not signed by a majority of its members")


def check_entry(head: Head, entry: Entry, crypto: Crypto) -> None:
    """The entry follows the head and a quorum of the head's voters signed it, or it opens a branch there by the
    right word (G2-G5). Raises BadRecord."""
    if entry.record.generation != head.generation:
        check_branch(head, entry, crypto)
        return
    check_proposal(head, entry.record, entry.blob)
    certificate = entry.certificate
    _unique([v.voter for v in certificate.votes], "a vote")
    message = accepted_bytes(head.run, head.at, certificate.ballot, record_hash(entry.record))
    for vote in certificate.votes:
        _require(vote.voter in head.voters, f"{vote.voter} has no vote")
        _require(crypto.verify(vote.voter, message, vote.signature), f"the signature of {vote.voter} is false")
    _require(is_quorum(head.voters, [v.voter for v in certificate.votes]), "the certificate is not signed by a quorum")


def accepted_bytes(run: bytes, at: At, ballot: Ballot, record: bytes) -> bytes:
    """What a voter signs when it accepts (SPEC A8)."""
    return b"intellectd/1/accepted\0" + run + encode(at) + encode(ballot) + record


def result_bytes(run: bytes, at: At, transfer: bytes, root: bytes) -> bytes:
    """What a member signs when it holds the result of a transfer (SPEC C4)."""
    return b"intellectd/1/result\0" + run + encode(at) + transfer + root


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise BadRecord(what)


def _unique(names: list[str], what: str) -> None:
    _require(len(dict.fromkeys(names)) == len(names), f"{what} is named twice")


__all__ = [
    "VERSION",
    "Assignment",
    "BadRecord",
    "Blob",
    "Certificate",
    "Collective",
    "Contribution",
    "Entry",
    "Member",
    "Pending",
    "Proposal",
    "Record",
    "Streams",
    "Vote",
    "accepted_bytes",
    "blob_hash",
    "check_entry",
    "check_proposal",
    "check_results",
    "decode_entry",
    "record_hash",
    "result_bytes",
    "transfer_id",
]
