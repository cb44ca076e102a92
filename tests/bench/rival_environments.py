"""Environments for the packages that we are measured against: one each, made once, outside this repository.

Owns versions and where they lie: INTELLECTD_BENCH_RIVALS, else a folder of this user's cache. README.md here says why
the versions are what they are. torch comes first and as this machine has it, so that no CUDA build is fetched after it.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
NUMPY = "numpy==2.3.5"  # below 2.4: README.md
VERSIONS = {"torchft": "torchft==0.2.0", "hivemind": "hivemind==1.1.12"}
INSTALL_S = 900.0


def folder() -> Path:
    asked = os.environ.get("INTELLECTD_BENCH_RIVALS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(asked) if asked else cache / "intellectd-bench-rivals"


def python_with(package: str) -> str:
    """The interpreter of an environment that has it; OSError says why it could not be made."""
    place = folder() / package
    python, made = place / "bin" / "python", place / VERSIONS[package]
    if made.exists():
        return str(python)
    venv.create(place, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    _install([*pip, TORCH, NUMPY])
    listed = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    (place / "constraints").write_text(next(line for line in listed.splitlines() if line.startswith("torch==")))
    _install([*pip, "-c", str(place / "constraints"), VERSIONS[package], NUMPY])
    made.touch()
    return str(python)


def _install(words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"pip took more than {INSTALL_S:.0f} s") from error
    if done.returncode:
        raise OSError(f"pip: {done.stderr.strip()[-400:]}")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or VERSIONS:
        print(wanted, python_with(wanted))
