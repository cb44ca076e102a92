"""Slots, streams and seats over random histories: nothing is handed out twice and nothing is lost. SPEC R8-R11."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from intellectd.protocol import limits
from intellectd.protocol.ids import Stream
from intellectd.protocol.proposal import next_blob, next_voters, tokens_after
from intellectd.protocol.records import Assignment, Blob, Pending, check_entry
from tests.protocol import puppets as say
from tests.protocol.history import History, ready_of, run_config
from tests.sim.tags import TagCrypto

PEERS = ["PA", "PB", "PC", "PD", "PE", "PF"]
some = st.lists(st.sampled_from(PEERS), unique=True)
# What happens in a round: who contributes of those that may (and whether with carried data), who is able, who goes.
rounds = st.lists(st.tuples(some, some, some, st.booleans()), min_size=1, max_size=8)


def outstanding(blob: Blob) -> list[Stream]:
    given = [stream for a in blob.assignments for stream in a.streams]
    return [*given, *(p.stream for p in blob.pending), *blob.unconsumed]


def play(story: list[tuple[list[str], list[str], list[str], bool]]) -> History:
    run = History(run_config())
    run.opening("PA", "PB", "PC")
    for contributing, able, going, carrying in story:
        members = [peer for peer in contributing if run.head.assignment(peer)]
        streams = {p: run.head.allowed_streams(p)[: 8 if carrying else 1] for p in members}
        ready = {p: ready_of(run.head, p, run.state, streams=streams[p]) for p in members}
        named = [peer for peer in able if peer not in going] or ["PA"]
        run.decide(run.proposal(run.outcome(ready), ready, named, going))
    return run


@given(rounds)
def test_every_stream_is_somewhere_exactly_once(story: list[tuple[list[str], list[str], list[str], bool]]) -> None:
    """SPEC R8, R9: contributed, or with somebody, or waiting; and the log of it verifies."""
    run = play(story)
    used: Counter[Stream] = Counter()
    made: dict[Stream, None] = {}
    head = run.heads[-1]
    for entry in run.entries:
        check_entry(head, entry, TagCrypto("PA"))
        used.update(stream for c in entry.blob.contributions for stream in c.streams)
        here = [*used.elements(), *outstanding(entry.blob)]
        assert len(here) == len(dict.fromkeys(here)), "a stream is in two places"
        assert all(stream in here for stream in made), "a stream is lost"
        made.update(dict.fromkeys(here))
        head = head.next(entry)


def by_the_words(before: Blob, after: Blob, round_: int) -> Blob:
    """What R8 and R9 say of the lists of record `round_`, word by word, of who contributed and who is named in it."""
    used, named = {c.peer: c.streams for c in after.contributions}, sorted(a.peer for a in after.assignments)
    given_ = [Pending(a.peer, stream, round_) for a in before.assignments for stream in a.streams]
    left = [p for p in [*before.pending, *given_] if p.stream not in used.get(p.peer, [])]
    stays = [p for p in left if p.peer in named and p.peer not in used and p.since in (round_, round_ - 1)]
    waiting = [*before.unconsumed, *(p.stream for p in left if p not in stays)]
    slots = {a.peer: a.slot for a in before.assignments if a.peer in named}
    for peer in named:
        slots.setdefault(peer, min(n for n in range(len(PEERS) + 1) if n not in slots.values()))
    listed = []
    for peer in sorted(named, key=slots.__getitem__):
        stream = waiting.pop(0) if waiting else Stream(round_ + 1, slots[peer])
        listed.append(Assignment(peer, slots[peer], 10, [stream]))
    return Blob(after.contributions, listed, stays, waiting, [])


@given(rounds)
def test_the_lists_are_those_that_the_words_make(story: list[tuple[list[str], list[str], list[str], bool]]) -> None:
    """SPEC R8, R9: order and all, for the record has the hash of them."""
    before = Blob([], [], [], [], [])
    for entry in play(story).entries:
        assert entry.blob == by_the_words(before, entry.blob, entry.record.round)
        before = entry.blob


@given(rounds)
def test_what_waits_is_bounded(story: list[tuple[list[str], list[str], list[str], bool]]) -> None:
    """SPEC R9: three streams a peer, so the list in the record never has to be cut."""
    for entry in play(story).entries:
        assert len(outstanding(entry.blob)) <= 3 * len(PEERS)


def test_the_bound_of_the_record_is_enough() -> None:
    assert 3 * limits.ASSIGNMENTS_MAX <= limits.UNCONSUMED_MAX


def test_a_slot_stays_with_its_peer_and_newcomers_fill_the_lowest() -> None:
    """SPEC R8."""
    run = History(run_config())
    run.opening("PC", "PA", "PB")
    assert [(a.peer, a.slot) for a in run.head.blob.assignments] == [("PA", 0), ("PB", 1), ("PC", 2)]
    run.round("PC", able=["PC", "PE", "PD"])
    assert [(a.peer, a.slot) for a in run.head.blob.assignments] == [("PD", 0), ("PE", 1), ("PC", 2)]


def test_data_given_back_is_handed_out_before_new() -> None:
    """SPEC R9: PB went away with 1/1 and nobody else may lose it; PC, named next, works it off."""
    run = History(run_config())
    run.opening("PA", "PB")
    run.round("PA", able=["PA", "PC"])
    given = {a.peer: [(s.round, s.slot) for s in a.streams] for a in run.head.blob.assignments}
    assert given == {"PA": [(1, 1)], "PC": [(2, 1)]}
    assert run.head.blob.pending == [] and run.head.blob.unconsumed == []


def test_data_stays_two_rounds_with_who_goes_on() -> None:
    """SPEC R9."""
    run = History(run_config())
    run.opening("PA", "PB")
    for expected in ([(1, 1)], [(1, 1), (2, 1)], [(2, 1), (3, 1)]):
        run.round("PA", able=["PA", "PB"])
        assert [(s.round, s.slot) for s in run.head.pending_streams("PB")] == expected
    assert [(s.round, s.slot) for s in run.head.blob.assignments[0].streams] == [(1, 1)], "given back, handed out"


def test_who_contributed_keeps_nothing_back() -> None:
    """SPEC R9: what it was given and left out is free again."""
    run = History(run_config())
    run.opening("PA", "PB")
    run.round("PA", able=["PA", "PB"])
    late = ready_of(run.head, "PB", run.state, streams=[Stream(1, 1)])
    run.decide(run.proposal(run.outcome({"PB": late}), {"PB": late}, ["PA", "PB"]))
    assert run.head.pending_streams("PB") == []
    assert [(s.round, s.slot) for s in outstanding(run.head.blob)] == [(2, 1), (3, 1), (2, 0)]


def test_seats_go_by_seniority() -> None:
    """SPEC R10, R11: the gone leave, contributors come last, and nobody jumps the queue."""
    run = History(run_config())
    run.opening("PB", "PA")
    assert run.head.voters == ["PA", "PB"]
    given = say.proposal(run, "PB", "PA", able=["PA", "PB", "PC"])
    assert given.record.next_voters == ["PA", "PB"], "able is not enough for a seat"
    run.decide(given)
    run.round("PC", "PB", able=["PA", "PB", "PC"], gone=["PA"])
    assert run.head.voters == ["PB", "PC"]
    assert next_voters(run.head, [], ["PB", "PC"], []) == ["PB", "PC"], "the last ones cannot all go"


def test_seats_are_bounded() -> None:
    """SPEC R11."""
    names = [f"P{a}{b}" for a in "ABCDEFGH" for b in "ABCDEFGH"]
    run = History(run_config())
    run.opening(*names)
    assert len(run.head.voters) == limits.VOTERS_MAX and run.head.voters[0] == "PA"
    assert len(next_blob(run.head, [], names * 40, []).assignments) == len(names)


def test_the_total_of_tokens_stops_at_its_bound() -> None:
    """SPEC R5."""
    run = History(run_config())
    run.opening("PA")
    ready = {"PA": ready_of(run.head, "PA", run.state, tokens=limits.TOKENS_MAX)}
    entry = run.decide(run.proposal(run.outcome(ready), ready, ["PA"]))
    assert tokens_after(run.head, entry.blob.contributions) == limits.TOKENS_MAX
