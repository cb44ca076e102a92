"""The machines of another revision under the simulator of this one, in a process of their own.

Owns the export of that revision and what is said when its machines do not fit. Refuses to touch the work tree.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("daemon", "protocol", "kernels")
EXPORT_S, MEASURE_S = 60, 1800  # git archive of a small tree; a measurement of hours is a hang


class NotComparable(Exception):
    """Why, for a person."""


def measured_at(revision: str, arguments: list[str]) -> dict[str, Any]:
    """What `measure` prints with that revision's machines. Raises NotComparable."""
    with tempfile.TemporaryDirectory(prefix="sim-compare-") as folder:
        tree = Path(folder) / "tree"
        _export(revision, tree)
        own = (tree / "tests/sim/measure.py").exists()
        theirs = tree / "tests/sim"
        kept = shutil.move(theirs, Path(folder) / "theirs") if theirs.exists() else None
        shutil.copytree(ROOT / "tests/sim", theirs, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            return _run(tree, arguments)
        except NotComparable as misfit:
            # Its machines are called otherwise than this simulator does. Its own may have the same measurement.
            if not own or kept is None:
                raise NotComparable(
                    f"the machines of {revision} do not fit this simulator, and its own cannot measure yet: {misfit}"
                ) from None
            shutil.rmtree(theirs)
            shutil.move(kept, theirs)
            return _run(tree, arguments)


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


def _run(tree: Path, arguments: list[str]) -> dict[str, Any]:
    path = f"{tree / 'package'}:{tree}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", "measure", "--json", *arguments],
        cwd=tree,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=MEASURE_S,
        check=False,
        text=True,
    )
    if done.returncode:
        raise NotComparable((done.stderr.strip().splitlines() or ["no output"])[-1])
    said: dict[str, Any] = json.loads(done.stdout)
    return said
