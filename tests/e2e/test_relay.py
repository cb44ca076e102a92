"""Two members behind two NATs, and one that both can reach: a direct exchange, through it. SPEC D11."""

from contextlib import ExitStack

import pytest

from tests.bench.members import PORT, Shape, Swarm
from tests.wan.fixture import Make
from tests.wan.topology import Host as Place
from tests.wan.topology import Route, Topology

pytestmark = pytest.mark.slow

PLACES = (Place("rack"), Place("home", nat="port-restricted"), Place("flat", nat="symmetric"))
NAMES = tuple(place.name for place in PLACES)
ROUTE = Route(delay_ms=5.0, mbit=200.0)
TOPOLOGY = Topology(PLACES, {(one, other): ROUTE for one in NAMES for other in NAMES if one != other})
ELEMENTS = 16384 * 600


def test_two_behind_nat_exchange_through_a_third(wan: Make) -> None:
    net = wan(TOPOLOGY)
    addresses = {name: f"{net.address(name)}:{PORT}" if name == "rack" else "" for name in NAMES}
    with ExitStack() as stack:
        swarm = Swarm(stack, net.popen, addresses, Shape(("int8",), ELEMENTS)).ready()
        for number in range(2):
            answers = swarm.run(f"direct {number}", NAMES, "direct")
            assert {answer["digest"] for answer in answers.values()} == {answers["rack"]["digest"]}
        carried = net.counts().paths
    slice_bytes = ELEMENTS / len(NAMES)
    assert not {("home", "flat"), ("flat", "home")} & set(carried)
    for name in ("home", "flat"):  # to the relay: for itself, and for the other
        assert carried[name, "rack"].bytes_arrived > 2 * 2 * 2 * slice_bytes
