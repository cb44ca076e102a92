"""Fixtures of the control plane's tests, which run over libp2p and in memory."""

import pytest
import trio.testing


@pytest.fixture(params=["memory", "libp2p"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(kind: str) -> object:
    """Jumping time in memory; real sockets need the real clock (pytest-trio uses what is a Clock)."""
    return trio.testing.MockClock(autojump_threshold=0) if kind == "memory" else None
