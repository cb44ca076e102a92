"""`intellectd recover`: the owner's word that ends a lost quorum. Signs here; the key stays with whoever holds it."""

from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.membership import BadArgument, named_run
from intellectd.daemon.cli.output import printable, write, write_error, write_json
from intellectd.daemon.errors import EXIT_OK, EXIT_USAGE
from intellectd.protocol.words import counted

ANSWER_S_MAX = 60.0
KEY_TOO = "--yes --key FILE: the owner's key is not on this host, `init` said where it lies"


def recover(arguments: Any) -> int:
    """Exit code 2 and the plan without --yes: who was cut off and works on loses that work."""
    path = socket_of(arguments)
    draft = ask(path, "recovery_draft", ANSWER_S_MAX, run_id=named_run(arguments.run_id))
    if not arguments.yes:
        has_key = bool(arguments.key or draft.get("key_path"))
        for line in [*_plan(draft), "if that is right, say it again with " + ("--yes" if has_key else KEY_TOO)]:
            write_error(line)
        if arguments.json:
            write_json(draft)
        return EXIT_USAGE
    signatures = _signatures(arguments.key, draft)
    owners, hexes = list(signatures), list(signatures.values())  # one list each, as the daemon reads them
    signed = {"run_id": draft["run_id"], "entry": draft["entry"], "owners": owners, "signatures": hexes}
    answer = ask(path, "recover", ANSWER_S_MAX, **signed)
    if arguments.json:
        write_json(answer)
    else:
        voters = counted(len(answer.get("voters") or []), "voter")
        write(f"recovered: the run goes on in round {answer.get('round', '-')}, by the owner's word, with {voters}")
    return EXIT_OK


def keygen(arguments: Any) -> int:
    """A key of its own for each who may recover a run, made where it is to stay; its name goes into run.toml."""
    from intellectd.daemon.identity import OwnerKey

    path = Path(arguments.file)
    if not path.parent.is_dir():
        raise BadArgument(f"{path.parent} is no folder", "make it first: a key lies where you put it")
    if path.exists() or path.is_symlink():
        raise BadArgument(f"{path} exists already", "name a new file: no key is overwritten")
    key = OwnerKey.create(path)
    if arguments.json:
        write_json({"key": key.peer_id, "file": str(path)})
    else:
        write(key.peer_id)
        write_error(f"the secret part lies in {path}: keep it, and a copy elsewhere. The line above is for run.toml:")
        write_error(
            f'  [recovery]\n  keys = ["{key.peer_id}"]  # and the others\'; needed = how many of them must sign'
        )
    return EXIT_OK


def _plan(draft: dict[str, Any]) -> list[str]:
    forgot = len(draft.get("forgot") or [])
    given_up = [int(number) for number in draft.get("given_up") or []]
    record = _record(draft)  # what would be signed is what is shown, not what is said beside it
    return [
        f"run {printable(draft['name'])!r} would go on from round {record.round} with these voters:",
        *(f"  {voter}" for voter in record.next_voters),
        "without these, and without anything that they decide among themselves from here on:",
        *(f"  {printable(voter)}" for voter in draft["lost"]),
        *([_gone(given_up)] if given_up else []),
        *([f"{forgot} of them forgot what they voted before: each votes anew, in this branch alone"] if forgot else []),
    ]


def _gone(rounds: list[int]) -> str:
    if len(rounds) == 1:
        return f"round {rounds[0]} would be given up: its record is here, and nobody here has its update"
    return f"rounds {rounds[0]} to {rounds[-1]} would be given up: their records are here, but not all their updates"


def _record(draft: dict[str, Any]) -> Any:
    from intellectd.protocol.records import decode_entry

    return decode_entry(bytes.fromhex(draft["entry"])).record


def _signatures(keys: list[str], draft: dict[str, Any]) -> dict[str, str]:
    """By every key that was named, else by the one that `init` left on the daemon's host."""
    from intellectd.daemon.identity import OwnerKey
    from intellectd.protocol.branch import branch_bytes
    from intellectd.protocol.run_id import run_key

    paths = keys or ([draft["key_path"]] if draft.get("key_path") else [])
    if not paths:
        raise BadArgument(
            "this host has no owner's key of the run",
            "name its file with --key: `init` said where it lies; if it is lost, `checkpoint export` saves what "
            "was learned",
        )
    message = branch_bytes(run_key(draft["run_id"]), _record(draft))
    made: dict[str, str] = {}
    for path in paths:
        key = OwnerKey.load(Path(path))
        if key.peer_id not in draft["owners"]:
            raise BadArgument(f"{path} is not an owner's key of this run", "`intellectd init` said where it lies")
        made[key.peer_id] = key.sign(message).hex()
    if len(made) < draft["needed"]:
        raise BadArgument(
            f"the run asks for {draft['needed']} of its owners' keys, {len(made)} were given", "name each with --key"
        )
    return dict(sorted(made.items()))
