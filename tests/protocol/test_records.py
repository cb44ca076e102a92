"""Each check of an entry, violated once. SPEC R*, A7, A8."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from intellectd.protocol.ids import NO_HASH, At, Ballot, Stream, encode, hash_of
from intellectd.protocol.manifest import float32_hex, manifest_hash
from intellectd.protocol.records import (
    Assignment,
    BadRecord,
    Blob,
    Collective,
    Entry,
    Pending,
    Proposal,
    blob_hash,
    check_entry,
    check_results,
    decode_entry,
    record_hash,
    transfer_id,
)
from tests.protocol import puppets as say
from tests.protocol.history import History, run_config
from tests.sim.tags import TagCrypto

CRYPTO = TagCrypto("PA")


def run_of_three(**swarm: int) -> History:
    run = History(run_config(swarm))
    run.opening("PA", "PB", "PC")
    return run


def test_the_point_that_the_opening_follows() -> None:
    """SPEC M7."""
    run = History(run_config())
    head, manifest = run.head, manifest_hash(run.manifest)
    assert head.at == At(hash_of("generation", head.run, manifest), 0, manifest)
    assert head.voters == run.manifest.first_voters and (head.round, head.tokens_total) == (-1, 0)


def test_a_long_honest_log_passes() -> None:
    """SPEC R13, R12: offline, from genesis; each record proves the state before it."""
    run = History(run_config())
    run.opening("PA", "PB", "PC")
    run.round("PA", "PB", able=["PA", "PB", "PC"])
    run.round("PC", able=["PA", "PB", "PC", "PZ"], gone=["PB"])
    run.decide(run.proposal(say.outcome(run), {}, ["PA", "PZ"]))  # a roster, no update
    run.round("PZ", "PA", able=["PA", "PZ"])
    head = run.heads[-1]
    for entry in run.entries:
        check_entry(head, entry, CRYPTO)
        assert decode_entry(encode(entry)) == entry
        head = head.next(entry)
    assert head.tokens_total == 500 and head.voters == ["PA", "PC", "PZ"]


Change = Callable[[Proposal], Proposal]


def record(**fields: Any) -> Change:
    return lambda value: replace(value, record=replace(value.record, **fields))


def blob(**fields: Callable[[Any], Any]) -> Change:
    """The record's hash follows the blob, so that only the content is wrong."""

    def change(value: Proposal) -> Proposal:
        new = replace(value.blob, **{name: make(getattr(value.blob, name)) for name, make in fields.items()})
        return replace(value, blob=new, record=replace(value.record, blob=blob_hash(new)))

    return change


def first(**fields: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda items: [replace(items[0], **fields), *items[1:]]


LIGHTER = record(tokens_total=100, lr=float32_hex(0.4))  # as if one of two counted

BAD: list[tuple[str, Change]] = [
    ("record version 2", record(version=2)),
    ("another run", record(run=hash_of("other"))),
    ("nor one that opens a branch here", record(generation=hash_of("other"))),
    ("does not follow the head", record(round=5)),
    ("does not follow the head", record(parent=hash_of("other"))),
    ("blob hash", record(blob=hash_of("other"))),
    ("codec", record(codec="fp32")),
    ("codec", record(next_codec="fp32")),
    ("fragment", record(fragment=1)),
    ("schedule tree is not this run's", record(schedule="tree")),
    ("a ring has no shape", record(shape=[2])),
    ("no torus of 2 members has this shape", record(schedule="torus", shape=[2])),
    ("no direct exchange of 2 members has this shape", record(schedule="direct", shape=[1, 1, 1])),
    ("transfer id", record(schedule="direct", shape=[1, 1])),
    ("outer optimizer", record(optimizer="sgd")),
    ("outer momentum", record(momentum="3f800000")),
    ("outer learning rate", record(lr="3f800000")),
    ("total of tokens", record(tokens_total=1)),
    ("transfer id", record(transfer=hash_of("other"))),
    ("transfer id", record(update_root=NO_HASH)),
    ("size of the update", record(update_bytes=261)),
    ("a voter is named twice", record(next_voters=["PA", "PA"])),
    ("the next voters", record(next_voters=["PB", "PA", "PC"])),
    ("the next voters", record(next_voters=["PA", "PB", "PC", "PZ"])),
    ("outer learning rate", blob(contributions=lambda items: [])),
    ("a contributor is named twice", blob(contributions=lambda items: [items[0], items[0]])),
    ("PZ contributed without being eligible", blob(contributions=first(peer="PZ"))),
    ("data of a contribution that counts nothing", lambda v: blob(contributions=first(tokens=0))(LIGHTER(v))),
    ("a contribution without tokens", lambda v: blob(contributions=first(tokens=0, streams=[]))(LIGHTER(v))),
    ("PA used data that was not its own", blob(contributions=first(streams=[Stream(1, 1)]))),
    ("a stream is named twice", blob(contributions=first(streams=[Stream(1, 0), Stream(1, 0)]))),
    ("an assignment is named twice", blob(assignments=lambda items: [*items, items[0]])),
    ("a slot is named twice", blob(assignments=first(slot=1))),
    ("the data of the next round", blob(assignments=first(slot=9))),
    ("the data of the next round", blob(assignments=first(steps=11))),
    ("the data of the next round", blob(assignments=first(streams=[Stream(1, 2)]))),
    ("the data of the next round", blob(assignments=first(streams=[]))),
    ("the data of the next round", blob(assignments=lambda items: items[:1])),
    ("the data of the next round", blob(assignments=lambda items: [*items, Assignment("PZ", 7, 10, [Stream(2, 7)])])),
    ("the data of the next round", blob(pending=lambda items: [Pending("PA", Stream(9, 9), 1)])),
    ("the data of the next round", blob(pending=lambda items: [])),
    ("the data of the next round", blob(unconsumed=lambda items: [Stream(1, 0)])),
]  # fmt: skip


@pytest.mark.parametrize(("says", "change"), BAD)
def test_one_thing_wrong(says: str, change: Change) -> None:
    """SPEC R1-R11: certified by everybody, and still no record. PA and PB contributed, PC stays with its data."""
    run = run_of_three()
    value = change(say.proposal(run, "PA", "PB", able=["PA", "PB", "PC"]))
    with pytest.raises(BadRecord, match=says.replace("(", r"\(")):
        check_entry(run.head, run.certify(value), CRYPTO)


@pytest.mark.parametrize(
    ("says", "change"),
    [
        ("an update without contributions", record(update_root=hash_of("x"))),
        ("an update without contributions", record(transfer=hash_of("x"))),
        ("a schedule without contributions", record(schedule="direct")),
        ("a schedule without contributions", record(shape=[1])),
        ("an empty record that changes nothing", record(update_bytes=260)),
        ("an empty record that changes nothing", blob(assignments=lambda items: [])),
    ],
)
def test_a_record_without_an_update(says: str, change: Change) -> None:
    """SPEC R7."""
    run = run_of_three()
    with pytest.raises(BadRecord, match=says):
        check_entry(run.head, run.certify(change(say.proposal(run, able=["PA", "PC"]))), CRYPTO)


def test_the_opening_stands_on_the_manifests_state() -> None:
    """SPEC R3."""
    run = History(run_config())
    value = run.proposal(say.outcome(run), {}, ["PA", "PB"], state=hash_of("another beginning"))
    with pytest.raises(BadRecord, match="not the manifest's first state"):
        check_entry(run.head, run.certify(value), CRYPTO)


def test_min_peers_holds_for_records() -> None:
    """SPEC R6."""
    run = run_of_three(start_peers=2, min_peers=2)
    with pytest.raises(BadRecord, match="fewer members than min_peers"):
        check_entry(run.head, run.certify(say.proposal(run, "PA", able=["PA", "PB"])), CRYPTO)


def test_certificates() -> None:
    """SPEC A8: a quorum of the head's voters, each once, each over this ballot and this record."""
    run = run_of_three()
    value = say.proposal(run, "PA", "PB")
    good = run.certify(value, ["PB", "PC"])
    check_entry(run.head, good, CRYPTO)
    votes = good.certificate.votes
    for says, certificate in (
        ("not signed by a quorum", replace(good.certificate, votes=votes[:1])),
        ("a vote is named twice", replace(good.certificate, votes=[votes[0], votes[0]])),
        ("the signature of PB is false", replace(good.certificate, ballot=Ballot(1, "PA"))),
        (
            "the signature of PC is false",
            replace(good.certificate, votes=[votes[0], replace(votes[1], signature=bytes(64))]),
        ),
        ("PZ has no vote", run.certify(value, ["PA", "PB", "PZ"]).certificate),
    ):
        with pytest.raises(BadRecord, match=says):
            check_entry(run.head, Entry(good.record, good.blob, certificate), CRYPTO)


def test_results() -> None:
    """SPEC A7: a majority of the members; others, and false signatures, do not count."""
    run = run_of_three()
    value = say.proposal(run, "PA", "PB", "PC")
    check_results(run.head, replace(value, results=value.results[:2]), CRYPTO)
    stranger = say.signed_result(run, "PZ", value.record.transfer, value.record.update_root)
    false = [value.results[0], replace(value.results[1], signature=bytes(64))]
    for results in (value.results[:1], [value.results[0]] * 3, false):
        with pytest.raises(BadRecord, match="majority of its members"):
            check_results(run.head, replace(value, results=results), CRYPTO)
    padded = [value.results[0], replace(value.results[1], voter="PZ", signature=stranger.signature)]
    with pytest.raises(BadRecord, match="majority of its members"):
        check_results(run.head, replace(value, results=padded), CRYPTO)


def test_hashes_cover_every_field() -> None:
    """SPEC R2, C1: the order of members is part of what is computed; the ballot is not."""
    run = run_of_three()
    value = say.proposal(run, "PA", "PB")
    done = say.collective(run, "PA", "PB")
    others = (
        Collective(done.members[::-1], "ring", []),
        Collective(done.members, "direct", [1, 1]),
        Collective(done.members, "direct", [1, 2]),
    )
    names = [transfer_id(run.head.at, collective, "int8") for collective in (done, *others)]
    assert len(dict.fromkeys([*names, transfer_id(run.head.at, done, "bf16")])) == 5
    assert record_hash(value.record) != record_hash(replace(value.record, fragment=1))
    assert blob_hash(value.blob) != blob_hash(Blob([], [], [], [], []))


def test_damaged_bytes_are_no_entry() -> None:
    run = run_of_three()
    data = encode(run.entries[0])
    for bad in (b"", data[:-1], data + b"\0", b"\xff" * 40):
        with pytest.raises(BadRecord, match="no log entry"):
            decode_entry(bad)
