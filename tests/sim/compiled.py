"""`python -m tests.sim.compiled ARGUMENTS`: as `python -m tests.sim ARGUMENTS`, with machines and worlds compiled to C.

Owns a copy of the sources under build/, which mypyc compiles as they are: it needs no more than their types. A copy is
named by what it was made from. Worlds are the same; machines cannot be broken on purpose there, since nothing of a
compiled class can be replaced.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.sim.native import native, parted

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build/sim"
SOURCES = {"protocol": "intellectd/protocol", "kernels": "intellectd/kernels", "tests/sim": "tests/sim"}
# These define structs of msgspec, whose metaclass is not for mypyc.
AS_THEY_ARE = ("__init__", "entries", "ids", "manifest", "messages", "port", "run_id", "run_toml")
PARTED = ("entries", "ids", "messages")  # of these what is no struct
REPLACED = ("open_envelope", "open_message")  # while worlds run (decoded.py), which what is compiled would not see
OF_WORLDS = (
    *("decoded", "faults", "host", "network", "rings", "tables", "tags", "timeline", "training", "truth", "watch"),
    "world",
)
QUICK = ROOT / "tests/sim/quick.h"
OPTIMIZED = "1"  # 3 runs no faster, since most of the time goes to CPython itself, and takes half as long again to make
COMPILE_S = 1800  # of a core it is a minute, and some machines are busy


class NotCompiled(Exception):
    """Why, for a person."""


def tree() -> Path:
    """Where the compiled copy of these sources is, made if need be. Raises NotCompiled."""
    sources = {name: sorted((ROOT / name).glob("*.py")) for name in SOURCES}
    place = BUILT / _name([*(file for files in sources.values() for file in files), QUICK])
    if place.exists():
        return place
    BUILT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=BUILT) as folder:
        new = Path(folder) / "tree"
        for name, files in sources.items():
            (new / SOURCES[name]).mkdir(parents=True)
            for file in files:
                shutil.copy(file, new / SOURCES[name])
        for package in ("intellectd", "tests"):
            (new / package / "__init__.py").touch()
        (new / "mypy.ini").write_text("[mypy]\n")  # else the repository's is found, whose paths are its own
        _compile(new)
        try:
            new.rename(place)
        except OSError:
            if not place.exists():  # else another process was quicker
                raise
    return place


def _name(files: Iterable[Path]) -> str:
    from mypy.version import __version__

    made_from = hashlib.sha256(f"{sys.version} {__version__}".encode())
    for file in files:
        made_from.update(b"\0" + file.name.encode() + b"\0" + file.read_bytes())
    return made_from.hexdigest()[:16]


def _compile(new: Path) -> None:
    machines = [path.relative_to(new) for path in sorted((new / "intellectd/protocol").glob("*.py"))]
    files = [str(path) for path in machines if path.stem not in AS_THEY_ARE]
    files += [f"tests/sim/{name}.py" for name in OF_WORLDS]
    for name in PARTED:
        place, module = new / "intellectd/protocol", f"intellectd.protocol.{name}"
        structs, functions = parted((place / f"{name}.py").read_text(), module, REPLACED)
        (place / f"{name}.py").write_text(structs)
        (place / f"{name}_functions.py").write_text(functions)
        files.append(f"intellectd/protocol/{name}_functions.py")
    for file in files:
        (new / file).write_text(native((new / file).read_text()))
    flags = f"{os.environ.get('CFLAGS', '')} -include {QUICK}"
    done = subprocess.run(
        [sys.executable, "-m", "mypyc", *files],
        cwd=new,
        env={**os.environ, "PYTHONPATH": "", "MYPYC_OPT_LEVEL": OPTIMIZED, "MYPYC_DEBUG_LEVEL": "0", "CFLAGS": flags},
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    if done.returncode:
        raise NotCompiled("\n".join((done.stdout + done.stderr).splitlines()[-30:]))
    shutil.rmtree(new / "build")


def environment(place: Path) -> dict[str, str]:
    """In which Python finds this copy, and nothing of the sources before it: nor the folder that it is called in."""
    return {**os.environ, "PYTHONPATH": str(place), "PYTHONSAFEPATH": "1"}


def main(arguments: list[str]) -> int:
    try:
        place = tree()
    except (NotCompiled, ImportError, OSError, subprocess.TimeoutExpired) as why:
        print(f"the machines could not be compiled (mypy and a C compiler are needed): {why}", file=sys.stderr)
        return 2
    os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *arguments], environment(place))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
