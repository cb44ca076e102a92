"""`intellectd recover`: the owner's word that ends a lost quorum. Signs here; the key stays with whoever holds it.

Several owners, on hosts of their own, sign a file instead, which signing.py owns.
"""

from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.membership import BadArgument, named_run
from intellectd.daemon.cli.output import write, write_error, write_json
from intellectd.daemon.cli.signing import BEARER, Recovery, drafted, joined, write_draft
from intellectd.daemon.errors import EXIT_OK, EXIT_USAGE
from intellectd.protocol.words import counted

ANSWER_S_MAX = 60.0
FOUNDERS = "--yes --key FILE: the owner's key is not on this host, `init` said where it lies"
LISTED = "--yes and {} of run.toml's [recovery], each as --key FILE; where they lie apart: --draft FILE"
OTHERS = "name each with --key; for keys that lie elsewhere write a --draft FILE, and `intellectd sign` it there"
EMPTY = '""'  # as the shell is told of the only run


def recover(arguments: Any) -> int:
    """Exit code 2 and the plan without --yes: who was cut off and works on loses that work."""
    path, run_id = socket_of(arguments), named_run(arguments.run_id)
    if arguments.draft is not None and (arguments.signed or arguments.yes):
        raise BadArgument("--draft only writes what is to be signed", "leave out --yes; --signed takes it back")
    answer = ask(path, "recovery_draft", ANSWER_S_MAX, run_id=run_id) if not arguments.signed else None
    recovery = drafted(answer) if answer is not None else joined([Path(name) for name in arguments.signed])
    if arguments.draft is not None:
        return _write_draft(arguments, recovery, answer or {})
    if not arguments.yes:
        return _show(arguments, recovery, answer)
    _sign(arguments.key, recovery, answer)
    run_id = answer["run_id"] if answer is not None else _same_run(path, run_id, recovery)
    owners, hexes = list(recovery.signed()), list(recovery.signed().values())  # one list each, as the daemon reads them
    signed = {"run_id": run_id, "entry": recovery.entry, "owners": owners, "signatures": hexes}
    taken = ask(path, "recover", ANSWER_S_MAX, **signed)
    if arguments.json:
        write_json(taken)
    else:
        voters = counted(len(taken.get("voters") or []), "voter")
        whose = "the owner's word" if recovery.needed == 1 else "the owners' word"
        write(f"recovered: the run goes on in round {taken.get('round', '-')}, by {whose}, with {voters}")
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


def _show(arguments: Any, recovery: Recovery, answer: dict[str, Any] | None) -> int:
    for line in recovery.plan():
        write_error(line)
    if answer is None:
        write_error(f"{recovery.tally()} so far")
    own = bool(answer and answer.get("key_path"))
    if len(recovery.signatures) + len(arguments.key) + own >= recovery.needed:
        again = "--yes"
    elif answer is None or answer.get("listed"):
        again = LISTED.format(counted(recovery.needed - len(recovery.signatures), "key"))
    else:
        again = FOUNDERS
    write_error(f"if that is right, say it again with {again}")
    if arguments.json:
        write_json(recovery.facts() if answer is None else answer)
    return EXIT_USAGE


def _write_draft(arguments: Any, recovery: Recovery, answer: dict[str, Any]) -> int:
    path = Path(arguments.draft)
    if not path.name or path.is_dir() or not path.parent.is_dir():
        raise BadArgument(f"{arguments.draft!r} is no name of a new file", "name one in a folder that there is")
    for key in arguments.key:
        recovery.sign(Path(key), _whose(answer))
    write_draft(path, recovery)
    if arguments.json:
        write_json({"file": str(path), **recovery.facts()})
        return EXIT_OK
    for line in recovery.plan():
        write_error(line)
    write(f"written to {path}, with {recovery.tally()}")
    write_error(f"each owner: `intellectd sign {path.name} --key KEY`, wherever the key lies")
    write_error(f"then here: `intellectd recover {arguments.run_id or EMPTY} --signed {path} --yes`")
    write_error("repeat --signed for copies that were signed apart; until then restart no daemon that it names")
    write_error(BEARER.format(counted(recovery.needed, "signature")))
    return EXIT_OK


def _same_run(path: Path, run_id: str, recovery: Recovery) -> str:
    """The run that is named, if it is the file's, which says so by the public key alone."""
    from intellectd.protocol.run_id import run_key

    answer = ask(path, "status", run_id=run_id)
    found = [str(run["run_id"]) for run in answer.get("runs") or [] if run_key(str(run["run_id"])) == recovery.run]
    if not found:
        raise BadArgument("the file is of another run", "name that one, on the host that drafted it")
    return found[0]


def _sign(keys: list[str], recovery: Recovery, answer: dict[str, Any] | None) -> None:
    """By every key that was named, else by the one that `init` left on the daemon's host."""
    paths = keys or ([answer["key_path"]] if answer and answer.get("key_path") else [])
    listed = answer is None or bool(answer.get("listed"))
    if not paths and answer is not None and not listed:
        raise BadArgument(
            "this host has no owner's key of the run",
            "name its file with --key: `init` said where it lies; if it is lost, `checkpoint export` saves what "
            "was learned",
        )
    for path in paths:
        recovery.sign(Path(path), _whose(answer or {"listed": True}))
    if not recovery.enough:
        raise BadArgument(
            f"the run asks for {recovery.needed} of its owners' keys, {len(recovery.signatures)} were given", OTHERS
        )


def _whose(answer: dict[str, Any]) -> str:
    if answer.get("listed"):
        return "run.toml lists whose keys they are under [recovery]; the one that `init` made is none of them"
    return "`intellectd init` said where it lies"
