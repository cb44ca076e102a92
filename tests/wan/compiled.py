"""The router and its arithmetic, compiled from router/ by the C compiler that is here, once for each state of them.

Owns the command line of the compiler and where the results are kept. Refuses to know what they do.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "router"
KEPT = Path(__file__).parents[2] / "build" / "wan"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")


class CannotCompile(Exception):
    """No compiler, or one that does not take the sources; says which and why."""


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def router() -> Path:
    """The program; CannotCompile."""
    return _compiled("router", sorted(SOURCES.glob("*.c")), ())


def library() -> Path:
    """model.c and packet.c as a shared library, for tests of the arithmetic alone; CannotCompile."""
    return _compiled("library.so", [SOURCES / "model.c", SOURCES / "packet.c"], ("-shared", "-fPIC"))


def _compiled(name: str, sources: list[Path], flags: tuple[str, ...]) -> Path:
    cc = compiler()
    if cc is None:
        raise CannotCompile("no C compiler: cc, gcc and clang are not on the PATH")
    told = hashlib.sha256(repr((cc, FLAGS, flags)).encode())
    for path in sorted(SOURCES.iterdir()):
        told.update(path.read_bytes())
    made = KEPT / told.hexdigest()[:16] / name
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as folder:  # others may compile the same at this moment
            fresh = Path(folder) / name
            words = [cc, *FLAGS, *flags, *map(str, sources), "-lm", "-o", str(fresh)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CannotCompile(f"{cc} does not take the router's sources: {done.stderr.strip()[:2000]}")
            os.replace(fresh, made)
    return made
