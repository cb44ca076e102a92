"""The benches of collectives run as they are, in the small: every result is printed, and what they compute is so."""

import pytest
import torch

from intellectd.protocol.collectives import RING
from tests.bench import gossip_loss, loopback, schedules, wan, wan_faults, wan_order, wan_scaling
from tests.wan.network import why_not
from tests.wan.topology import Route, load, uniform


@pytest.mark.slow  # processes of torch, each imported anew
def test_loopback_is_measured_against_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "ELEMENTS", 2**18)
    rows, notes = loopback.rows(2, 2, ())
    by_name = {row["name"]: row for row in rows}
    missing = {name for name in ("fp32", "int8", "int8_whole") if f"loopback_2_{name}_vs_gloo" not in by_name}
    assert not missing and ("loopback_2_fp32_plain_vs_gloo" in by_name or "fp32_plain" in " ".join(notes))
    for row in rows:
        assert row["value"] >= 0
    assert all(by_name[f"loopback_2_{name}_vs_gloo"]["of"] == 2 for name in ("fp32", "int8"))
    assert by_name["loopback_2_fp32_engine_memory"]["value"] < 256


def test_of_three_continents_the_best_ring_has_tokyo_beside_both_americans() -> None:
    topology = load("three-continents")
    found = wan_order.orders(topology)
    best, worst = found[0], found[-1]
    at = best.index("tokyo")
    assert {best[at - 1], best[(at + 1) % len(best)]} == {"dallas", "washington"}
    assert [round(1 / wan_order.cost(topology, order)[0]) for order in (best, worst)] == [250, 125]
    assert len(found) == 24
    plan, _course = wan_order.planned(topology, 2**20, RING)
    assert wan_order.cost(topology, plan) == wan_order.cost(topology, best)


def test_bytes_follow_the_rate_and_the_formulas_time_stays() -> None:
    for members, mbit in ((2, 500.0), (4, 450.0), (16, 112.5)):
        elements = wan_scaling.elements_for(2.0, members, mbit)
        seconds = wan_scaling.formula_bytes(elements, members) * 8e-6 / mbit
        assert seconds == pytest.approx(2.0, rel=0.01)


def test_gossips_groups_have_everybody_once() -> None:
    names = tuple(f"p{number}" for number in range(16))
    for number in (0, 1):
        groups = wan_scaling.groups_of(names, number)
        assert sorted(name for group in groups for name in group) == sorted(names)
        assert {len(group) for group in groups} == {wan_scaling.GOSSIP_GROUP}


@pytest.mark.slow  # likewise
@pytest.mark.skipif(why_not() is not None, reason=f"no WAN here: {why_not()}")
def test_who_is_killed_in_a_transfer_is_missed_and_the_others_end() -> None:
    route = Route(delay_ms=2.0, mbit=100.0, queue_ms=100.0)
    elements = wan_scaling.elements_for(1.0, len(wan_faults.PEERS), route.mbit)
    shape = wan_scaling.Shape((wan_scaling.CODEC,), elements)
    with wan_scaling.swarm_on(uniform(wan_faults.PEERS, route), shape) as (net, swarm):
        bench = wan_faults.Bench(net, swarm, elements)
        told = bench.disturbed(wan_faults.killed_peer(bench, 0.5), dead=("p1",))
    assert told["ended"] and told["tries"] == 2
    assert told["noticed_s"] < told["seconds"]


@pytest.mark.parametrize("members", [4, 6])
def test_schedules_are_played_to_their_end_in_the_time_of_their_bytes(members: int) -> None:
    size = 60 * 10**6
    for name, programs, _modelled in schedules.schedules(members, size):
        played = schedules.Played(programs).run()
        formula = 2 * (members - 1) / members * size
        assert max(played.sent_bytes) == pytest.approx(formula, rel=0.02), name
        assert formula / schedules.RATE < played.seconds < 1.1 * formula / schedules.RATE, name


def test_what_came_is_read_as_a_rate_and_as_a_time() -> None:
    intervals = [{"sum": {"bytes": count, "end": 0.5 * (n + 1)}} for n, count in enumerate([0, 100, *[200] * 10])]
    came = wan.arrivals({"intervals": intervals})
    assert wan.sustained_mbit(came) == pytest.approx(400 * 8e-6)
    assert wan.seconds_for(came, 50.0) == pytest.approx(0.75)
    assert wan.seconds_for(came, 500.0) == pytest.approx(2.0)
    assert wan.seconds_for(came, 4200.0) == pytest.approx(12.0), "it ended before: at its mean rate"


@pytest.mark.slow  # torch's optimizers take seconds to import
def test_a_gossip_round_moves_anchors_apart_and_an_exact_one_makes_them_the_state() -> None:
    swarm = gossip_loss.Swarm(1, torch.arange(256, dtype=torch.uint8).repeat(40))
    with torch.no_grad():
        swarm.parameters += torch.randn(swarm.parameters.shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    swarm.in_groups(1)
    anchors = {tuple(row[:8].tolist()) for row in swarm.parameters.detach()}
    assert len(anchors) == gossip_loss.HOSTS // gossip_loss.GROUP
    before = swarm.theta.clone()
    swarm.exact()
    assert torch.equal(swarm.parameters.detach(), swarm.theta.expand_as(swarm.parameters))
    assert not torch.equal(before, swarm.theta)
