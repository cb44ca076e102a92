"""The wire: everything that is said comes back the same, and no bytes of a stranger do anything else than fail."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.ids import At, Ballot, Stream, encode, hash_of
from intellectd.protocol.records import Collective, Contribution, Entry, Member, Pending, Vote, decode_entry
from tests.protocol import puppets as say
from tests.protocol.history import RUN, History, ready_of, run_config
from tests.protocol.test_hostile import everything, following
from tests.sim.tags import TagCrypto

hashes = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
peers = st.text(alphabet="123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=2, max_size=64)
counts = st.integers(0, limits.TOKENS_MAX)
round_numbers = st.integers(0, limits.ROUND_MAX)
silent = st.lists(peers, max_size=limits.VOTERS_MAX)
names = st.text(alphabet="abcxyz019_-", min_size=1, max_size=32)
floats = st.text(alphabet="0123456789abcdef", min_size=8, max_size=8)
ats = st.builds(At, hashes, round_numbers, hashes)
ballots = st.builds(Ballot, counts, peers)
streams = st.builds(Stream, round_numbers, st.integers(0, limits.PEERS_MAX * 4))
readies = st.builds(m.Ready, ats, hashes, counts, counts, floats, hashes, st.lists(streams, max_size=8))
members = st.builds(Member, peers, counts, hashes)
shapes = st.lists(st.integers(0, limits.SHARE_MAX), max_size=limits.DIRECT_MEMBERS_MAX)
collectives = st.builds(Collective, st.lists(members, min_size=1, max_size=3), names, shapes)
links = st.builds(m.Link, peers, st.integers(0, limits.RATE_STEP_MAX), st.integers(0, limits.RTT_STEP_MAX))
texts = st.text(max_size=80)
beacons = st.builds(
    m.Beacon,
    counts,
    counts,
    hashes,
    st.integers(-1, limits.ROUND_MAX),
    hashes,
    st.integers(-2, limits.ROUND_MAX),
    names,
    *(st.booleans(), st.booleans()),
    st.lists(texts, max_size=3),
    texts,
    st.binary(max_size=100),
    st.none() | readies,
    st.none() | st.builds(m.Transfer, hashes, counts, counts),
    st.lists(round_numbers, max_size=8),
    round_numbers,
    st.builds(m.Lineage, st.integers(0, limits.BRANCHES_MAX), st.integers(0, 64), counts, st.booleans(), st.booleans()),
    st.lists(links, max_size=limits.LINKS_TOLD_MAX),
)
anything = st.one_of(
    beacons,
    st.builds(m.Prepare, ats, ballots),
    st.builds(
        m.Promise, ats, ballots, hashes, st.none(), st.none(), st.none() | collectives, st.lists(peers, max_size=31)
    ),
    st.builds(m.Refuse, ats, ballots, ballots, texts),
    st.builds(m.Plan, ats, ballots, collectives, names),
    st.builds(m.Result, ats, hashes, hashes, counts, signatures),
    st.builds(m.Abort, ats, ballots, st.none() | peers, st.booleans(), texts),
    st.builds(m.Accepted, ats, ballots, hashes, signatures),
    st.builds(m.Relay, peers, st.binary(max_size=50)),
    st.builds(m.Spread, st.lists(peers, min_size=1, max_size=3), st.binary(max_size=50)),
    st.builds(m.Introduce, st.lists(st.binary(max_size=50), max_size=limits.INTRODUCED_MAX)),
)


@given(anything)
def test_there_and_back(message: m.AnyMessage) -> None:
    """SPEC W1-W3: and equal values have equal bytes."""
    data = m.seal(RUN, "PA", message, TagCrypto("PA"))
    envelope = m.open_envelope(data)
    assert m.open_message(envelope, TagCrypto("PB")) == message
    assert encode(m.open_message(envelope, TagCrypto("PB"))) == envelope.body


def test_every_kind_there_and_back() -> None:
    """Those with records in them, too."""
    run, pa = following()
    for message in everything(run, pa):
        envelope = m.open_envelope(m.seal(RUN, "PB", message, TagCrypto("PB")))
        assert m.open_message(envelope, TagCrypto("PA")) == message


KINDS: list[Any] = [
    m.Envelope, m.AnyMessage, m.EntriesRequest, m.EntriesAnswer, m.RunRequest, m.MembersAnswer, Entry,
]  # fmt: skip


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_any_bytes_are_a_message_or_refused(data: bytes, kind: Any) -> None:
    """SPEC W3: decoding is total."""
    try:
        m.decode(data, kind)
    except m.BadMessage:
        return
    assert msgspec.msgpack.decode(data) is not None


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=70) | texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)


@given(trees, st.sampled_from(KINDS))
def test_any_msgpack_is_a_message_or_refused(tree: Any, kind: Any) -> None:
    try:
        m.decode(msgspec.msgpack.encode(tree), kind)
    except m.BadMessage:
        return


def test_bombs_are_small_changes() -> None:
    """SPEC L1: lengths that lie, nesting without end, lists over their bound."""
    for data in (b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xffx", b"\x91" * 100_000, b"\xc6\xff\xff\xff\xff"):
        for kind in KINDS:
            with pytest.raises(m.BadMessage):
                m.decode(data, kind)
    many = m.EntriesAnswer([History(run_config()).opening("PA")] * (limits.ENTRIES_PER_CALL_MAX + 1))
    with pytest.raises(m.BadMessage):
        m.decode(encode(many), m.EntriesAnswer)


PLACE = m.Member("PA", 1, RUN)
OVER: list[tuple[str, Any]] = [
    ("attempt", m.Prepare(At(RUN, 1, RUN), Ballot(limits.TOKENS_MAX + 1, "PA"))),
    ("round", m.Prepare(At(RUN, limits.ROUND_MAX + 1, RUN), Ballot(0, "PA"))),
    ("negative", m.Prepare(At(RUN, -1, RUN), Ballot(0, "PA"))),
    ("peer id", m.Prepare(At(RUN, 1, RUN), Ballot(0, "P/../A"))),
    ("long peer id", m.Prepare(At(RUN, 1, RUN), Ballot(0, "P" * 65))),
    ("hash", m.Prepare(At(RUN[:31], 1, RUN), Ballot(0, "PA"))),
    ("signature", m.Result(At(RUN, 1, RUN), RUN, RUN, 1, bytes(63))),
    ("reason", m.Refuse(At(RUN, 1, RUN), Ballot(0, "PA"), Ballot(0, "PA"), "x" * 401)),
    ("silent", m.Promise(At(RUN, 1, RUN), Ballot(0, "PA"), RUN, None, None, None, ["PA"] * 32)),
    ("members", m.Plan(At(RUN, 1, RUN), Ballot(0, "PA"), m.Collective([], "ring", []), "int8")),
    ("shape", m.Plan(At(RUN, 1, RUN), Ballot(0, "PA"), m.Collective([PLACE], "direct", [1] * 65), "int8")),
    ("share", m.Plan(At(RUN, 1, RUN), Ballot(0, "PA"), m.Collective([PLACE], "direct", [65_536]), "int8")),
    ("streams", m.Ready(At(RUN, 1, RUN), RUN, 1, 1, "3f800000", RUN, [Stream(1, 1)] * 9)),
    ("norm", m.Ready(At(RUN, 1, RUN), RUN, 1, 1, "3F80000G", RUN, [])),
]


@pytest.mark.parametrize(("what", "message"), OVER)
def test_every_bound_is_checked(what: str, message: Any) -> None:
    """SPEC T*, L1: our own encoder writes it; no decoder of ours reads it."""
    kind = m.Ready if isinstance(message, m.Ready) else m.AnyMessage
    with pytest.raises(m.BadMessage):
        m.decode(encode(message), kind)  # type: ignore[arg-type]


def test_a_message_of_the_largest_swarm_fits_the_wire() -> None:
    """SPEC L2: 1,024 members, each with 52 characters of name; the control plane carries 512 KiB at most."""
    peer, run = "1" * 52, run_of_two()
    proposal = say.proposal(run, "PA", "PB")
    worst = Contribution(peer, 2**40, 10_000, "3f800000", hash_of("x"), [Stream(2**20, 1023)] * 3)
    everybody = limits.ASSIGNMENTS_MAX
    blob = msgspec.structs.replace(
        proposal.blob,
        contributions=[worst] * everybody,
        assignments=[msgspec.structs.replace(proposal.blob.assignments[0], peer=peer)] * everybody,
        pending=[Pending(peer, Stream(2**20, 1023), 2**20)] * (2 * everybody),
    )
    results = [Vote(peer, bytes(64))] * (everybody // 2 + 1)
    full = type(proposal)(proposal.record, blob, results)
    at, ballot = At(RUN, 1, RUN), Ballot(0, peer)
    worst_promise = m.Promise(at, ballot, RUN, ballot, full, None, [peer] * limits.VOTERS_MAX)
    for message in (m.Accept(at, ballot, full), worst_promise):
        assert len(m.seal(RUN, peer, message, TagCrypto(peer))) < 512 * 1024


def test_the_longest_honest_beacon_is_within_its_bound() -> None:
    """SPEC L1: each field at its bound, but for fields that a host of one run fills alike, such as streams."""
    peer, run = "1" * 52, run_of_two()
    ready = ready_of(run.head, "PA", run.state, tokens=2**53, streams=[Stream(2**40, 4096)] * 8)
    line = m.Lineage(64, 64, 2**53, True, True)
    links = [m.Link(peer, limits.RATE_STEP_MAX, limits.RTT_STEP_MAX)] * limits.LINKS_TOLD_MAX
    beacon = m.Beacon(
        *(2**53, 2**53, RUN, 2**40, RUN, 2**40, "a" * 32, True, True, ["x" * 256] * 16, "x" * 256, bytes(2048)),
        *(ready, m.Transfer(RUN, 2**53, 2**53), [2**40] * 8, 2**40, line, links),
    )
    assert len(m.seal(RUN, peer, beacon, TagCrypto(peer))) < limits.BEACON_BYTES_MAX // 2
    assert len(encode(links)) <= 60 * limits.LINKS_TOLD_MAX


def run_of_two() -> History:
    run = History(run_config())
    run.opening("PA", "PB")
    return run


def test_the_entry_of_the_log_and_of_the_wire_are_the_same_bytes() -> None:
    entry = History(run_config()).opening("PA")
    assert decode_entry(encode(entry)) == m.decode(encode(entry), Entry) == entry
