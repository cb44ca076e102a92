"""Fixtures of the control plane's tests, which run over libp2p and in memory."""

import pytest
import trio.testing


@pytest.fixture(params=["memory", "libp2p"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "libp2p":
        from tests.daemon.net_world import patient  # it takes a second, which most tests need not wait for

        patient(monkeypatch)
    return str(request.param)


@pytest.fixture
def clock(kind: str) -> object:
    """Jumping time in memory; real sockets need the real clock (pytest-trio uses what is a Clock)."""
    return trio.testing.MockClock(autojump_threshold=0) if kind == "memory" else None
