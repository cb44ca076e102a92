"""`log verify`: is the log of a run on this disk whole and proven? No daemon is needed, and none is disturbed."""

from pathlib import Path
from typing import Any

from intellectd.daemon.cli.output import complain, printable, write, write_json
from intellectd.daemon.errors import EXIT_FAILURE, EXIT_OK, OperatorError
from intellectd.protocol.words import counted


def verify(arguments: Any) -> int:
    from intellectd.daemon.runs.examine import Finding, examine

    folder = folder_of(arguments)
    try:
        seen = examine(folder)
    except Finding as finding:
        tell_of(finding, arguments.json)
        return EXIT_FAILURE
    if arguments.json:
        facts = {"rounds": seen.rounds, "records": seen.records, "head": seen.head, "updates": seen.updates}
        write_json({"valid": True, **facts, "unfinished_bytes": seen.unfinished_bytes})
        return EXIT_OK
    rounds, records = counted(seen.rounds, "round"), counted(seen.records, "record")
    write(f"{rounds}, {records}, all proven from the manifest to the newest")
    write(f"{counted(seen.updates, 'kept update')}, all as the records name them or not yet decided")
    if seen.unfinished_bytes:
        write(
            f"the last {seen.unfinished_bytes} bytes are no whole record: one is being written, or a crash cut it off"
        )
    return EXIT_OK


def tell_of(finding: Any, as_json: bool) -> None:
    what = "" if finding.round is None else f"the record of round {finding.round} is bad: "
    path = printable(finding.path)
    reason = printable(finding.reason)
    message = f"{what}{reason}" if path in reason else f"{what}{reason} ({path})"
    complain(message, finding.hint)
    if as_json:
        error = {"code": "bad_log", "message": message, "hint": finding.hint, "exit_code": EXIT_FAILURE}
        facts = {"round": finding.round, "file": str(finding.path), "reason": finding.reason}
        write_json({"valid": False, **facts, "error": error})


def folder_of(arguments: Any) -> Path:
    """Of the run that is meant, also of one that was left: by its id, or "" for the only one. Raises OperatorError."""
    state = _state_dir(arguments.state_dir)
    try:
        found = {p.name: p for part in (state / "left", state / "runs") if part.is_dir() for p in part.iterdir()}
        runs = {name: path for name, path in sorted(found.items()) if (path / "log").is_dir() and name[0] != "."}
    except OSError as error:
        raise OperatorError(f"cannot read {state}: {error.strerror}", "use the daemon's user, or root") from error
    wanted = arguments.run_id.strip().lower()
    if wanted in runs:
        return runs[wanted]
    if not wanted and len(runs) == 1:
        return next(iter(runs.values()))
    what = f"there is no run {wanted!r} in {state}" if wanted else f"there are {len(runs) or 'no'} runs in {state}"
    hint = "is this the daemon's `--state-dir`? `intellectd status` shows that one, as `state`"
    raise OperatorError(what, f"name one: {', '.join(runs)}" if runs else hint)


def _state_dir(given: str | None) -> Path:
    from intellectd.daemon.config import check_state_dir, load_config

    if given is not None:
        check_state_dir(Path(given), "--state-dir")
        return Path(given)
    configured: Path = load_config(None, {}).state_dir
    return configured
