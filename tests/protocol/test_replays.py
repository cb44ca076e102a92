"""What was said before, said again: by its author, by another, in another run; and records that nobody decided.

SPEC A1, W4-W6, W9, R13. What an author says twice is no fault: messages may be doubled, delayed and reordered.
"""

import msgspec
import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.branch import fork
from intellectd.protocol.entries import Certificate, Entry, Vote, blob_hash
from intellectd.protocol.ids import Ballot, encode, hash_of
from tests.protocol import puppets as say
from tests.protocol.history import RUN, History
from tests.protocol.playbook import Host, describe
from tests.protocol.test_bad_fields import full
from tests.protocol.test_hostile import Scene, everything, following, in_the_ring
from tests.sim.tags import TagCrypto

THEIRS = Ballot(0, "PB")


def sealed(message: m.AnyMessage, run: bytes = RUN, author: str = "PB") -> bytes:
    return m.seal(run, author, message, TagCrypto(author))


def only_fault(pa: Host) -> ef.PeerFault:
    (fault,) = pa.skip()
    assert isinstance(fault, ef.PeerFault), describe(fault)
    return fault


def test_words_about_a_decided_round_are_no_fault_and_do_nothing() -> None:
    """SPEC A1: whoever asked gets the record."""
    run, pa = in_the_ring()
    before = [message for message in everything(run, pa) if not isinstance(message, m.Relay | m.Spread | m.Introduce)]
    entry = run.round("PB", "PA", "PC")
    pa.told(pa.says("PC", m.Commit(entry))).skip()
    for message in before:
        pa.told(ev.MessageReceived("PB", sealed(message)))
        asks = isinstance(message, m.Prepare | m.Plan | m.Accept)
        assert [describe(effect) for effect in pa.skip()] == ["to PB: commit round 1 by PB+PA+PC"] * asks, message


@pytest.mark.parametrize("message", full(), ids=lambda message: type(message).__name__.lower())
def test_anothers_words_are_the_fault_of_who_delivers_them(message: m.AnyMessage) -> None:
    """SPEC W4: whoever the author is, of whichever run, with whatever signature."""
    run, pa = following()
    letter = m.open_envelope(sealed(message))
    unknown = ", or the run's id is not known to it"
    other_body = msgspec.structs.replace(letter, body=encode(say.prepare(run, Ballot(3, "PB"))))
    for via, data, says in (
        ("PC", sealed(message), "it is PB's and was not relayed"),
        ("PB", sealed(message, run=hash_of("another run")), "it is of another run"),
        ("PB", encode(msgspec.structs.replace(letter, signature=bytes(64))), f"the signature is not PB's{unknown}"),
        ("PB", encode(other_body), f"the signature is not PB's{unknown}"),
        ("PC", encode(msgspec.structs.replace(letter, sender="PC")), f"the signature is not PC's{unknown}"),
    ):
        pa.told(ev.MessageReceived(via, data))
        fault = only_fault(pa)
        assert (fault.peer, fault.kind, fault.reason) == (via, "envelope", says)
    pa.told(ev.MessageReceived("PB", sealed(message, author="PA")))
    assert pa.skip() == [], "our own words, given back"
    if not isinstance(message, m.Beacon):
        pa.told(ev.MembersReceived("PC", (sealed(message),)))
        assert only_fault(pa).reason == "only beacons can be introduced"


def test_the_same_words_twice_are_as_good_as_once() -> None:
    """SPEC W9: nothing is written or begun anew."""
    run, pa = following()
    value = say.proposal(run, "PB", "PA", "PC")
    for message in (say.prepare(run, THEIRS), say.plan(run, THEIRS, "PB", "PA", "PC"), say.accept(run, THEIRS, value)):
        pa.told(pa.says("PB", message)).skip()
        pa.told(pa.says("PB", message))
        again = pa.skip()
        assert all(isinstance(effect, ef.Send) for effect in again), [describe(effect) for effect in again]


def test_an_accusation_that_is_said_twice_has_one_witness() -> None:
    """SPEC A10, W9: PC was only silent, to one neighbour, once; whoever passes on envelopes may do so again."""
    run, pa = following()
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, "PB", "PC", "PA"))).skip()
    word = say.abort(run, THEIRS, "PC", silent=True)
    pa.told(pa.says("PB", word), pa.says("PB", word)).skip()
    suspicion, later = pa.node.round.parts.suspicion, Ballot(THEIRS.attempt + 3, "PB")
    assert not suspicion.excluded("PC", pa.now)
    pa.told(pa.says("PB", say.plan(run, later, "PB", "PC", "PA")))
    pa.told(pa.says("PB", say.abort(run, later, "PA")), pa.says("PB", word)).skip()
    assert not suspicion.excluded("PC", pa.now), "nor when it was said long ago"
    pa.told(pa.says("PA", word), pa.says("PC", say.abort(run, later, None))).skip()
    last = Ballot(later.attempt + 3, "PB")
    pa.told(pa.says("PB", say.plan(run, last, "PB", "PC", "PA")))
    pa.told(pa.says("PB", say.abort(run, last, "PC", silent=True))).skip()
    assert suspicion.excluded("PC", pa.now), "of another transfer it is a second"


# ---- records


def decided() -> tuple[Scene, Entry]:
    """A round that was decided, and PA, which has not heard so."""
    run, pa = following()
    return (run, pa), run.certify(say.proposal(run, "PB", "PA", "PC"))


def forgeries(run: History, true: Entry) -> dict[str, Entry]:
    """What a member could make of it."""
    votes, ballot = true.certificate.votes, true.certificate.ballot
    head, replace = run.head, msgspec.structs.replace

    def signed(*by: str) -> list[Vote]:
        return run.certify(say.proposal(run, "PB", "PA", "PC"), by, ballot).certificate.votes

    def voted(*those: Vote, under: Ballot = ballot) -> Entry:
        return replace(true, certificate=Certificate(under, list(those)))

    richer = replace(true.record, tokens_total=true.record.tokens_total + 1)
    blob = replace(true.blob, unconsumed=[*true.blob.assignments[0].streams])
    other = say.proposal(run, "PB", "PC")
    elsewhere = History(run.head.config, founder="PB", nonce=77)
    elsewhere.opening("PB", "PA", "PC")
    return {
        "no votes": voted(),
        "one of three": voted(votes[0]),
        "one vote twice": voted(votes[0], votes[0]),
        "a stranger's": voted(votes[0], *signed("PD")),
        "a false one": voted(votes[0], Vote("PC", bytes(64))),
        "of another ballot": voted(*votes, under=Ballot(1, "PA")),
        "a record changed": replace(true, record=richer),
        "a blob changed": replace(true, blob=blob),
        "both changed": replace(true, blob=blob, record=replace(true.record, blob=blob_hash(blob))),
        "another record's": Entry(other.record, other.blob, true.certificate),
        "a branch": fork(head, ["PB"], run.state, "PB", TagCrypto("PB")),
        "another run's": replace(elsewhere.entries[0], record=replace(elsewhere.entries[0].record, parent=head.hash)),
    }


@pytest.mark.parametrize("name", list(forgeries(following()[0], decided()[1])))
def test_a_forged_record_is_its_senders_fault_and_the_true_one_is_taken(name: str) -> None:
    """SPEC R13, A8, G4: sent by itself, and in an answer."""
    (run, pa), true = decided()
    forged = forgeries(run, true)[name]
    pa.told(pa.says("PB", m.Commit(forged)))
    fault = only_fault(pa)
    assert (fault.peer, fault.kind) == ("PB", "record") and fault.reason.startswith(f"record {forged.record.round}: ")
    pa.told(pa.beacon("PB", head_round=1)).skip()
    pa.told(ev.EntriesReceived("PB", (forged, true)))
    if forged.record.generation == run.head.generation:
        assert only_fault(pa).kind == "record"
    pa.told(pa.says("PC", m.Commit(true)))
    assert any(isinstance(effect, ef.AppendEntry) for effect in pa.skip()) and pa.node.head.round == 1


def test_a_record_of_another_place_is_no_news() -> None:
    """SPEC A1, K1: older ones, and those after what is missing here, are neither taken nor a fault."""
    (run, pa), true = decided()
    older = run.entries[0]
    later = msgspec.structs.replace(true, record=msgspec.structs.replace(true.record, parent=hash_of("missing")))
    for entry in (older, later):
        pa.told(pa.says("PB", m.Commit(entry)))
        assert pa.skip() == [] and pa.node.head.round == 0
