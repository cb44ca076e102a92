"""What is shipped beside the code: scripts that parse, a unit that systemd accepts, dashboards of real metrics."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from intellectd.daemon.cli.parser import build_parser
from intellectd.daemon.errors import EXIT_CONFIG, EXIT_PERMISSION
from intellectd.daemon.metrics import Metrics
from intellectd.daemon.socket_path import SYSTEM_SOCKET_DIR

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy/systemd/intellectd.service"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
SCRIPTS = [ROOT / "deploy/quickstart", ROOT / ".ci/run"]
EXPOSURE_MAX = 25  # tenths, of systemd-analyze security; without hardening it is 96


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


def quickstart(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "deploy/quickstart")
    return subprocess.run(
        [script, *words], capture_output=True, text=True, check=False, cwd="/", env={**os.environ, **environ}
    )


@pytest.mark.parametrize("words", [[], ["dmeo"], ["--help"]])
def test_quickstart_without_a_known_command_sets_nothing_up(words: list[str]) -> None:
    done = quickstart(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: deploy/quickstart demo|test" in done.stderr


def test_quickstart_finds_its_clone_whatever_cd_would_find_elsewhere(tmp_path: Path) -> None:
    """With CDPATH, `cd` looks elsewhere first and says where it went."""
    (tmp_path / "deploy").mkdir()
    environ = {**os.environ, "CDPATH": f"{tmp_path}:{ROOT}", "PS4": "+ ", "PWD": str(ROOT)}
    words = ["bash", "-x", "deploy/quickstart", "dmeo"]
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert f"\n+ root={shlex.quote(str(ROOT))}\n" in done.stderr


def tools(folder: Path, *without: str) -> str:
    """A PATH with everything the script needs but the named, and no apt-get, as on a host without root."""
    for name in ("bash", "env", "basename", "dirname", "tr", "id", "gcc", "python3", "sha256sum", "cut", "cat"):
        found = sys.executable if name == "python3" else shutil.which(name)
        if name not in without and found:
            (folder / name).symlink_to(found)
    return str(folder)


def test_quickstart_lists_the_packages_it_misses_and_stops(tmp_path: Path) -> None:
    done = quickstart("demo", PATH=tools(tmp_path, "gcc"))
    assert (done.returncode, done.stdout) == (1, "")
    line = next(line for line in done.stderr.splitlines() if "apt-get install" in line)
    # Without a compiler nobody can tell whether gmp.h is there.
    assert re.search(r"install -y gcc libc6-dev( python3-venv)?( python3-dev)? libgmp-dev *$", line)


def test_quickstart_without_any_python_names_it(tmp_path: Path) -> None:
    done = quickstart("demo", PATH=tools(tmp_path, "python3"))
    assert done.returncode == 1
    assert "apt-get install -y python3 python3-venv python3-dev" in done.stderr


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def test_the_unit_and_the_daemon_agree() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert f"/run/{service['RuntimeDirectory']}" == str(SYSTEM_SOCKET_DIR)
    verb = service["ExecStart"].split()[1:]
    assert build_parser().parse_args(verb).verb == "run"
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == {EXIT_PERMISSION, EXIT_CONFIG}
    # torch fails under these two: see the unit's comment.
    assert "MemoryDenyWriteExecute" not in service
    assert "ProcSubset" not in service


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_accepts_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    # verify wants the program to exist, so another stands in; an unknown key is only a warning, hence no stderr.
    stand_in = tmp_path / UNIT.name
    stand_in.touch(0o600)  # with no umask anybody might write to it, which systemd would say
    stand_in.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(stand_in)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    judge = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(stand_in)]
    assert subprocess.run(judge, capture_output=True, check=False).returncode == 0


def panels(dashboard: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel, target["expr"]


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(request.param.read_text())
    return loaded


def test_there_is_a_dashboard() -> None:
    assert DASHBOARDS


def test_dashboards_ask_only_for_metrics_that_exist(dashboard: dict[str, Any]) -> None:
    known = Metrics().names()
    queries = [expr for _, expr in panels(dashboard)] + [
        variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"
    ]
    asked = {name for query in queries for name in re.findall(r"\bintellectd_[a-z_]+", query)}
    assert sorted(asked - set(known)) == []
    assert len(asked) > 10


# What no panel need show, each with why.
WITHOUT_A_PANEL = {
    "intellectd_run_info": "labels to join others with: the model, and the host's peer id",
}


def test_each_metric_is_in_a_panel_or_said_to_need_none() -> None:
    shown = {
        name
        for path in DASHBOARDS
        for _, expr in panels(json.loads(path.read_text()))
        for name in re.findall(r"\bintellectd_[a-z_]+", expr)
    }
    families = [(family.name, family.type) for family in Metrics().registry.collect()]
    samples = {name: name + {"counter": "_total", "histogram": "_bucket"}.get(kind, "") for name, kind in families}
    hidden = {name for name, sample in samples.items() if sample not in shown}
    assert hidden == set(WITHOUT_A_PANEL)


def test_panels_can_be_read_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    for panel in dashboard["panels"]:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_queries_respect_the_variables_and_the_scrape_interval(dashboard: dict[str, Any]) -> None:
    for panel, expr in panels(dashboard):
        assert expr.count("(") == expr.count(")"), panel["title"]
        assert 'job=~"$job",instance=~"$instance"' in expr, panel["title"]
        assert not re.search(r"\[\d", expr), panel["title"]
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names == ["datasource", "job", "instance", "run"]


def test_prometheus_scrapes_the_default_address() -> None:
    from intellectd.daemon.config import SETTINGS

    (address,) = [setting.default for setting in SETTINGS if setting.key == "metrics.listen"]
    assert f'targets: ["{address}"]' in (ROOT / "deploy/prometheus/prometheus.yml").read_text()
