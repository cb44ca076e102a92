"""The daemon itself: whether it runs and is of this version, and whether its socket and ports are its own or free.

Owns finding out who holds a port. Refuses to start, stop or ask anything but `status`.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from intellectd.daemon.claims import PortUnavailable, claim_tcp, refuse_if_taken
from intellectd.daemon.config import Config
from intellectd.daemon.config_values import split_host_port
from intellectd.daemon.doctor.finding import Finding, fail, ok, warn
from intellectd.daemon.errors import OperatorError

PROC = Path("/proc")
LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp
_MULTIADDR = re.compile(r"/(?:ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d+)")


def look(config: Config, path: Path, answer: Mapping[str, Any] | None, problem: OperatorError | None) -> list[Finding]:
    """`answer` is the daemon's status by the socket at `path`, if it gave one; else `problem` says why not."""
    pid = answer.get("pid") if answer else None
    return [daemon(answer, problem), control_socket(path, answer), *ports(config, pid)]


def daemon(answer: Mapping[str, Any] | None, problem: OperatorError | None) -> Finding:
    name, own = "daemon", version("intellectd")
    if answer is None:
        silent = problem is not None and problem.exit_code not in (0, 3)
        if silent and problem is not None:
            return warn(name, problem.message, problem.hint)
        return ok(name, f"not running; this is intellectd {own}")
    other, pid = str(answer.get("version", "-")), answer.get("pid", "-")
    if other != own:
        return warn(name, f"pid {pid} is intellectd {other}, this is {own}", "restart the daemon")
    return ok(name, f"running as pid {pid}, intellectd {own} as this")


def control_socket(path: Path, answer: Mapping[str, Any] | None) -> Finding:
    name = "socket"
    if answer is not None:
        return ok(name, f"{path} answers")
    try:
        refuse_if_taken(path)
    except OperatorError as error:
        return fail(name, error.message, error.hint)
    return ok(name, f"{path} is free")


def ports(config: Config, pid: int | None) -> list[Finding]:
    wanted = [("control port", _host_port(text)) for text in config.network.listen]
    wanted.append(("bulk port", split_host_port(config.network.bulk_listen)))
    if config.metrics.listen:
        wanted.append(("metrics port", split_host_port(config.metrics.listen)))
    return [port(name, *where, pid) for name, where in wanted if where is not None]


def port(name: str, host: str, number: int, pid: int | None, proc: Path = PROC) -> Finding:
    where = f"{host}:{number}"
    if number == 0:
        return ok(name, f"{host}: whichever is free")
    try:
        claim_tcp(host, number, f"the {name}")
    except PortUnavailable as error:
        return _taken(name, where, number, pid, error.hint, proc)
    except OperatorError as error:
        return fail(name, error.message, error.hint)
    if pid is not None:
        text = f"{where} is free, though the daemon runs: it has another configuration than this one"
        return warn(name, text, "restart it, or name its configuration with `--config FILE`")
    return ok(name, f"{where} is free")


def _taken(name: str, where: str, number: int, pid: int | None, hint: str, proc: Path) -> Finding:
    held = holds(pid, number, proc) if pid is not None else False
    if held:
        return ok(name, f"{where} is the daemon's")
    if held is None:
        return ok(name, f"{where} is in use, by the daemon as far as this user may see")
    return fail(name, f"{where} is in use by another program", hint)


def holds(pid: int, number: int, proc: Path = PROC) -> bool | None:
    """Whether that process listens on the port; None where this user may not see it."""
    inodes, links = _listening(proc, number), []
    try:
        descriptors = list((proc / str(pid) / "fd").iterdir())
    except OSError:
        return None
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile
            links.append(os.readlink(descriptor))
    return any(f"socket:[{inode}]" in links for inode in inodes)


def _listening(proc: Path, number: int) -> list[str]:
    """Inodes of the sockets that listen on the port."""
    found = []
    for table in ("net/tcp", "net/tcp6"):
        try:
            rows = [line.split() for line in (proc / table).read_text().splitlines()[1:]]
        except OSError:
            continue
        found += [row[9] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == number]
    return found


def _host_port(multiaddr: str) -> tuple[str, int] | None:
    found = _MULTIADDR.match(multiaddr)
    return (found[1], int(found[2])) if found else None
