"""What the operating system's kernel allows: congestion control, buffers, descriptors, shared memory, the clock.

Owns the values to aim for and their reasons; deploy/sysctl.d/90-intellectd.conf has the same. Reads /proc, and a few
calls. Refuses to change anything.
"""

import ctypes
import os
import re
import resource
from pathlib import Path

from intellectd.daemon.arena import ArenaError, create_arena
from intellectd.daemon.bulk.limits import SOCKET_BUFFER_BYTES, STREAMS_BUFFER_BYTES, WIRES_MAX
from intellectd.daemon.doctor.finding import Finding, fail, ok, warn

SYSCTL_FILE = "deploy/sysctl.d/90-intellectd.conf"
APPLY = f"copy {SYSCTL_FILE} to /etc/sysctl.d and run `sudo sysctl --system`"
PROC = Path("/proc")
PROC_SYS = PROC / "sys"
# 96 wires, 250 inbound control connections, logs and updates of some runs, torch's own: about 500, and as many again.
FILES_MIN = 1024
FILES_GOOD = 4096
WIRES_PATH_S = 0.1  # of a round trip across a continent: what buffers are judged by
STA_UNSYNC = 0x40  # linux/timex.h: the clock is not synchronised
TIMEX_BYTES_MAX = 512  # struct timex has 208
TIMEX_STATUS_AT = 40  # bytes before `status` on a 64-bit machine: modes, padding, offset, freq, maxerror, esterror


def look(pid: int | None = None, proc_sys: Path = PROC_SYS) -> list[Finding]:
    """`pid`: of the daemon, if it runs."""
    limit = None if pid is None else limit_of(pid)
    return [congestion(proc_sys), buffers(proc_sys), idle(proc_sys), clock(), shared_memory(), open_files(limit)]


def congestion(proc_sys: Path = PROC_SYS) -> Finding:
    """Measured at 500 Mbit/s, 100 ms, loss 1e-4, one connection: bbr 494 Mbit/s, cubic 409."""
    name = "congestion"
    there = _words(proc_sys, "net/ipv4/tcp_available_congestion_control")
    allowed = _words(proc_sys, "net/ipv4/tcp_allowed_congestion_control")
    if not there:
        return warn(name, "the kernel does not say which congestion controls it has", "see that /proc/sys is mounted")
    if "bbr" not in there:
        text = f"no bbr, only {' '.join(there)}: slower on long paths that lose packets"
        return warn(name, text, "`sudo modprobe tcp_bbr`, and deploy/modules-load.d/intellectd.conf for every boot")
    if "bbr" not in allowed:
        text = f"bbr is there, but only {' '.join(allowed)} may be used without privileges"
        return warn(name, text, f'`sudo sysctl -w net.ipv4.tcp_allowed_congestion_control="{" ".join(there)}"`')
    return ok(name, "bbr can be used; the daemon asks for it on its own connections alone")


def buffers(proc_sys: Path = PROC_SYS) -> Finding:
    """Measured at 500 Mbit/s, 100 ms, bbr, one connection: 263 Mbit/s with 4 MiB, 494 with 64 MiB."""
    name = "buffers"
    largest = {kind: _largest(proc_sys, kind) for kind in ("rmem", "wmem")}
    if not all(largest.values()):
        return warn(name, "the kernel does not say how large socket buffers may be", "see that /proc/sys is mounted")
    least = min(largest.values())
    text = f"up to {largest['rmem'] / 2**20:.0f} MiB receiving, {largest['wmem'] / 2**20:.0f} MiB sending"
    if least >= STREAMS_BUFFER_BYTES:
        return ok(name, text)
    wanted = SOCKET_BUFFER_BYTES
    lines = f"net.core.rmem_max={wanted} net.core.wmem_max={wanted}"
    mbit = least / 2 * 8 / WIRES_PATH_S / 1e6  # half of a buffer is the kernel's bookkeeping
    return warn(
        name, f"{text}: a wire carries some {mbit:.0f} Mbit/s over 100 ms", f"`sudo sysctl -w {lines}`, or {APPLY}"
    )


def idle(proc_sys: Path = PROC_SYS) -> Finding:
    """Between two rounds lie minutes, and by default the kernel forgets a path's window in the first second."""
    name = "idle restart"
    value = _words(proc_sys, "net/ipv4/tcp_slow_start_after_idle")
    if value == ["0"]:
        return ok(name, "connections keep their window from round to round")
    text = "after each pause connections begin at ten packets again (net.ipv4.tcp_slow_start_after_idle is not 0)"
    return warn(name, text, f"`sudo sysctl -w net.ipv4.tcp_slow_start_after_idle=0`, or {APPLY}")


def clock() -> Finding:
    name = "clock"
    synchronised = _synchronised()
    if synchronised:
        return ok(name, "synchronised")
    said = "not synchronised" if synchronised is False else "the kernel does not say whether it is synchronised"
    text = f"{said}: no round depends on it, but logs, dashboards and peers' ages do"
    return warn(name, text, "`sudo timedatectl set-ntp true`, or install chrony")


def shared_memory() -> Finding:
    """The arena is a sealed memfd: /dev/shm and its size do not matter to it, only the host's memory and limits."""
    name = "shared memory"
    try:
        os.close(create_arena(256))
    except ArenaError as error:
        return fail(name, str(error), "the arena needs memfd_create with seals: Linux 3.17, and no sandbox against it")
    return ok(name, "an arena can be made (a memfd: /dev/shm does not limit it)")


def open_files(limit: int | None = None) -> Finding:
    """The daemon's limit, or this process's, which a daemon would inherit."""
    name = "open files"
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    unlimited = limit == resource.RLIM_INFINITY
    text = "no limit" if unlimited else f"up to {limit}"
    todo = "`ulimit -n 65536` before `intellectd run`; deploy/systemd/intellectd.service has it"
    if unlimited or limit >= FILES_GOOD:
        return ok(name, text)
    if limit >= FILES_MIN:
        return warn(name, f"{text}: enough for small swarms", todo)
    return fail(name, f"{text}: {WIRES_MAX} wires and the control plane alone may take {FILES_MIN}", todo)


def limit_of(pid: int, proc: Path = PROC) -> int | None:
    """How many files that process may open; None where this user may not see it."""
    try:
        text = (proc / str(pid) / "limits").read_text()
    except OSError:
        return None
    found = re.search(r"^Max open files +(\w+)", text, re.MULTILINE)
    if found is None:
        return None
    return int(found[1]) if found[1].isdecimal() else resource.RLIM_INFINITY


# ---- inside


def _words(proc_sys: Path, name: str) -> list[str]:
    try:
        return (proc_sys / name).read_text().split()
    except OSError:
        return []


def _largest(proc_sys: Path, kind: str) -> int:
    """As daemon/bulk/sockets.py takes it: what may be set, or what the kernel's own tuning reaches."""
    try:
        fixed = int(_words(proc_sys, f"net/core/{kind}_max")[0])
        tuned = int(_words(proc_sys, f"net/ipv4/tcp_{kind}")[2])
    except (ValueError, IndexError):
        return 0
    return max(min(fixed, SOCKET_BUFFER_BYTES), tuned)


def _synchronised() -> bool | None:
    """adjtimex(2) with no modes only reads. None where it cannot be asked."""
    timex = ctypes.create_string_buffer(TIMEX_BYTES_MAX)
    try:
        state = ctypes.CDLL(None).adjtimex(timex)
    except (OSError, AttributeError):
        return None
    if state < 0 or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    status = int.from_bytes(timex.raw[TIMEX_STATUS_AT : TIMEX_STATUS_AT + 4], "little")
    return not status & STA_UNSYNC
