"""Fixtures of the end-to-end tests: a swarm on loopback that ends with its test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.swarm import Swarm


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with tempfile.TemporaryDirectory(prefix="i-") as sockets:
        swarm = Swarm(tmp_path, Path(sockets))
        try:
            yield swarm
        finally:
            swarm.end()
