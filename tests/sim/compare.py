"""The machines of another revision, measured in a process of their own.

Under this revision's simulator if they fit it: then everything but the machines is the same. Else under the simulator
of their own revision, whose worlds may differ as well; what was taken is said. Owns the export of that revision and
the reason when neither works. Refuses to touch the work tree.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIMULATOR = Path(__file__).resolve().parent
ROOT = SIMULATOR.parents[1]
FOLDERS = ("daemon", "protocol", "kernels")
EXPORT_S, MEASURE_S = 60, 1800  # git archive of a small tree; a measurement of hours is a hang
HERE, OWN = "this simulator", "its own simulator"
OWN_BARE = f"{OWN}, with this one's measure"
COMMAND = ("-m", "tests.sim", "measure", "--json")
# For simulators of before there was a `measure`: what it rests on is older.
BARE = """
import json, sys
from tests.sim.measure import measure
nodes, minutes, seeds = (word.partition("=")[2] for word in sys.argv[1:])
print(json.dumps({"cases": measure(int(nodes), float(minutes), int(seeds))}))
"""


class NotComparable(Exception):
    """Why, for a person."""


def measured_at(revision: str, arguments: list[str]) -> tuple[dict[str, Any], str]:
    """(what `measure` prints with that revision's machines, under which simulator). Raises NotComparable."""
    with tempfile.TemporaryDirectory(prefix="sim-compare-") as folder:
        tree = Path(folder) / "tree"
        _export(revision, tree)
        theirs, kept = tree / "tests/sim", Path(folder) / "theirs"
        if not theirs.is_dir():
            raise NotComparable("it has no simulator")
        theirs.rename(kept)
        shutil.copytree(SIMULATOR, theirs, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            return _run(tree, COMMAND, arguments), HERE
        except NotComparable as misfit:  # its machines are called otherwise than this simulator does
            shutil.rmtree(theirs)
            kept.rename(theirs)
            return _by_its_own(tree, arguments, str(misfit))


def _by_its_own(tree: Path, arguments: list[str], misfit: str) -> tuple[dict[str, Any], str]:
    measure = tree / "tests/sim/measure.py"
    how, command = (OWN, COMMAND) if measure.exists() else (OWN_BARE, ("-c", BARE))
    if not measure.exists():
        shutil.copy(SIMULATOR / "measure.py", measure)
    try:
        return _run(tree, command, arguments), how
    except NotComparable as why:
        raise NotComparable(f"its machines do not fit this simulator ({misfit}), and under {how}: {why}") from None


def _export(revision: str, tree: Path) -> None:
    packed = subprocess.run(
        ["git", "archive", "--format=tar", revision], cwd=ROOT, capture_output=True, timeout=EXPORT_S, check=False
    )
    if packed.returncode:
        raise NotComparable(f"git has no tree {revision!r}: {packed.stderr.decode().strip()}")
    tree.mkdir()
    subprocess.run(["tar", "-x"], cwd=tree, input=packed.stdout, timeout=EXPORT_S, check=True)
    package = tree / "package/intellectd"  # the import package is put together from three folders
    package.mkdir(parents=True)
    for name in FOLDERS:
        (package / name).symlink_to(tree / name)
    (package / "__init__.py").write_text("")


def _run(tree: Path, command: tuple[str, ...], arguments: list[str]) -> dict[str, Any]:
    path = f"{tree / 'package'}:{tree}"
    try:
        done = subprocess.run(
            [sys.executable, *command, *arguments],
            cwd=tree,
            env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            timeout=MEASURE_S,
            check=False,
            text=True,
        )
    except subprocess.TimeoutExpired:
        raise NotComparable(f"it takes more than {MEASURE_S} s") from None
    if done.returncode:
        raise NotComparable((done.stderr.strip().splitlines() or ["no output"])[-1])
    said: dict[str, Any] = json.loads(done.stdout)
    return said
