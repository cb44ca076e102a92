"""Real daemons, one of them behind a NAT that lets nobody in: they train, and netcheck says who reached whom."""

import json

import pytest

from tests.e2e.host import Answer, Host, light_trainer
from tests.e2e.swarm import Swarm
from tests.e2e.test_swarm import agree
from tests.wan.fixture import Make
from tests.wan.network import Wan
from tests.wan.topology import Host as Place
from tests.wan.topology import Route, Topology

pytestmark = pytest.mark.slow

CONTROL, TENSORS = 4001, 4002
TOPOLOGY = Topology(
    (Place("rack"), Place("home", nat="port-restricted")),
    {("rack", "home"): Route(delay_ms=5.0), ("home", "rack"): Route(delay_ms=5.0)},
)


class PlacedHost(Host):
    def __init__(self, net: Wan, name: str, options: tuple[str, ...], swarm: Swarm) -> None:
        self.where, self._options = net.inside(name), options
        super().__init__(name, swarm._folder, swarm._sockets, light_trainer(swarm.gate.path))
        swarm.hosts.append(self)

    def start(self, *options: str) -> None:
        listen = (f"--network-listen=/ip4/0.0.0.0/tcp/{CONTROL}", f"--network-bulk-listen=0.0.0.0:{TENSORS}")
        super().start(*listen, *self._options, *options)

    def netcheck(self) -> tuple[int, Answer]:
        done = self.cli("netcheck")
        return done.returncode, json.loads(done.stdout)


def test_a_host_behind_nat_trains_and_netcheck_says_who_dialled(wan: Make, swarm: Swarm) -> None:
    net = wan(TOPOLOGY)
    rack = PlacedHost(net, "rack", (), swarm)
    home = PlacedHost(net, "home", ("--network-bulk-announce=none",), swarm)
    swarm.begin([rack, home])
    round_ = swarm.advance([rack, home], 3)
    agree([rack, home])
    assert sorted(rack.rounds(swarm.run_id)[round_]["roster"]) == sorted([rack.peer, home.peer])

    code, seen = rack.netcheck()
    (row,) = seen["peers"]
    assert (code, row["peer"], row["tensors"]["reach"]) == (0, home.peer, "in")
    assert row["tensors"]["wires"] >= 1 and row["tensors"]["address"] == ""
    assert seen["tensors"]["came"] == seen["control"]["came"] == [home.peer]
    code, seen = home.netcheck()
    (row,) = seen["peers"]
    assert (code, row["tensors"]["reach"]) == (0, "out") and seen["tensors"]["came"] == []
    assert row["tensors"]["address"] == f"{net.address('rack')}:{TENSORS}"
    assert row["tensors"]["round_trip_s"] >= 0.01  # twice the way
