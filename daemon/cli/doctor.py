"""`doctor`: is this host fit for its runs? One line a check, and what to do about each that is not well."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.host import load
from intellectd.daemon.cli.output import paint, printable, write, write_json
from intellectd.daemon.errors import EXIT_FAILURE, EXIT_OK, OperatorError

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
NAME_CHARS = 15
LEVEL_CHARS = 6


def doctor(arguments: Any) -> int:
    from intellectd.daemon.doctor.finding import Finding

    findings: list[Finding] = examine(arguments)
    healthy = all(found.level != "fail" for found in findings)
    if arguments.json:
        write_json({"healthy": healthy, "checks": [found.plain() for found in findings]})
    else:
        write("\n".join(line(found) for found in findings))
    return EXIT_OK if healthy else EXIT_FAILURE


def line(found: Any) -> str:
    todo = f"; {found.todo}" if found.todo else ""
    text = printable(f"{found.name:<{NAME_CHARS}}{found.text}{todo}")
    return paint(f"{found.level:<{LEVEL_CHARS}}", COLOURS[found.level]) + text


def examine(arguments: Any) -> list[Any]:
    from intellectd.daemon.doctor import kernel, place, running, software
    from intellectd.daemon.doctor.finding import fail, ok

    try:
        config = load(arguments)
    except OperatorError as error:
        answer, problem = _status(socket_of(arguments))
        found = [fail("configuration", error.message, error.hint), running.daemon(answer, problem)]
    else:
        text = f"{config.file} is valid" if config.file else "no file: defaults, flags and variables, and valid"
        path = config.socket
        if not path.exists() and not (arguments.socket or config.file):
            path = socket_of(arguments)  # a user's question about the system's daemon
        answer, problem = _status(path)
        found = [ok("configuration", text), *running.look(config, path, answer, problem)]
        state_dir = Path(str(answer["state_dir"])) if answer else config.state_dir
        found += place.look(state_dir, answer is not None, kept=config.snapshots.keep)
    return [*found, *software.look(os.environ, answer), *kernel.look(answer.get("pid") if answer else None)]


def _status(path: Path) -> tuple[Mapping[str, Any] | None, OperatorError | None]:
    try:
        return ask(path, "status"), None
    except OperatorError as error:
        return None, error
