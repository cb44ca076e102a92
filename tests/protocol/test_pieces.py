"""Pieces from many donors (SPEC K11): a fair share each, the slow ones last, nothing lost when a donor goes."""

import heapq
from collections.abc import Callable
from random import Random

import pytest

from intellectd.protocol.pieces import ASKS_AHEAD, FIRST_S, LOOK_S, PATIENCE_S, RATE_UNKNOWN, Ask, Look, Pieces

MIB = 2**20


class Play:
    """Donors that send what they are asked for at their rates, one piece after the other, in virtual time."""

    def __init__(self, pieces: Pieces, rates: dict[str, float], rtt_s: float = 0.1) -> None:
        self.pieces, self.rates, self.rtt_s = pieces, rates, rtt_s
        self.now = 0.0
        self.events: list[tuple[float, int, str, int]] = []  # (when, number, donor, piece)
        self.free_at = dict.fromkeys(rates, 0.0)
        self.asked: list[Ask] = []
        self.brought: dict[str, int] = dict.fromkeys(rates, 0)
        for name in rates:
            pieces.join(name)

    def ask_all(self) -> None:
        for name in self.pieces.donors:
            while isinstance(ask := self.pieces.ask(name, self.now), Ask):
                self.asked.append(ask)
                for piece in range(ask.first, ask.first + ask.count):
                    begins = max(self.free_at[name], self.now + self.rtt_s)
                    self.free_at[name] = begins + self.pieces._sizes[piece] / self.rates[name]
                    heapq.heappush(self.events, (self.free_at[name], len(self.events) + len(self.asked), name, piece))

    def go(self, until: Callable[[], bool] = lambda: False) -> float:
        self.ask_all()
        while not self.pieces.done and not until():
            self.now, _number, name, piece = heapq.heappop(self.events)
            if name in self.pieces.donors:
                self.brought[name] += self.pieces.came(name, piece, self.now)
            self.ask_all()
        return self.now


def test_five_equal_donors_bring_it_in_a_fifth_of_the_time_of_one() -> None:
    one = Play(Pieces([MIB] * 256), {"a": 12.5e6})
    five = Play(Pieces([MIB] * 256), dict.fromkeys("abcde", 12.5e6))
    ideal_s = 256 * MIB / 12.5e6
    assert one.go() < 1.05 * ideal_s  # the first piece shows the rate, and costs a round trip
    assert five.go() < 1.1 * ideal_s / 5
    assert five.pieces.wasted_bytes <= 2 * MIB
    assert all(40 <= count <= 60 for count in five.brought.values())


def test_each_brings_in_proportion_to_its_rate_and_all_end_together() -> None:
    rates = {"fast": 40e6, "middle": 10e6, "slow": 2e6}
    play = Play(Pieces([MIB] * 512), rates)
    assert play.go() < 1.1 * 512 * MIB / sum(rates.values())
    assert play.brought["slow"] < play.brought["middle"] < play.brought["fast"]
    assert play.pieces.rates()["fast"] == pytest.approx(40e6, rel=0.1)


def test_a_donor_too_slow_to_matter_holds_nobody_up() -> None:
    play = Play(Pieces([MIB] * 64), {"fast": 50e6, "crawling": 2e4})  # 52 s a piece
    assert play.go() < 1.3 * 64 * MIB / 50e6
    assert play.brought["crawling"] == 0


def test_what_was_under_way_from_one_that_leaves_is_asked_of_others_lowest_first() -> None:
    pieces = Pieces([MIB] * 20)
    play = Play(pieces, {"a": 10e6, "b": 10e6})
    play.go(until=lambda: pieces.missing <= 12)
    before = len(play.asked)
    pieces.leave("a")
    play.go()
    assert pieces.done and "a" not in pieces.donors
    asked_again = [ask.first for ask in play.asked[before:]]
    assert asked_again[0] == min(asked_again)


def test_one_that_comes_back_or_comes_late_takes_part() -> None:
    pieces = Pieces([MIB] * 40)
    play = Play(pieces, {"a": 10e6})
    play.go(until=lambda: pieces.missing <= 30)
    play.rates["b"], play.free_at["b"], play.brought["b"] = 10e6, 0.0, 0
    pieces.join("b")
    play.go()
    assert play.brought["b"] >= 8


def test_what_is_here_is_not_asked_for() -> None:
    pieces = Pieces([MIB] * 10 + [17], have=[0, 1, 5, 9])
    play = Play(pieces, {"a": 10e6})
    assert pieces.missing == 7
    play.go()
    asked = {piece for ask in play.asked for piece in range(ask.first, ask.first + ask.count)}
    assert asked == {2, 3, 4, 6, 7, 8, 10}


def test_nothing_is_missing_of_what_is_all_here() -> None:
    assert Pieces([1, 1], have=[0, 1]).done and Pieces([]).done
    pieces = Pieces([1], have=[0])
    pieces.join("a")
    assert pieces.ask("a", 0.0) is None


def test_a_donor_has_a_bounded_number_of_requests_of_one_piece_until_it_has_shown_its_rate() -> None:
    pieces = Pieces([MIB] * 100)
    pieces.join("a")
    assert [pieces.ask("a", 0.0) for _ in range(ASKS_AHEAD + 1)] == [Ask("a", 0, 1), Ask("a", 1, 1), None]
    assert pieces.came("a", 0, 0.1)
    assert [pieces.ask("a", 0.1) for _ in range(2)] == [Ask("a", 2, 10), None]


def test_at_the_end_a_late_piece_is_asked_of_one_more_and_the_second_copy_is_told_apart() -> None:
    pieces = Pieces([MIB] * 4)
    for name in "ab":
        pieces.join(name)
    assert pieces.ask("a", 0.0) == Ask("a", 0, 1) and pieces.ask("b", 0.0) == Ask("b", 1, 1)
    assert pieces.came("a", 0, 0.1)
    while isinstance(ask := pieces.ask("a", 0.1), Ask):
        for piece in range(ask.first, ask.first + ask.count):
            assert pieces.came("a", piece, 0.2)
        if ask.first == 1:
            break
    assert pieces.done  # b's only piece came from a
    assert not pieces.came("b", 1, 9.0)
    assert pieces.wasted_bytes == MIB


def test_who_brings_no_whole_piece_for_long_is_overdue_however_long_nothing_was_asked() -> None:
    pieces = Pieces([MIB] * 4)
    pieces.join("a")
    assert pieces.overdue(1000.0) == []
    pieces.ask("a", 1000.0)
    assert pieces.overdue(1000.0 + PATIENCE_S) == []
    assert pieces.overdue(1000.1 + PATIENCE_S) == ["a"]


def test_an_unknown_donor_counts_for_something_when_shares_are_cut() -> None:
    pieces = Pieces([MIB] * 8)
    for name in "ab":
        pieces.join(name)
    pieces.ask("a", 0.0)
    pieces.came("a", 0, 1.0)  # 1 MiB/s
    ask = pieces.ask("a", 1.0)
    assert isinstance(ask, Ask) and ask.count == 1 and RATE_UNKNOWN > MIB


@pytest.mark.parametrize("seed", range(60))
def test_while_something_is_missing_somebody_is_asked_for_something(seed: int) -> None:
    """Whoever comes and goes, and however short the last piece is."""
    rng, now = Random(seed), 0.0
    count = rng.randint(1, 40)
    pieces = Pieces([MIB] * (count - 1) + [1])
    under_way: dict[str, list[int]] = {}
    while not pieces.done:
        name = rng.choice("abcd")
        if not under_way or (name not in under_way and rng.random() < 0.1):
            pieces.join(name)
            under_way[name] = []
        elif name in under_way and len(under_way) > 1 and rng.random() < 0.05:
            pieces.leave(name)
            del under_way[name]
        for donor, mine in under_way.items():
            while isinstance(ask := pieces.ask(donor, now), Ask):
                mine.extend(range(ask.first, ask.first + ask.count))
        now += rng.choice((0.01, 0.1, 1.0, 30.0))
        donor = rng.choice([donor for donor, mine in under_way.items() if mine])  # IndexError: nobody is asked
        pieces.came(donor, under_way[donor].pop(0), now)


def test_what_a_donor_leaves_behind_is_asked_of_one_of_many_alike() -> None:
    play = Play(Pieces([MIB] * 100), dict.fromkeys("abcd", 12.5e6))
    play.go(lambda: play.pieces.missing == 1)
    (last,) = [name for name in "abcd" if play.pieces._donors[name].asks]
    play.pieces.leave(last)
    asks = [ask for name in play.pieces.donors if (ask := play.pieces.ask(name, play.now)) is not None]
    assert len(asks) == 1


def bits(pieces: range) -> int:
    return sum(1 << piece for piece in pieces)


def test_a_fellow_is_asked_what_it_holds_and_for_that_and_the_others_first_for_this_hosts_part() -> None:
    """SPEC K11: of two that fetch the same, each begins with its half of what those that have all are to send."""
    pieces = Pieces([MIB] * 30, me="b")
    pieces.join("seed")
    pieces.join("a", fellow=True)
    assert pieces.ask("a", 0.0) == Look("a")
    assert pieces.ask("a", 0.1) is None, "it has not said what it holds"
    pieces.holds("a", bits(range(2, 25)) | 1 << 99)
    pieces.holds("stranger", 1)
    pieces.holds("seed", 0)  # it has all: what it says of it changes nothing
    first = pieces.ask("a", 0.1)
    assert isinstance(first, Ask) and first.count == 1 and 2 <= first.first < 25
    asked = [pieces.ask("seed", 0.1) for _ in range(ASKS_AHEAD)]
    assert asked == [Ask("seed", 25, 1), Ask("seed", 26, 1)], "the upper half is its own, and the fellow has some of it"
    assert pieces.came("seed", 25, 0.2) and pieces.came("seed", 26, 0.3)
    assert pieces.ask("seed", 0.3) == Ask("seed", 27, 3)
    then = pieces.ask("seed", 0.3)
    assert isinstance(then, Ask) and then.first < 2, "what the fellow holds is left to it as long as there is else"
    assert pieces.ask("a", LOOK_S) == Look("a")


def test_what_fewest_fellows_hold_is_asked_for_first() -> None:
    """SPEC K11."""
    pieces = Pieces([MIB] * 12, me="x")
    for name, held in (("a", range(12)), ("b", range(8)), ("c", range(4))):
        pieces.join(name, fellow=True)
        assert isinstance(pieces.ask(name, 0.0), Look)
        pieces.holds(name, bits(held))
    first = pieces.ask("a", 0.0)
    assert isinstance(first, Ask) and first.first >= 8
    second = pieces.ask("b", 0.0)
    assert isinstance(second, Ask) and 4 <= second.first < 8
    pieces.leave("c")
    third = pieces.ask("b", 0.0)
    assert isinstance(third, Ask) and third.first < 8


def test_of_those_that_have_all_fellows_begin_with_one_each_and_wait_not_long() -> None:
    """SPEC K11: the first piece comes soon, and then there is something to give."""
    for me, seed, other in (("a", "s", "t"), ("b", "t", "s")):
        pieces = Pieces([MIB] * 8, me=me)
        for name in ("s", "t"):
            pieces.join(name)
        pieces.join("b" if me == "a" else "a", fellow=True)
        assert pieces.ask(other, 0.0) is None and pieces.ask(other, FIRST_S - 0.1) is None
        assert isinstance(pieces.ask(seed, 1.0), Ask)
        assert isinstance(pieces.ask(other, FIRST_S), Ask), "it may be gone"
        quick = Pieces([MIB] * 8, me=me)
        for name in ("s", "t", "z"):
            quick.join(name, fellow=name == "z")
        ask = quick.ask("s", 0.0)
        assert isinstance(ask, Ask) and quick.ask("t", 0.1) is None
        quick.came("s", ask.first, 0.2)
        assert isinstance(quick.ask("t", 0.2), Ask)


def test_when_all_that_is_missing_is_held_by_fellows_the_others_bring_it_too() -> None:
    pieces = Pieces([MIB] * 8)
    for name in ("seed", "fellow"):
        pieces.join(name, fellow=name == "fellow")
    assert pieces.ask("fellow", 0.0) == Look("fellow")
    pieces.holds("fellow", bits(range(8)))
    seed, fellow = pieces.ask("seed", 0.0), pieces.ask("fellow", 0.0)
    assert isinstance(seed, Ask) and isinstance(fellow, Ask) and seed.first != fellow.first


def test_it_begins_where_it_is_told_to_and_goes_round() -> None:
    pieces = Pieces([MIB] * 10, have=(8,), start=7)
    play = Play(pieces, {"a": 1e6})
    play.go()
    order = [piece for ask in play.asked for piece in range(ask.first, ask.first + ask.count)]
    assert order == [7, 9, 0, 1, 2, 3, 4, 5, 6]


def test_one_that_has_brought_nothing_is_taken_for_slower_the_longer_it_takes() -> None:
    """A byte a second: long before it is given up, a slower one than it was taken for brings what it was asked for."""
    pieces = Pieces([MIB] * 3)
    pieces.join("stuck")
    pieces.join("slow")
    assert pieces.ask("stuck", 0.0) == Ask("stuck", 0, 1)
    assert pieces.ask("slow", 0.0) == Ask("slow", 1, 1)
    assert pieces.came("slow", 1, 2.0), "half a MiB a second"
    last = pieces.ask("slow", 2.0)
    assert last == Ask("slow", 2, 1) and pieces.came("slow", 2, 4.0)
    assert PATIENCE_S > 10.0 and pieces.ask("slow", 4.1) == Ask("slow", 0, 1)
    assert pieces.came("slow", 0, 6.1) and pieces.done
