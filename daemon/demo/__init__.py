"""`intellectd demo`: a swarm of real daemons on this machine, with a death, a late joiner and a verdict.

Owns the command's beginning and end: where the state lies, that no process survives it, and the exit code.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from intellectd.daemon.cli.output import write
from intellectd.daemon.demo.settings import PEERS_MAX, PEERS_MIN, ROUNDS, ROUNDS_MIN
from intellectd.daemon.demo.story import Story
from intellectd.daemon.demo.table import Table
from intellectd.daemon.demo.verdict import summary
from intellectd.daemon.errors import EXIT_USAGE, OperatorError


class Usage(OperatorError):
    exit_code = EXIT_USAGE


def main(arguments: Any) -> int:
    """0 only if everything that the verdict lists held."""
    rounds = ROUNDS if arguments.rounds is None else arguments.rounds
    if not PEERS_MIN <= arguments.peers <= PEERS_MAX:
        raise Usage(
            f"--peers {arguments.peers}: the demo takes {PEERS_MIN} to {PEERS_MAX}",
            "with fewer than three no majority is left when the founder is killed",
        )
    if rounds < ROUNDS_MIN:
        raise Usage(f"--rounds {rounds}: at least {ROUNDS_MIN}, or the late joiner has no time to contribute")
    folder, kept = _folder(arguments.state_dir)
    signal.signal(signal.SIGTERM, _interrupt)
    # torch makes a folder for compiled code where it is told to, else in /tmp, and leaves it there.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "torch"))
    table = Table(sys.stderr, live=not arguments.json and sys.stderr.isatty())
    story = Story(folder, arguments.peers, rounds, table)
    try:
        outcome = story.tell()
    except KeyboardInterrupt:
        story.end()  # before its folder goes
        _remove(folder, kept)
        raise
    except BaseException:
        table.say(f"the peers' logs and state are in {folder}")
        raise
    finally:
        story.end()
    ok = bool(outcome["ok"])
    if arguments.json:
        write(json.dumps({key: value for key, value in outcome.items() if key != "checks"}))
    else:
        write(summary(outcome))
    if not ok:
        table.say(f"the peers' logs and state are in {folder}")
    else:
        _remove(folder, kept)
    return 0 if ok else 1


def _remove(folder: Path, kept: bool) -> None:
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)


def _folder(named: str | None) -> tuple[Path, bool]:
    if named is None:
        return Path(tempfile.mkdtemp(prefix="intellectd-demo-")), False
    folder = Path(named).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Usage(f"--state-dir {folder} is no empty folder; nothing was changed", "name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder, True


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
