"""protocol/links.py and probing.py: what is measured, how it is told, and which link is looked at. SPEC B13, B14."""

from math import inf, nan

import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.links import Links, rate_of, rtt_of
from intellectd.protocol.membership import repeats
from tests.protocol import puppets as say
from tests.protocol.playbook import Host, opened, swarm

MIB = 1024.0**2


def test_a_measurement_counts_half_and_an_old_one_ever_less() -> None:
    """SPEC B13: of factors, so that a tenth and ten times are as far from one."""
    links = Links("PA")
    links.measured("PB", 16 * MIB, 0.1, 0.0)
    links.measured("PB", MIB, 0.1, 0.0)
    assert rate(links, 0.0) == 4 * MIB
    links.measured("PB", 64 * MIB, 0.1, limits.LINK_HALF_LIFE_S)
    assert rate(links, 600.0) == 32 * MIB, "a quarter of two octaves and three quarters of six"


def rate(links: Links, now: float, to: str = "PB") -> float:
    return links.known([to, "PA"], {}, now)[1, 0].rate


def test_what_is_told_stands_until_it_is_no_longer_true() -> None:
    """SPEC B13: steps of a quarter of an octave, and no flutter between two of them."""
    links = Links("PA")
    told = []
    for factor in (1.0, 1.08, 0.93, 1.1, 0.9, 3.0):
        links.measured("PB", MIB * factor, 0.1, 0.0)
        told.append(links.told(0.0))
    assert told[:5] == [[m.Link("PB", 40, 40)]] * 5 and told[0] is told[4], "nothing new is said of it"
    assert told[5][0].rate > 40
    assert (rate_of(40), rtt_of(40)) == (MIB, pytest.approx(0.1, rel=0.03))


def test_of_many_links_the_fastest_and_the_slowest_are_told() -> None:
    """SPEC B13."""
    links = Links("PA")
    for number in range(30):
        links.measured(f"P{'BCDEFGHJKL'[number // 10]}{'ABCDEFGHJK'[number % 10]}", 2.0**number * 1024, 0.0, 0.0)
    told = links.told(0.0)
    assert sorted(link.rate // 4 for link in told) == [0, 1, 2, 3, *range(22, 30)]
    assert [link.to for link in told] == sorted(link.to for link in told) and {link.rtt for link in told} == {0}


def test_an_old_link_is_unknown_again() -> None:
    """SPEC B13."""
    links = Links("PA")
    links.measured("PB", MIB, 0.1, 0.0)
    links.measured("PC", MIB, 0.1, 60.0)
    late = limits.LINK_KEPT_S + 1.0
    assert [link.to for link in links.told(late)] == ["PC"]
    assert not links.knows("PB", late) and links.knows("PC", late)
    assert list(links.known(["PA", "PB", "PC"], {}, late)) == [(0, 2)]
    links.measured("PB", 4 * MIB, 0.1, late)
    assert rate(links, late) == pytest.approx(4 * MIB), "and nothing of the old one is in the new"


def test_what_says_nothing_is_not_measured() -> None:
    links = Links("PA")
    for peer, rate_, rtt in (("PA", MIB, 0.1), ("PB", 0.0, 0.1), ("PB", nan, 0.1), ("PB", inf, 0.1), ("PB", MIB, -1.0)):
        links.measured(peer, rate_, rtt, 0.0)
    assert links.told(0.0) == []
    links.measured("PB", 1e300, 1e300, 0.0)
    assert links.told(0.0) == [m.Link("PB", limits.RATE_STEP_MAX, limits.RTT_STEP_MAX)]


def test_measured_links_are_bounded() -> None:
    """SPEC L1."""
    links = Links("PA")
    for number in range(limits.PEERS_MAX + 50):
        links.measured(f"P{number}", MIB, 0.1, float(number))
    assert not links.knows("P49", 1100.0) and links.knows("P50", 1100.0)


def test_the_table_is_of_the_members_and_of_who_sends() -> None:
    """SPEC B13: nobody speaks of another's links, nor of ours."""
    links = Links("PA")
    links.measured("PB", MIB, 0.2, 100.0)
    said = {"PA": [m.Link("PC", 1, 1)], "PB": [m.Link("PA", 40, 44), m.Link("PZ", 9, 9), m.Link("PB", 9, 9)]}
    known = links.known(["PC", "PB", "PA"], said, 130.0)
    assert {pair: (e.source, e.age_s) for pair, e in known.items()} == {(1, 2): ("PB", 0.0), (2, 1): ("PA", 30.0)}
    assert known[1, 2].rate == MIB and known[2, 1].rate == pytest.approx(MIB)


def test_links_ride_in_the_next_beacon_and_make_none() -> None:
    """SPEC B13, B2."""
    pa = Host(swarm("PA", "PB")).meet("PB")
    pa.told(pa.after(30))
    pa.beacons.clear()
    pa.told(ev.LinkMeasured("PB", MIB, 0.1))
    assert pa.beacons == []
    pa.told(pa.after(6.1))
    beacon = opened(pa.beacons[-1])
    assert isinstance(beacon, m.Beacon) and beacon.links == [m.Link("PB", 40, 40)]


def test_links_of_others_wake_no_machine() -> None:
    """SPEC B13, B2: of a beacon that says nothing else, nothing is asked."""
    pa = Host(swarm("PA", "PB")).meet("PB")
    beacon = opened_beacon(pa, [])
    assert repeats(opened_beacon(pa, [m.Link("PA", 40, 40)]), beacon)


def opened_beacon(pa: Host, links: list[m.Link]) -> m.Beacon:
    pa.told(pa.beacon("PB", links=links)).skip()
    beacon = pa.node.membership.beacon("PB")
    assert beacon is not None
    return beacon


# ---- probes


def probes(pa: Host, seconds: float, **beacons: dict[str, object]) -> list[str]:
    """Whom it looks at in this time, in which these are heard."""
    end, found = pa.now + seconds, []
    while pa.now < end:
        pa.now += 4.0
        for event in (*(pa.beacon(peer, **fields) for peer, fields in beacons.items()), ev.Tick()):
            found += [e.peer for e in pa.node.handle(event, pa.now) if isinstance(e, ef.ProbeLink)]
    return found


PEERS = ("PA", "PB", "PC", "PD", "PE")
ALL: dict[str, dict[str, object]] = {peer: {} for peer in PEERS}


def others(me: str = "PA", **changed: dict[str, object]) -> dict[str, dict[str, object]]:
    return {peer: changed.get(peer, {}) for peer in PEERS if peer != me}


def test_each_unknown_link_has_its_turn_one_a_minute() -> None:
    """SPEC B14: what is known is not looked at, and nobody twice."""
    pa = Host(swarm(*PEERS))
    pa.told(ev.LinkMeasured("PD", MIB, 0.1))
    assert probes(pa, 50, **others()) == []
    found = probes(pa, 130, **others())
    assert 2 <= len(found) <= 3
    found += probes(pa, 300, **others())
    assert sorted(found) == ["PB", "PC", "PE"]
    pa.now += limits.LINK_KEPT_S
    assert sorted(probes(pa, 300, **others())) == ["PB", "PC", "PD", "PE"], "and after hours again"


def test_hosts_that_start_together_look_at_different_peers() -> None:
    """SPEC B14: never all at one."""
    run = swarm(*PEERS)
    first = []
    for me in PEERS:
        host = Host(run, peer=me)
        first.append(probes(host, 130, **others(me))[0])
    assert sorted(first) == sorted(PEERS)


def test_what_is_busy_or_out_of_reach_is_not_looked_at() -> None:
    """SPEC B14: no transfer here or there, no one-sided NAT on both sides, nobody who leaves or is gone."""
    run = swarm(*PEERS)
    busy: dict[str, object] = {"transfer": m.Transfer(bytes(32), 1, 2)}
    unfit: dict[str, dict[str, object]] = {"PB": busy, "PC": {"leaving": True}, "PD": {"certificate": b""}}
    assert probes(Host(run), 400, **others(**unfit)) == ["PE"]
    hidden: dict[str, dict[str, object]] = {peer: {"bulk": ""} for peer in PEERS[1:4]}
    assert sorted(probes(Host(run), 600, **others(**hidden))) == list(PEERS[1:])
    pa = Host(run)
    pa.node.prober._dialable = False
    assert probes(pa, 600, **others(**hidden)) == ["PE"]


def test_nothing_is_looked_at_with_a_transfer_ahead_or_under_way() -> None:
    """SPEC B14."""
    run = swarm("PB", "PA", "PC")
    pa = Host(run).meet("PB", "PC").work()
    assert probes(pa, 20, PB={}, PC={}) == [] == probes(pa, 400, PB={}, PC={})
    pb = Host(run).meet("PB", "PC").work()
    pb.told(pb.says("PB", say.plan(run, m.Ballot(0, "PB"), "PB", "PA"))).skip()
    assert pb.node.round.reducing is not None and probes(pb, 400, PB={}, PC={}) == []
