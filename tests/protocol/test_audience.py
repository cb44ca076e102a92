"""Whom a host tells of itself, in swarms that are too large for everybody to tell everybody. SPEC B9-B11."""

from random import Random

import pytest

from intellectd.protocol import limits
from intellectd.protocol.audience import Audience
from intellectd.protocol.head import Head
from tests.protocol.history import History
from tests.sim.scenario import name_of

EVERYBODY = [name_of(number) for number in range(200)]
SOMEBODY = EVERYBODY[151]  # no voter


@pytest.fixture(scope="module")
def head() -> Head:
    """Of a run of two hundred, of whom 31 are voters."""
    run = History()
    run.opening(*EVERYBODY)
    return run.head


def audience(head: Head, me: str = SOMEBODY) -> Audience:
    found = Audience(me, head.config.timers, Random(1))
    found.follow(head)
    return found


def choose(
    of: Audience,
    alive: tuple[str, ...] = (),
    me: str = SOMEBODY,
    waits_s: float = 0.0,
    journal: bool = True,
    record: bool = False,
    now: float = 100.0,
) -> list[str]:
    known = [p for p in EVERYBODY if p != me]
    return of.choose(dict.fromkeys(known), known, alive, waits_s, journal, record, now)


def test_few_tell_everybody() -> None:
    run = History()
    run.opening(*EVERYBODY[:32])
    few = audience(run.head, EVERYBODY[31])
    assert not few.sparse(64) and few.sparse(65)
    assert few.choose(["PB", "PA"], ["PB", "PA"], (), 0.0, True, False, 0.0) == ["PA", "PB"]


def test_a_member_tells_three_leaders_two_guides_and_one_by_lot(head: Head) -> None:
    mine = audience(head)
    told = choose(mine)
    assert mine.sparse(1) and len(told) == limits.LEADERS_TOLD + limits.GUIDES + limits.BEACON_LOTS
    assert all(leader in told for leader in mine.first())
    assert all(guide in told for guide in mine.near(SOMEBODY)[: limits.GUIDES])


def test_a_new_record_is_shown_to_more(head: Head) -> None:
    mine = audience(head)
    assert len(choose(mine, record=True)) - len(choose(mine)) == limits.RECORD_LOTS - limits.BEACON_LOTS


def test_whoever_has_no_journal_asks_all_voters(head: Head) -> None:
    """SPEC A13: it must hear a quorum of them."""
    told = choose(audience(head), journal=False)
    assert all(voter in told for voter in head.voters)


def test_the_longer_it_waits_the_more_leaders_are_told(head: Head) -> None:
    timers, mine = head.config.timers, audience(head)
    short, longer = choose(mine, waits_s=timers.grace_max_s), timers.grace_max_s + 2 * timers.attempt_s
    assert len(choose(mine, waits_s=longer)) == len(short) + 2
    told = choose(mine, waits_s=timers.grace_max_s + 100 * timers.attempt_s)
    assert all(voter in told for voter in head.voters)


def test_a_guide_that_does_not_answer_is_passed_over_for_a_while(head: Head) -> None:
    timers, mine = head.config.timers, audience(head)
    first, second, third = mine.near(SOMEBODY)[:3]
    deaf = [v for v in (first, second, third) if v not in mine.first()]
    assert deaf == [first, second, third], "the seed puts a leader beside this host: choose another SOMEBODY"
    assert first in choose(mine, now=0.0)
    later = timers.suspect_s + 1.0
    told = choose(mine, alive=(second,), now=later)
    assert first not in told and second in told and third in told
    assert first in choose(mine, alive=(second,), now=later + timers.expel_s)


def test_voters_tell_each_other_and_answer(head: Head) -> None:
    mine = audience(head)
    voter = next(v for v in mine.near(SOMEBODY) if v not in mine.first())
    of = audience(head, voter)
    assert of.expects(mine.first()[0], 199) and not of.expects(SOMEBODY, 199) and not mine.expects(voter, 199)
    told = choose(of, alive=(SOMEBODY,), me=voter)
    assert SOMEBODY in told and all(v in told for v in head.voters if v != voter)
    assert len(told) == len(head.voters) - 1 + 1 + limits.BEACON_LOTS


def test_a_leader_does_not_answer_all_that_tell_it(head: Head) -> None:
    leader = audience(head).first()[0]
    of = audience(head, leader)
    members = tuple(p for p in EVERYBODY if p not in head.voters)
    told = choose(of, alive=members, me=leader)
    near = [p for p in members if leader in of.near(p)[: 2 * limits.GUIDES]]
    assert 0 < len(near) < len(members) / 2
    assert all(p in told for p in near)
    assert len(told) == len(head.voters) - 1 + len(near) + limits.BEACON_LOTS


def test_everybody_has_the_same_guides_for_whoever_asks(head: Head) -> None:
    assert audience(head, "PA").near(SOMEBODY) == audience(head, "PB").near(SOMEBODY)
    assert sorted(audience(head).near(SOMEBODY)) == sorted(head.voters)
