"""`compare` measures the machines of another revision, under this simulator or, where they do not fit it, their own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sim import __main__ as command
from tests.sim import compare

SMALL = ["--nodes", "2", "--minutes", "0.5", "--seeds", "1"]
WHO = {"GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x@x", "GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x@x"}
Capture = pytest.CaptureFixture[str]


def git(folder: Path, *words: str) -> None:
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, env={**os.environ, **WHO, **settings})


def commit(folder: Path, tag: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", tag)
    git(folder, "tag", tag)


def renamed(folder: Path, old: str, new: str) -> None:
    """A word of the machines' and of their simulator's, as a later revision may have changed it."""
    for path in sorted([*folder.glob("protocol/*.py"), *folder.glob("tests/sim/*.py")]):
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree; the same with other machines and a simulator to them; that simulator without `measure`; without
    any."""
    if shutil.which("git") is None:
        pytest.skip("no git on the PATH")
    folder = tmp_path_factory.mktemp("repository")
    for name in ("protocol", "kernels", "daemon", "tests/sim"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "demo", "p2p", "bulk", "cli")
        shutil.copytree(compare.ROOT / name, folder / name, ignore=ignored)
    (folder / "tests/__init__.py").write_text("")
    git(folder, "init", "-q")
    commit(folder, "like-this")
    renamed(folder, "recovery_draft", "drafted_recovery")
    renamed(folder, "NoRecovery", "NothingToRecover")
    commit(folder, "renamed")
    (folder / "tests/sim/measure.py").unlink()
    (folder / "tests/sim/__main__.py").unlink()
    commit(folder, "bare")
    (folder / "tests/sim/play.py").unlink()
    commit(folder, "cannot")
    shutil.rmtree(folder / "tests/sim")
    commit(folder, "none")
    return folder


@pytest.mark.parametrize(
    ("revision", "simulator"),
    [
        ("like-this", compare.HERE),
        ("renamed", compare.OWN),
        pytest.param("bare", compare.OWN_BARE, marks=pytest.mark.slow),  # three seconds each, for a process of its own
    ],
)
def test_a_revision_is_measured_by_a_simulator_that_fits(
    revision: str, simulator: str, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The machines are the same ones, so all that is measured is."""
    monkeypatch.setattr(compare, "ROOT", repository)
    assert command.main(["compare", revision, *SMALL, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["simulators"] == {revision: simulator, "here": compare.HERE}
    assert said["cases"][revision] == said["cases"]["here"] and said["cases"]["here"]["calm"]["commits"] > 1


@pytest.mark.parametrize(
    ("revision", "says"),
    [
        ("nothing", "git has no tree 'nothing'"),
        ("none", "it has no simulator"),
        pytest.param("cannot", "do not fit this simulator (ImportError", marks=pytest.mark.slow),
    ],
)
def test_why_a_revision_cannot_be_measured(
    revision: str, says: str, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(compare, "ROOT", repository)
    assert command.main(["compare", revision, *SMALL]) == 1
    said = capsys.readouterr()
    assert not said.out and said.err.startswith(f"cannot compare with {revision}: ") and says in said.err


@pytest.mark.slow
@pytest.mark.parametrize("back", [0, 3])
def test_this_revision_and_an_older_one(back: int, capsys: Capture) -> None:
    """As far back as the clone goes."""
    count = ["git", "rev-list", "--count", "--first-parent", "HEAD"]
    try:
        counted = subprocess.run(count, cwd=compare.ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"these sources have no history: {getattr(error, 'stderr', None) or error}")
    assert command.main(["compare", f"HEAD~{min(back, int(counted.stdout) - 1)}", *SMALL]) == 0
    assert "was measured by " in capsys.readouterr().out
