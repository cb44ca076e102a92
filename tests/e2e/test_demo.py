"""`intellectd demo --json` as a script would use it: its schema, its streams, and that nothing is left behind."""

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.host import INTELLECTD

pytestmark = pytest.mark.slow

DEMO_S_MAX = 420.0
END_S_MAX = 30.0  # of a process that was told to end, or whose parent is gone
ROUNDS = 16  # the late joiner needs some rounds to import its trainer on a busy machine


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The demo's own temporary folder; a name short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="i-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it in whoever imports its compiler
        yield Path(folder)


def processes_of(temporary: Path) -> list[psutil.Process]:
    """Whatever was started with this temporary folder in its environment, but for this very process."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("TMPDIR") == str(temporary):
                found.append(process)
        except psutil.Error:
            continue
    return found


def watched(processes: list[psutil.Process]) -> list[int]:
    """Descriptors that tell the end of each: not every system has a first process that waits for what it adopts, and
    what nobody waits for stays listed."""
    watches = []
    for process in processes:
        with suppress(ProcessLookupError):
            watches.append(os.pidfd_open(process.pid))
    return watches


def ended(watch: int) -> bool:
    with open(watch, "rb"):
        return bool(select.select([watch], [], [], END_S_MAX)[0])


def test_json_is_the_documented_schema_and_nothing_stays(temporary: Path) -> None:
    argv = [*INTELLECTD, "demo", "--json", "--peers", "3", "--rounds", str(ROUNDS)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEMO_S_MAX, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    keys = ["schema", "run_id", "rounds", "killed", "late_joiner", "digests_equal", "loss", "ok"]
    assert list(said) == keys
    assert (said["schema"], said["digests_equal"], said["ok"]) == (1, True, True)
    assert [row["round"] for row in said["rounds"]] == list(range(1, ROUNDS + 1))
    for row in said["rounds"]:
        assert list(row) == ["round", "roster", "loss", "tokens", "duration_s", "wire_bytes", "state_digest"]
        assert all(peer.startswith("12D3Koo") for peer in row["roster"])
        assert row["tokens"] > 0 and row["duration_s"] >= 0
        assert row["wire_bytes"] > 0 or len(row["roster"]) == 1
        assert len(bytes.fromhex(row["state_digest"])) == 32
    late = said["late_joiner"]
    assert list(late) == ["peer", "joined_round", "first_contributed_round", "catchup_s", "catchup_bytes"]
    assert late["joined_round"] < late["first_contributed_round"] and late["catchup_bytes"] > 0
    first = said["rounds"][late["first_contributed_round"] - 1]  # `ok` says that it was not the only one
    assert late["peer"] in first["roster"] and said["killed"] not in said["rounds"][-1]["roster"]
    assert said["loss"]["last"] < said["loss"]["solo"] < said["loss"]["first"]
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_an_interrupted_demo_leaves_no_process(temporary: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen([*INTELLECTD, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stderr is not None
    lines = iter(demo.stderr.readline, "")
    next(line for line in lines if "founded the run" in line)  # daemons and a trainer are running by now
    watches = watched(processes_of(temporary))
    assert len(watches) > 4
    demo.send_signal(number)
    out, _ = demo.communicate(timeout=DEMO_S_MAX)
    assert (demo.returncode, out) == (-9 if number == signal.SIGKILL else 130, "")
    assert all([ended(watch) for watch in watches])
    assert number == signal.SIGKILL or list(temporary.glob("intellectd-*")) == []
