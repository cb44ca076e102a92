"""Five daemons under faults for a minute; `python -m tests.e2e.soak` goes on for as long as one likes."""

import tempfile
from pathlib import Path

import pytest

from tests.e2e.soak import soak

SECONDS, SEED = 60.0, 1
ROUNDS_LEAST = 6  # of some forty on two idle cores: it went on all the time


@pytest.mark.slow
def test_a_minute_of_faults_ends_in_one_history(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="i-") as sockets:
        outcome = soak(tmp_path, Path(sockets), 5, SECONDS, SEED)
    assert outcome["rounds"] >= ROUNDS_LEAST, outcome
    assert sum(outcome["faults"].values()) >= SECONDS / 10, outcome
