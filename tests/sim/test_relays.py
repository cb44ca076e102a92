"""Hosts that cannot reach each other, all the time, while others reach both. SPEC W8."""

from tests.sim.play import heads
from tests.sim.test_sim import contributors, swarm


def test_two_voters_that_never_hear_each_other_go_on_together() -> None:
    """They are no neighbours in a ring of four for long: the order is drawn anew each round (C2)."""
    world = swarm(21, 4, 4)
    world.net.cut([("PC", "PD"), ("PD", "PC")])
    assert world.run(400, lambda: min(heads(world)) >= 12)
    seen = contributors(world)[1:]
    assert any("PC" in peers for peers in seen) and any("PD" in peers for peers in seen)
    host = world.hosts["PC"]
    assert host.node is not None and host.node.membership.alive("PD", host.clock(world.now))
