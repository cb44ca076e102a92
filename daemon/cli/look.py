"""The verbs that look: status, runs, peers, netcheck, metrics. They ask, show, and say by exit code
whether all is well."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from intellectd.daemon.cli import views
from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.netcheck import netcheck_lines
from intellectd.daemon.cli.output import complain, paint, printable, write, write_error, write_json
from intellectd.daemon.errors import EXIT_DEGRADED, EXIT_OK

WATCH_S = 2.0  # a beacon comes every 5 s: faster shows nothing new
HOME_AND_CLEAR = "\x1b[H\x1b[2J"
Lines = Callable[[Mapping[str, Any]], list[str]]


def status(arguments: Any) -> int:
    answer = _show(arguments, "status", views.status_lines)
    _warn_of_other_version(str(answer.get("version", "")))
    runs = answer.get("runs") or []
    if not runs and not answer.get("founding"):
        complain("this host is in no run", "`intellectd join RUN-ID --peer MULTIADDR`, or `intellectd init run.toml`")
    return EXIT_OK if runs and all(views.is_healthy(run) for run in runs) else EXIT_DEGRADED


def runs(arguments: Any) -> int:
    _show(arguments, "runs", views.runs_lines)
    return EXIT_OK


def peers(arguments: Any) -> int:
    _show(arguments, "peers", views.peers_lines)
    return EXIT_OK


def netcheck(arguments: Any) -> int:
    answer = ask(socket_of(arguments), "netcheck", **_run_of(arguments))
    if arguments.json:
        write_json(answer)
    else:
        write("\n".join(_painted(line) for line in netcheck_lines(answer)))
    if not answer.get("runs"):
        complain("this host is in no run, so there are no peers to reach", "`intellectd join RUN-ID --peer MULTIADDR`")
    return EXIT_DEGRADED if answer.get("problems") else EXIT_OK


def metrics(arguments: Any) -> int:
    answer = ask(socket_of(arguments), "metrics")
    if arguments.json:
        write_json(answer)
    else:
        write(str(answer.get("text", "")), end="")
    return EXIT_OK


def _show(arguments: Any, op: str, lines: Lines) -> dict[str, Any]:
    """Once, or again and again until Ctrl-C, which is how a watch is meant to end."""
    path, fields = socket_of(arguments), _run_of(arguments)
    while True:
        answer = ask(path, op, **fields)
        if arguments.json:
            write_json(answer)
        else:
            clear = HOME_AND_CLEAR if arguments.watch and sys.stdout.isatty() else ""
            write(clear + "\n".join(_painted(line) for line in lines(answer)))
        if not arguments.watch:
            return answer
        time.sleep(WATCH_S)


def _run_of(arguments: Any) -> dict[str, str]:
    """What is asked for one run only, by its id or name; nothing for all."""
    from intellectd.daemon.cli.membership import named_run

    run_id = getattr(arguments, "run_id", None)
    return {} if run_id is None else {"run_id": named_run(run_id)}


def _painted(line: str) -> str:
    line = printable(line)
    if line.startswith(("warning", "problem")):
        return paint(line, "yellow")
    if line.startswith("state") and "halted" in line:
        return paint(line, "red")
    return paint(line, "bold") if line.startswith(("run ", "NAME", "PEER")) else line


def _warn_of_other_version(daemon_version: str) -> None:
    from importlib.metadata import version

    own = version("intellectd")
    if daemon_version and daemon_version != own:
        write_error(f"warning: this is intellectd {own}, the daemon is {printable(daemon_version)}: restart the daemon")
