"""The verbs that bring this host into a run: init and join; and how a run is named."""

import re
from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import Refused, ask, ask_and_look, socket_of
from intellectd.daemon.cli.output import printable, write, write_error, write_json
from intellectd.daemon.cli.views import state_of, waits_for
from intellectd.daemon.errors import EXIT_CONFIG, EXIT_OK, EXIT_USAGE, OperatorError
from intellectd.daemon.export_files import foothold

HASH = re.compile(r"[0-9a-f]{64}")
RUN_TOML_BYTES_MAX = 256 * 1024  # leaves most of a frame; a run.toml has some 2 kB
LOOK_S_MAX = 2.0  # for `status` while `init` waits: a daemon that is busy is asked again
INIT_S_MAX = 1800.0  # the trainer imports torch and builds the first parameters, on any hardware
IMPORT_S_MAX = 3600.0  # 14 GB of a 7B model in bf16 from the 5 MB/s of a poor network disk, and some
JOIN_S_MAX = 60.0  # the daemon dials the peers given and answers; the rest goes on by itself


class BadArgument(OperatorError):
    """An argument that cannot be right, told before the daemon is asked."""

    exit_code = EXIT_USAGE


class BadRunFile(OperatorError):
    """The file that describes the run cannot be used."""

    exit_code = EXIT_CONFIG


def init(arguments: Any) -> int:
    return _found(arguments, "init", INIT_S_MAX)


def import_(arguments: Any) -> int:
    """The daemon reads the folder: what a checkpoint holds would take minutes to send."""
    folder = Path(arguments.path).absolute()
    return _found(arguments, "import", IMPORT_S_MAX, path=str(folder), seen=list(foothold(folder)))


def _found(arguments: Any, op: str, answer_s_max: float, **fields: Any) -> int:
    text = _read_run_toml(Path(arguments.file))
    path = socket_of(arguments)
    try:
        answer = ask_and_look(path, op, answer_s_max, _Founding(path).look, toml=text, **fields)
    except Refused as error:
        if error.code == "bad_config":  # the daemon was given the text alone
            raise Refused(error.code, f"{arguments.file}: {error.message}", error.hint) from None
        raise
    if arguments.json:
        write_json(answer)
        return EXIT_OK
    for name, key in (("run id", "run_id"), ("join with", "join_line"), ("owner key", "owner_key_path")):
        write(f"{name:<11}{printable(answer.get(key, '-'))}")
    if answer.get("warning"):  # what to back up, and why
        write(f"{'warning':<11}{printable(answer['warning'])}")
    return EXIT_OK


class _Founding:
    """What the daemon waits for, told when it changes: a silent `init` looks as if it hung."""

    def __init__(self, path: Path) -> None:
        self._path, self._told = path, ""

    def look(self) -> None:
        try:
            founding = ask(self._path, "status", LOOK_S_MAX).get("founding")
        except OperatorError:
            return
        text = waits_for(founding, str(self._path.absolute())) if isinstance(founding, dict) else ""
        if text and text != self._told:
            self._told = text
            write_error(printable(text))


def _read_run_toml(path: Path) -> str:
    try:
        with path.open("rb") as file:
            body = file.read(RUN_TOML_BYTES_MAX + 1)
        if len(body) > RUN_TOML_BYTES_MAX:
            raise BadRunFile(f"{path} has more than {RUN_TOML_BYTES_MAX} bytes", "is it a run.toml?")
        return body.decode("utf-8")
    except OSError as error:
        raise BadRunFile(f"cannot read {path}: {error.strerror}", "name the file that describes the run") from error
    except UnicodeDecodeError as error:
        raise BadRunFile(f"{path} is not UTF-8 text: {error}", "is it a run.toml?") from error


def join(arguments: Any) -> int:
    run_id = checked_run_id(arguments.run_id)
    peers = [_checked_peer(peer) for peer in arguments.peer]
    path = socket_of(arguments)
    pinned = {"head": _checked_head(arguments.head)} if arguments.head else {}
    answer = ask(path, "join", JOIN_S_MAX, run_id=run_id, peers=peers, **pinned)
    if arguments.wait:
        return _wait_until_synced(arguments, run_id)
    if arguments.json:
        write_json(answer)
    else:
        write(f"joined, and after a restart it joins by itself: {printable(answer.get('state', '-'))}")
        write_error(f"`intellectd status` shows how far it is, `intellectd leave {run_id}` undoes it")
    return EXIT_OK


def _wait_until_synced(arguments: Any, run_id: str) -> int:
    from intellectd.daemon.cli.waiting import verdict, wait_for

    answer = wait_for(arguments, run_id, "synced")
    if arguments.json:
        write_json(answer)
    elif answer.get("reached"):
        run = answer.get("run") or {}
        write(f"joined and synced: round {run.get('round', '-')}  {state_of(run)}")
    return verdict(answer, run_id, "synced", arguments.timeout)


def named_run(text: str) -> str:
    """A run that this host is in: by its id, by its name, or "" for the only one."""
    from intellectd.protocol.run_id import PREFIX

    return checked_run_id(text) if text.strip().lower().startswith(PREFIX) else text


def checked_run_id(text: str) -> str:
    """A mistyped id is told here and now, instead of after a search of the network."""
    from intellectd.protocol.run_id import BadRunId, parse

    try:
        parse(text)
    except BadRunId as error:
        raise BadArgument(str(error), "`intellectd runs` prints it on every host that is in the run") from None
    return text.strip().lower()


def _checked_head(text: str) -> str:
    head = text.strip().lower()
    if not HASH.fullmatch(head):
        hint = "`intellectd rounds --json` shows each round's `record` on every host that is in the run"
        raise BadArgument(f"--head {text!r:.90} is not the hash of a record, 64 hex digits", hint)
    return head


def _checked_peer(text: str) -> str:
    from intellectd.daemon.config_values import multiaddr_of_peer

    try:
        return multiaddr_of_peer(text)
    except ValueError as error:
        raise BadArgument(
            f"--peer {text!r:.120} is not {error}", "a member's `intellectd status` shows its own"
        ) from None
