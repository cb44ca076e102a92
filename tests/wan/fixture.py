"""The pytest fixtures of the WAN. tests/conftest.py hands them to all tests.

Owns when a test is skipped, and why.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.wan.counts import Counts
from tests.wan.network import Wan, why_no_nat, why_not
from tests.wan.topology import Topology

Make = Callable[..., Wan]


@pytest.fixture
def wan() -> Iterator[Make]:
    """wan(topology, seed=, offloads=): a network that ends with the test."""
    why = why_not()
    if why:
        pytest.skip(why)
    with ExitStack() as stack:

        def make(topology: Topology, **how: Any) -> Wan:
            if any(host.nat != "none" for host in topology.hosts) and (why := why_no_nat()):
                pytest.skip(why)
            return stack.enter_context(Wan(topology, **how))

        yield make


def trust(counts: Counts) -> None:
    """To be asked before a measured time is judged: skips the test when the machine was too busy to be a network."""
    why = counts.distrust()
    if why:
        pytest.skip(why)
