"""The network as arithmetic, in virtual time: what comes when, and what never does."""

import math
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wan import compiled
from tests.wan.library import Link, Model

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="no C compiler for the router")

MBIT = 1e6 / 8
RUN_S = 250e-6  # as in router/model.c
SEGMENT, HEADER = 1448, 52  # TCP over IPv4 with time stamps, at an MTU of 1500


def test_each_direction_of_a_pair_has_its_own_delay() -> None:
    with Model.of(3) as model:
        model.path(0, 1, delay=0.040)
        model.path(1, 0, delay=0.070)
        assert [run.due for run in model.send(0, 1, 1.0, 100)] == [1.040]
        assert [run.due for run in model.send(1, 0, 1.0, 100)] == [1.070]
        assert [run.due for run in model.send(0, 2, 1.0, 100)] == [1.0]


def test_a_link_lets_through_its_rate_and_no_more() -> None:
    with Model.of(2) as model:
        model.path(0, 1, delay=0.010, link=Link(100 * MBIT))
        dues = [model.send(0, 1, 0.0, 1500)[0].due for _ in range(1000)]
        assert dues == pytest.approx([0.010 + (n + 1) * 1500 / (100 * MBIT) for n in range(1000)])
        later = model.send(0, 1, 5.0, 1500)[0].due  # the link was idle meanwhile and saves nothing up
        assert later == pytest.approx(5.010 + 1500 / (100 * MBIT))


def test_an_uplink_is_shared_by_all_paths_and_a_downlink_by_all_senders() -> None:
    with Model.of(3) as model:
        model.port(0, "up", Link(10 * MBIT))
        model.port(2, "down", Link(10 * MBIT))
        took = 1500 / (10 * MBIT)
        first, second = model.send(0, 1, 0.0, 1500)[0], model.send(0, 2, 0.0, 1500)[0]
        assert (first.due, second.due) == pytest.approx((took, 2 * took))
        other = model.send(1, 2, second.due, 1500)[0]
        assert other.due == second.due
        arrived = [model.receive(start, 2, run, 1500)[0].due for start, run in ((0, second), (1, other))]
        assert arrived == pytest.approx([3 * took, 4 * took])


def test_a_full_queue_drops_the_tail_segment_by_segment() -> None:
    with Model.of(2) as model:
        model.path(0, 1, link=Link(8 * MBIT, queue_bytes=15_000))  # 1500 us a segment
        runs = model.send(0, 1, 0.0, 40 * SEGMENT, SEGMENT, HEADER)
        # Ten wait when the eleventh comes: not more than the queue holds, so it gets in, and the twelfth does not.
        assert [number for run in runs for number in run.numbers()] == list(range(11))
        assert model.counts(0, 1).path_full == 29
        assert len(model.send(0, 1, 11 * 1500e-6, SEGMENT, SEGMENT, HEADER)) == 1


def test_losses_are_as_frequent_as_said_and_alone() -> None:
    segments, loss = 400_000, 0.01
    with Model.of(2, seed=7) as model:
        model.path(0, 1, loss=loss)
        came: list[bool] = []
        for _ in range(segments // 40):
            numbers = {n for run in model.send(0, 1, 0.0, 40 * SEGMENT, SEGMENT, HEADER) for n in run.numbers()}
            came += [n in numbers for n in range(40)]
    lost = came.count(False)
    deviation = math.sqrt(segments * loss * (1 - loss))
    assert abs(lost - segments * loss) < 4.5 * deviation  # one seed in 150 000
    pairs = sum(not a and not b for a, b in pairwise(came))
    assert abs(pairs - segments * loss**2) < 4.5 * math.sqrt(segments * loss**2)


def test_the_same_seed_loses_the_same_whoever_else_sends() -> None:
    def lost(seed: int, others: bool) -> list[int]:
        with Model.of(3, seed) as model:
            model.path(0, 1, loss=0.2)
            model.path(2, 1, loss=0.2)
            kept = []
            for number in range(200):
                if others:
                    model.send(2, 1, 0.0, 100)
                kept.append(len(model.send(0, 1, float(number), 100)))
            return kept

    assert lost(3, others=False) == lost(3, others=True)
    assert lost(3, others=False) != lost(4, others=False)


def test_jitter_wanders_within_its_bound_and_keeps_the_order() -> None:
    jitter, delay = 0.005, 0.030
    with Model.of(2, seed=1) as model:
        model.path(0, 1, delay=delay, jitter=jitter)
        sent = [number * 0.0013 for number in range(60_000)]
        came = [model.send(0, 1, at, 100)[0].due for at in sent]
    extra = [due - at - delay for at, due in zip(sent, came, strict=True)]
    assert -1e-9 <= min(extra) < 0.02 * jitter
    assert 0.98 * jitter < max(extra) <= jitter + 1e-9
    assert came == sorted(came)
    # Between two uniform draws, at a place between them that is as likely as any other.
    assert fmean(extra) == pytest.approx(jitter / 2, rel=0.05)
    assert pstdev(extra) == pytest.approx(jitter / math.sqrt(18), rel=0.05)


def test_a_cut_path_carries_nothing_and_a_healed_one_all() -> None:
    with Model.of(2) as model:
        model.path(0, 1, open_=False)
        assert model.send(0, 1, 0.0, 10 * SEGMENT, SEGMENT, HEADER) == []
        assert model.counts(0, 1).cut == 10
        assert [run.count for run in model.send(1, 0, 0.0, 10 * SEGMENT, SEGMENT, HEADER)] == [10]
        model.path(0, 1)
        assert [run.count for run in model.send(0, 1, 1.0, 10 * SEGMENT, SEGMENT, HEADER)] == [10]


def test_what_waits_when_a_link_slows_down_leaves_slower() -> None:
    with Model.of(2) as model:
        model.path(0, 1, link=Link(100 * MBIT))
        for _ in range(100):
            model.send(0, 1, 0.0, 1500)  # 12 ms of it
        model.path(0, 1, link=Link(10 * MBIT), now=0.002)
        assert model.send(0, 1, 0.002, 1500)[0].due == pytest.approx(0.002 + 0.100 + 0.0012)


@given(
    data=st.data(),
    rates=st.tuples(*[st.sampled_from([0.0, 1.0, 30.0, 900.0, 4000.0])] * 3),
    queue=st.sampled_from([0.0, 3000.0, 60_000.0, 1e9]),
    loss=st.sampled_from([0.0, 0.01, 0.5]),
)
def test_every_segment_is_accounted_for_and_none_overtakes(
    data: st.DataObject, rates: tuple[float, ...], queue: float, loss: float
) -> None:
    with Model.of(2, seed=data.draw(st.integers(0, 1000))) as model:
        model.port(0, "up", Link(rates[0] * MBIT, queue))
        model.path(0, 1, delay=0.01, jitter=0.001, link=Link(rates[1] * MBIT, queue), loss=loss)
        model.port(1, "down", Link(rates[2] * MBIT, queue))
        now, last, sent, came = 0.0, 0.0, 0, 0
        for _ in range(data.draw(st.integers(1, 8))):
            now += data.draw(st.sampled_from([0.0, 1e-4, 0.1]))
            payload = data.draw(st.integers(1, 65_000))
            sent += -(-payload // SEGMENT)
            for run in model.send(0, 1, now, payload, SEGMENT, HEADER):
                assert run.spread <= RUN_S + 1e-12
                for arrived in model.receive(0, 1, run, payload, SEGMENT, HEADER):
                    assert arrived.due >= max(last, now + 0.01)
                    assert {*arrived.numbers()} <= {*run.numbers()}
                    last, came = arrived.due, came + arrived.count
        counts = model.counts(0, 1)
        assert (counts.sent, counts.arrived) == (sent, came)
        dropped = counts.uplink_full + counts.path_full + counts.lost + counts.downlink_full
        assert sent == came + dropped
