"""What a second implementation computes from SPEC.md alone: bytes by another msgpack, hashes by SHA-256, and lots.

SPEC T2, T5, T6, A2, A8, B11, C1, C4, E1, G2, M2, M7, R2, W1, W10. Nothing here calls the functions that it judges.
"""

import hashlib
from typing import Any

import msgpack
import msgspec

from intellectd.protocol.audience import place
from intellectd.protocol.branch import branch_bytes, fork
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot, encode
from intellectd.protocol.manifest import manifest_hash, signed_bytes
from intellectd.protocol.messages import Envelope, call_proof, seal
from intellectd.protocol.records import (
    Collective,
    Member,
    accepted_bytes,
    blob_hash,
    record_hash,
    result_bytes,
    transfer_id,
)
from tests.protocol.gossip_history import SIX, gossip
from tests.protocol.history import RUN, History
from tests.protocol.test_hostile import everything, following
from tests.sim.tags import TagCrypto


def packed(value: object) -> bytes:
    """An array of its fields in their order, in the shortest forms."""
    plain: Any = msgspec.to_builtins(value, builtin_types=(bytes,))
    data: bytes = msgpack.packb(plain, use_bin_type=True)
    return data


def hashed(domain: bytes, *parts: bytes) -> bytes:
    said = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hashlib.sha256(b"intellectd/1/" + domain + b"\0" + said).digest()


def some_run() -> History:
    run = History()
    run.opening("PA", "PB", "PC")
    run.round("PC", "PA")
    return run


def test_everything_that_is_sent_or_kept_is_the_same_bytes() -> None:
    """SPEC T2: also numbers, which msgpack could write in several ways."""
    for message in everything(*following()):
        assert encode(message) == packed(message)
        envelope = msgspec.msgpack.decode(seal(RUN, "PA", message, TagCrypto("PA")), type=Envelope)
        assert encode(envelope) == packed(envelope)
    run = some_run()
    for value in (*run.entries, run.manifest):
        assert encode(value) == packed(value)


def test_hashes() -> None:
    run = some_run()
    genesis, entry = run.heads[-1], run.entries[-1]
    first = hashed(b"manifest", packed(run.manifest))
    assert first == manifest_hash(run.manifest) == genesis.hash
    assert signed_bytes(run.manifest) == b"intellectd/1/manifest-signature\0" + first
    assert genesis.generation == hashed(b"generation", RUN, first)
    assert record_hash(entry.record) == hashed(b"record", packed(entry.record)) == run.head.hash
    assert blob_hash(entry.blob) == hashed(b"blob", packed(entry.blob)) == entry.record.blob
    members = [Member("PA", 300, bytes(32)), Member("PC", 2**40, bytes([255] * 32))]
    for collective in (Collective(members, "ring", []), Collective(members, "direct", [65535, 3])):
        expected = hashed(b"transfer", packed(run.head.at), packed(collective), b"int8")
        assert transfer_id(run.head.at, collective, "int8") == expected


def test_what_is_signed() -> None:
    run = some_run()
    at, ballot, thing, other = run.head.at, Ballot(300, "PB"), bytes(32), bytes([7] * 32)
    accepted = b"intellectd/1/accepted\0" + RUN + packed(at) + packed(ballot) + thing
    assert accepted_bytes(RUN, at, ballot, thing) == accepted
    assert result_bytes(RUN, at, thing, other) == b"intellectd/1/result\0" + RUN + packed(at) + thing + other
    record = run.entries[-1].record
    assert branch_bytes(RUN, record) == b"intellectd/1/branch\0" + RUN + hashed(b"record", packed(record))
    crypto = TagCrypto("PA")
    for message in everything(*following()):
        envelope = msgspec.msgpack.decode(seal(RUN, "PA", message, crypto), type=Envelope)
        said = b"intellectd/1/message\0" + crypto.secret + envelope.body
        assert envelope.signature == crypto.sign(said) and envelope.run == RUN


def test_what_proves_a_call() -> None:
    assert call_proof(bytes(32), "PA", "PB") == hashed(b"call", bytes(32), b"PA", b"PB")


def test_lots() -> None:
    run = gossip()
    run.opening(*SIX)
    head = run.head
    order = sorted(head.voters, key=lambda peer: hashed(b"leader", head.hash, peer.encode()))
    assert leader_order(head.voters, head.hash) == order
    drawn = sorted(SIX, key=lambda peer: hashed(b"gossip", head.hash, peer.encode()))
    assert head.groups == [drawn[0:2], drawn[2:4], drawn[4:6]]
    assert place("PA") == int.from_bytes(hashed(b"guide", b"PA")[:8], "big")


def test_a_branch_names_its_generation_by_all_that_it_says() -> None:
    run = some_run()
    record = fork(run.head, ["PA", "PC"], run.state, "PA", TagCrypto("PA")).record
    bare = msgspec.structs.replace(record, generation=bytes(32))
    assert record.generation == hashed(b"branch", run.head.generation, packed(bare))
