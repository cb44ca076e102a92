"""What a topology file may say, what it means, and what is told to whoever errs."""

from typing import Any

import pytest

from tests.wan.topology import FOLDER, Host, Route, Topology, TopologyError, load, parse, uniform

TWO: dict[str, Any] = {"host": {"a": {"region": "x", "up_mbit": 5}, "b": {"region": "y"}, "c": {"region": "y"}}}


def paths(*entries: dict[str, Any]) -> Topology:
    return parse(TWO | {"path": list(entries)})


def test_regions_stand_for_their_hosts_and_later_entries_override_earlier_ones() -> None:
    made = paths(
        {"between": ["x", "y"], "rtt_ms": 100, "loss": 0.1, "mbit": 7},
        {"between": ["a", "c"], "rtt_ms": 60},
        {"from": "c", "to": "a", "loss": 0.2},
        {"between": ["y", "y"], "delay_ms": 3},
    )
    assert made.path("a", "b") == made.path("b", "a") == Route(delay_ms=50, loss=0.1, mbit=7)
    assert made.path("a", "c") == Route(delay_ms=30, loss=0.1, mbit=7)
    assert made.path("c", "a") == Route(delay_ms=30, loss=0.2, mbit=7)
    assert made.path("b", "c") == made.path("c", "b") == Route(delay_ms=3)
    assert made.hosts[0] == Host("a", "x", up_mbit=5)


def test_rates_scale_and_delays_stay() -> None:
    made = paths({"between": ["a", "b"], "rtt_ms": 100, "mbit": 8, "loss": 0.1}).scaled(0.25)
    assert made.path("a", "b") == Route(delay_ms=50, mbit=2, loss=0.1)
    assert made.hosts[0].up_mbit == 1.25


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "0 hosts"),
        ({"host": {"a": {"up": 3}}}, "host a: unknown up; known are down_mbit, nat, queue_ms, region, up_mbit"),
        ({"host": {"a": {"up_mbit": "3"}}}, "host a: up_mbit = '3' is no number"),
        ({"host": {"a": {"up_mbit": True}}}, "is no number"),
        ({"host": {"a": {"region": 3}}}, "region = 3 is no text"),
        ({"host": {"a": {"nat": "cone"}}}, "nat 'cone' is none of none, full-cone"),
        ({"host": {"a": {"down_mbit": -1}}}, "below zero"),
        ({"host": {f"h{n}": {} for n in range(65)}}, "65 hosts"),
        (TWO | {"mtu": 100}, "mtu 100"),
        (TWO | {"hosts": 1}, "the file: unknown hosts"),
        (TWO | {"path": [{"between": ["a", "z"]}]}, "z is no host and no region"),
        (TWO | {"path": [{"from": "a"}]}, "None is no host"),
        (TWO | {"path": [{"between": ["a"]}]}, "two ends"),
        (TWO | {"path": [{"between": ["a", "b"], "loss": 1.5}]}, "loss above one"),
        (TWO | {"path": [{"between": ["a", "b"], "open": 1}]}, "unknown open"),
    ],
)
def test_what_cannot_be_is_refused(told: dict[str, Any], said: str) -> None:
    with pytest.raises(TopologyError, match=said):
        parse(told)


def test_a_path_from_a_host_to_itself_is_refused() -> None:
    with pytest.raises(TopologyError, match="a path from 'a' to 'a'"):
        Topology((Host("a"),), {("a", "a"): Route()})
    with pytest.raises(TopologyError, match="different names"):
        uniform(("a", "a"), Route())


def test_a_file_that_is_no_toml_is_named(tmp_path: Any) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("host = [")
    with pytest.raises(TopologyError, match=r"broken\.toml"):
        load(path)
    with pytest.raises(OSError, match="nowhere"):
        load("nowhere")


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.toml")))
def test_each_file_here_says_something_of_every_pair(name: str) -> None:
    made = load(name)
    assert made == load(FOLDER / name) == load(name.removesuffix(".toml"))
    for start in made.names:
        for end in made.names:
            if start != end:
                assert made.path(start, end).delay_ms > 0
                assert made.path(start, end).delay_ms == made.path(end, start).delay_ms
    assert all(host.up_mbit and host.down_mbit for host in made.hosts)
