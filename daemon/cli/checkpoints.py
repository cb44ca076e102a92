"""`checkpoint ls` and `checkpoint verify`: the states of a run that lie on this disk. No daemon is needed, and none is
disturbed."""

import time
from typing import Any

from intellectd.daemon.cli.log import folder_of, tell_of
from intellectd.daemon.cli.output import printable, write, write_error, write_json
from intellectd.daemon.cli.tables import in_bytes, table
from intellectd.daemon.errors import EXIT_FAILURE, EXIT_OK


def ls(arguments: Any) -> int:
    from intellectd.daemon.runs.examine import Finding, examine, manifest_of
    from intellectd.daemon.runs.examine_states import states_of

    folder = folder_of(arguments)
    try:
        found = states_of(folder, manifest_of(folder), examine(folder))
    except Finding as finding:
        tell_of(finding, arguments.json)
        return EXIT_FAILURE
    if arguments.json:
        write_json({"run_id": folder.name, "checkpoints": [_plain(state) for state in found]})
        return EXIT_OK
    if not found:
        write_error(f"{printable(folder)} holds no state yet")
        return EXIT_OK
    rows = [
        (str(s.round), in_bytes(s.size), _when(s.written_at), s.standing, s.digest.hex()[:16], printable(s.path))
        for s in found
    ]
    write("\n".join(table(("ROUND", "SIZE", "WRITTEN", "LOG SAYS", "DIGEST", "FILE"), rows)))
    return EXIT_OK


def verify(arguments: Any) -> int:
    """Every byte of each state, or of the one that is named, against the digest in its name and in the log."""
    from intellectd.daemon.runs.examine import Finding, examine, manifest_of
    from intellectd.daemon.runs.examine_states import NoSuchState, check_state, states_of

    folder, wanted = folder_of(arguments), arguments.round
    try:
        manifest = manifest_of(folder)
        there = states_of(folder, manifest, examine(folder))
        found = [state for state in there if wanted in (None, state.round) and check_state(state, manifest)]
        if wanted is not None and not found:
            raise NoSuchState(folder, wanted, [state.round for state in there if state.round != wanted])
    except Finding as finding:
        tell_of(finding, arguments.json)
        return EXIT_FAILURE
    if arguments.json:
        write_json({"valid": True, "run_id": folder.name, "checkpoints": [_plain(state) for state in found]})
        return EXIT_OK
    for state in found:
        write(f"round {state.round}: {in_bytes(state.size)}, whole; {state.standing} by the log")
    if not found:
        write_error(f"{printable(folder)} holds no state yet")
    return EXIT_OK


def _plain(state: Any) -> dict[str, Any]:
    return {
        "round": state.round,
        "bytes": state.size,
        "written_at": state.written_at,
        "digest": state.digest.hex(),
        "standing": state.standing,
        "file": str(state.path),
    }


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
