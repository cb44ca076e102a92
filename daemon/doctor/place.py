"""Where the daemon lives: its state directory, and whether the disk and the memory do for the runs in it.

Owns reading the manifests of a state directory. Refuses to judge what else lies there (`log verify` does).
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from intellectd.daemon.doctor.finding import Finding, fail, ok, warn
from intellectd.daemon.store.budget import SNAPSHOTS_KEPT, disk_bytes, memory_bytes
from intellectd.protocol.manifest import MANIFEST_BYTES_MAX, BadManifest, config_of, decode_signed, elements_of

RUNS_MAX = 256  # folders looked at: a host is in a few runs
FREE_BYTES_MIN = 64 * 2**20  # of a host without runs: its identity, logs of rounds, and room to say so
FUTURE_S = 3600.0  # a file that is younger than this never lies in the future by a clock's drift
MEMINFO = Path("/proc/meminfo")
GIGABYTE = 10**9


@dataclass(frozen=True)
class Run:
    name: str
    disk: int
    memory: int
    used: int  # of the disk already


def look(state_dir: Path, is_running: bool, meminfo: Path = MEMINFO, kept: int = SNAPSHOTS_KEPT) -> list[Finding]:
    runs, bad = runs_in(state_dir, kept)
    return [state(state_dir, bad), disk(state_dir, runs), memory(runs, is_running, meminfo), dates(state_dir)]


def runs_in(state_dir: Path, kept: int = SNAPSHOTS_KEPT) -> tuple[list[Run], list[str]]:
    """(runs, what cannot be read)."""
    found, bad = [], []
    for folder in _folders(state_dir / "runs"):
        try:
            with (folder / "manifest").open("rb") as file:
                manifest = decode_signed(file.read(MANIFEST_BYTES_MAX + 1)).manifest
            outer, elements = config_of(manifest).outer, elements_of(manifest)
        except (OSError, BadManifest) as error:
            bad.append(f"{folder / 'manifest'}: {getattr(error, 'strerror', None) or error}")
            continue
        needed = disk_bytes(elements, outer.codec, outer.error_feedback, kept)
        memory_ = memory_bytes(elements, outer.codec, outer.schedule == "gossip")
        found.append(Run(config_of(manifest).name, needed, memory_, _size(folder)))
    return found, bad


def state(state_dir: Path, bad: list[str]) -> Finding:
    name = "state"
    existing = next((path for path in (state_dir, *state_dir.parents) if path.exists()), state_dir)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        todo = "make it writable for the daemon's user, or choose another with `--state-dir`"
        return fail(name, f"{existing} is no folder that this user may write to", todo)
    if bad:
        todo = "restore it from a backup, or move the run's folder away and `intellectd join` again"
        return fail(name, f"{len(bad)} cannot be read: {bad[0]}", todo)
    return ok(name, f"{state_dir}, {'writable' if existing == state_dir else 'to be made'}")


def disk(state_dir: Path, runs: list[Run]) -> Finding:
    name = "disk"
    existing = next((path for path in (state_dir, *state_dir.parents) if path.exists()), Path("/"))
    try:
        system = os.statvfs(existing)
    except OSError as error:
        return fail(name, f"the disk of {existing} cannot be looked at: {error.strerror}", "see that it is mounted")
    free = system.f_bavail * system.f_frsize
    wanted = sum(max(0, run.disk - run.used) for run in runs) + FREE_BYTES_MIN
    text = f"{free / GIGABYTE:.1f} GB are free, {_of(runs)} may take {wanted / GIGABYTE:.1f} GB more"
    todo = f"free some of {existing}, or move it with `--state-dir`"
    if system.f_flag & os.ST_RDONLY:
        return fail(name, f"{existing} is mounted read-only", "mount it for writing")
    if free < FREE_BYTES_MIN:
        return fail(name, text, todo)
    return ok(name, text) if free >= wanted else warn(name, f"{text}: snapshots will stop", todo)


def memory(runs: list[Run], is_running: bool, meminfo: Path = MEMINFO) -> Finding:
    """A running daemon has taken its part already: then the whole of the host's memory is what it is held against."""
    name, needed = "memory", sum(run.memory for run in runs)
    there = _meminfo(meminfo)
    total, available = there.get("MemTotal", 0), there.get("MemAvailable", 0)
    if not total:
        return warn(name, "the kernel does not say how much there is", "see that /proc is mounted")
    text = f"{available / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB are available"
    if not runs:
        return ok(name, text)
    text += f", {_of(runs)} may take {needed / GIGABYTE:.1f} GB, and the trainer its own"
    todo = "leave a run, add memory, or lend a larger host"
    if needed > total:
        return fail(name, text, todo)
    return ok(name, text) if is_running or needed <= available else warn(name, text, todo)


def dates(state_dir: Path) -> Finding:
    """A clock that was set back: incarnations only rise, so nothing breaks, but it should be known."""
    name, newest = "dates", 0.0
    for folder in [state_dir, *_folders(state_dir / "runs")]:
        for file in ("lock", "log/records", "incarnation", "history.json"):
            try:
                newest = max(newest, (folder / file).stat().st_mtime)
            except OSError:
                continue
    if newest > time.time() + FUTURE_S:
        ahead = (newest - time.time()) / 3600
        return warn(name, f"files of the daemon lie {ahead:.0f} h in the future", "correct this host's clock")
    return ok(name, "no file of the daemon lies in the future")


# ---- inside


def _folders(path: Path) -> list[Path]:
    try:
        return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and folder.name[0] != "."][:RUNS_MAX]
    except OSError:
        return []


def _size(folder: Path) -> int:
    size = 0
    for path, _below, files in os.walk(folder):
        for file in files:
            try:
                size += os.lstat(os.path.join(path, file)).st_blocks * 512
            except OSError:
                continue  # it was pruned meanwhile
    return size


def _meminfo(path: Path) -> dict[str, int]:
    """Bytes by name."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def _of(runs: list[Run]) -> str:
    return f"the run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs" if runs else "the daemon"
