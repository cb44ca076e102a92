"""`intellectd recover`: the owner's word that ends a lost quorum. Signs here; the key stays with whoever holds it.

Several owners, on hosts of their own, sign a file instead, which signing.py owns.
"""

from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.membership import BadArgument, named_run
from intellectd.daemon.cli.output import write, write_error, write_json
from intellectd.daemon.cli.signing import Recovery, drafted, plan, read, tally, text_of
from intellectd.daemon.errors import EXIT_OK, EXIT_USAGE
from intellectd.protocol.words import counted

ANSWER_S_MAX = 60.0
KEY_TOO = "--yes --key FILE: the owner's key is not on this host, `init` said where it lies"
SEVERAL = "--draft FILE, for the run's owners to sign: {} of them must, each by `intellectd sign FILE --key KEY`"
EMPTY = '""'  # as the shell is told of the only run
OTHERS = "name each with --key; for keys that lie elsewhere write a --draft FILE, and `intellectd sign` it there"


def recover(arguments: Any) -> int:
    """Exit code 2 and the plan without --yes: who was cut off and works on loses that work."""
    path, run_id = socket_of(arguments), named_run(arguments.run_id)
    if arguments.signed and arguments.draft:
        raise BadArgument("--draft begins what --signed ends", "leave one of them out")
    draft = ask(path, "recovery_draft", ANSWER_S_MAX, run_id=run_id) if not arguments.signed else None
    recovery = drafted(draft) if draft else _joined(arguments.signed)
    if draft and arguments.draft:
        return _write_draft(arguments, recovery)
    if not arguments.yes:
        have = [] if draft else [f"{tally(recovery)} so far"]
        for line in [
            *plan(recovery),
            *have,
            "if that is right, say it again with " + _with(arguments, recovery, draft),
        ]:
            write_error(line)
        if arguments.json and draft:
            write_json(draft)
        return EXIT_USAGE
    _sign(arguments.key, recovery, draft)
    run_id = draft["run_id"] if draft else _same_run(arguments, recovery)
    owners, hexes = list(recovery.signed()), list(recovery.signed().values())  # one list each, as the daemon reads them
    signed = {"run_id": run_id, "entry": recovery.entry, "owners": owners, "signatures": hexes}
    answer = ask(path, "recover", ANSWER_S_MAX, **signed)
    if arguments.json:
        write_json(answer)
    else:
        voters = counted(len(answer.get("voters") or []), "voter")
        whose = "the owner's word" if recovery.needed == 1 else "the owners' word"
        write(f"recovered: the run goes on in round {answer.get('round', '-')}, by {whose}, with {voters}")
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


def _with(arguments: Any, recovery: Recovery, draft: dict[str, Any] | None) -> str:
    if arguments.key or draft is None or draft.get("key_path"):
        return "--yes"
    return KEY_TOO if recovery.needed == 1 else SEVERAL.format(recovery.needed)


def _write_draft(arguments: Any, recovery: Recovery) -> int:
    from intellectd.daemon.atomic import write_new

    if arguments.yes:
        raise BadArgument("--draft only writes what is to be signed", "leave out --yes; --signed takes it")
    path = Path(arguments.draft)
    for key in arguments.key:
        recovery.sign(Path(key), "`intellectd keygen` made each, and run.toml lists their names")
    write_new(path, text_of(recovery), 0o644)
    if arguments.json:
        write_json({"file": str(path), "signatures": len(recovery.signatures), "needed": recovery.needed})
        return EXIT_OK
    for line in plan(recovery):
        write_error(line)
    write(f"written to {path}, with {tally(recovery)}")
    write_error(f"each owner: `intellectd sign {path.name} --key KEY`, anywhere; no run's id nor any key is in it")
    write_error(f"then here: `intellectd recover {arguments.run_id or EMPTY} --signed {path} --yes`")
    write_error(
        "copies that were signed apart are each named with --signed. Until then restart no daemon that it names"
    )
    return EXIT_OK


def _joined(files: list[str]) -> Recovery:
    """Of one recovery, signed in several copies."""
    recovery = read(Path(files[0]))
    for name in files[1:]:
        other = read(Path(name))
        if (other.run, other.entry) != (recovery.run, recovery.entry):
            raise BadArgument(f"{name} is another recovery than {files[0]}", "name copies of one")
        recovery.signatures.update(other.signatures)
    return recovery


def _same_run(arguments: Any, recovery: Recovery) -> str:
    """The run that is named, or the one run of this host that the file is of: it says so by its public key alone."""
    from intellectd.protocol.run_id import run_key

    answer = ask(socket_of(arguments), "status", run_id=named_run(arguments.run_id))
    found = [str(run["run_id"]) for run in answer.get("runs") or [] if run_key(str(run["run_id"])) == recovery.run]
    if not found:
        raise BadArgument("the file is of another run", "name that one, on a host that is in it")
    return found[0]


def _sign(keys: list[str], recovery: Recovery, draft: dict[str, Any] | None) -> None:
    """By every key that was named, else by the one that `init` left on the daemon's host."""
    paths = keys or ([draft["key_path"]] if draft and draft.get("key_path") else [])
    if not paths and draft:
        raise BadArgument(
            "this host has no owner's key of the run",
            "name its file with --key: `init` said where it lies; if it is lost, `checkpoint export` saves what "
            "was learned",
        )
    for path in paths:
        recovery.sign(Path(path), "`intellectd init` said where it lies")
    if len(recovery.signatures) < recovery.needed:
        raise BadArgument(
            f"the run asks for {recovery.needed} of its owners' keys, {len(recovery.signatures)} were given", OTHERS
        )
