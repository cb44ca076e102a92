"""A recovery that goes from owner to owner as a file: drafted on a host of the run, signed wherever each key lies.

Owns the file's form, and that each signs what it is shown. What comes in is another person's word: nothing of it is
taken but a record, and signatures that are good for that. Talks to no daemon.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from intellectd.daemon.cli.membership import BadArgument
from intellectd.daemon.cli.output import SCHEMA_VERSION, printable, write, write_error, write_json
from intellectd.daemon.errors import EXIT_OK, EXIT_USAGE
from intellectd.protocol.words import counted

KIND = "intellectd recovery"
FILE_BYTES_MAX = 2 * 1024 * 1024  # the daemon's answer, of at most a frame's 1 MiB, and as many signatures as owners
ANEW = "ask whoever drafted it for the file as `intellectd recover RUN --draft FILE` wrote it"


@dataclass
class Recovery:
    """What is signed: `record` follows from `entry`. The rest was said beside it, by whoever drafted it."""

    run: bytes  # its public key: the id, which admits to the run, goes to nobody with this
    name: str
    entry: str
    owners: list[str]
    needed: int
    beside: dict[str, list[Any]]  # voters that are `lost` or `forgot`, and rounds `given_up`
    record: Any
    signatures: dict[str, str]

    @property
    def message(self) -> bytes:
        from intellectd.protocol.branch import branch_bytes

        return branch_bytes(self.run, self.record)

    def sign(self, path: Path, whose: str) -> str:
        """By the key in this file; the owner's name. `whose`: what to do if it is none of an owner."""
        from intellectd.daemon.identity import OwnerKey

        key = OwnerKey.load(path)
        if key.peer_id not in self.owners:
            raise BadArgument(f"{path} is not an owner's key of this run", whose)
        self.signatures[key.peer_id] = key.sign(self.message).hex()
        return key.peer_id

    def signed(self) -> dict[str, str]:
        return dict(sorted(self.signatures.items()))


def drafted(answer: dict[str, Any]) -> Recovery:
    """As the daemon drafted it."""
    from intellectd.protocol.records import decode_entry
    from intellectd.protocol.run_id import run_key

    beside = {key: list(answer.get(key) or []) for key in ("lost", "forgot", "given_up")}
    record = decode_entry(bytes.fromhex(answer["entry"])).record
    run, owners = run_key(answer["run_id"]), list(answer["owners"])
    return Recovery(run, answer["name"], answer["entry"], owners, answer["needed"], beside, record, {})


def plan(recovery: Recovery) -> list[str]:
    """What would be signed is what is shown, not what is said beside it."""
    record, beside = recovery.record, recovery.beside
    forgot, given_up = len(beside["forgot"]), [int(number) for number in beside["given_up"]]
    return [
        f"run {printable(recovery.name)!r} would go on from round {record.round} with these voters:",
        *(f"  {printable(voter)}" for voter in record.next_voters),
        "without these, and without anything that they decide among themselves from here on:",
        *(f"  {printable(voter)}" for voter in beside["lost"]),
        *([_gone(given_up)] if given_up else []),
        *([f"{forgot} of them forgot what they voted before: each votes anew, in this branch alone"] if forgot else []),
    ]


def tally(recovery: Recovery) -> str:
    return f"{len(recovery.signatures)} of {counted(recovery.needed, 'signature')}"


def _gone(rounds: list[int]) -> str:
    if len(rounds) == 1:
        return f"round {rounds[0]} would be given up: its record is here, and nobody here has its update"
    return f"rounds {rounds[0]} to {rounds[-1]} would be given up: their records are here, but not all their updates"


def sign(arguments: Any) -> int:
    """Exit code 2 and the plan without --yes, as `recover`."""
    from intellectd.daemon.atomic import write_atomic

    path = Path(arguments.file)
    recovery = read(path)
    for line in plan(recovery):
        write_error(line)
    if not arguments.yes:
        write_error("who goes on is what you would sign; who is left out is as the host tells it that drafted this")
        write_error("if that is right, say it again with --yes")
        return EXIT_USAGE
    owner = recovery.sign(Path(arguments.key), "the file names whose keys are: `owners`")
    write_atomic(path, text_of(recovery), 0o644)
    have = len(recovery.signatures)
    if arguments.json:
        write_json({"file": str(path), "signed_by": owner, "signatures": have, "needed": recovery.needed})
        return EXIT_OK
    left = recovery.needed - have
    write(f"signed by {owner}: {tally(recovery)}")
    if left > 0:
        write_error(f"{counted(left, 'owner')} more: each signs this file, or the file as it was drafted")
    else:
        write_error(f"now, on a host of the run: `intellectd recover RUN --signed {path} --yes`")
    return EXIT_OK


# ---- the file


class File(msgspec.Struct):
    """As JSON. Unknown fields are left out when it is written again: they are no part of what is signed."""

    kind: str
    schema: int
    run: str
    name: str
    owners: list[str]
    needed: int
    lost: list[str]
    forgot: list[str]
    given_up: list[int]
    signatures: dict[str, str]
    entry: str


def text_of(recovery: Recovery) -> bytes:
    it, beside = recovery, recovery.beside
    said = (beside["lost"], beside["forgot"], beside["given_up"], recovery.signed())
    file = File(KIND, SCHEMA_VERSION, it.run.hex(), it.name, it.owners, it.needed, *said, it.entry)
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def read(path: Path) -> Recovery:
    """Raises BadArgument: no such file, none of these, or signatures in it that are not good."""
    from intellectd.daemon.identity import verify
    from intellectd.protocol.records import BadRecord, decode_entry

    data = _bytes_of(path)
    try:
        file = msgspec.json.decode(data, type=File)
        record, run = decode_entry(bytes.fromhex(file.entry)).record, bytes.fromhex(file.run)
        if not 0 < file.needed <= len(file.owners):
            raise ValueError(f"{file.needed} of {len(file.owners)} owners cannot sign")
    except (BadRecord, ValueError, RecursionError) as error:  # msgspec's and Unicode's are ValueErrors
        raise BadArgument(f"{path} is damaged: {printable(error)}", ANEW) from error
    beside: dict[str, list[Any]] = {"lost": file.lost, "forgot": file.forgot, "given_up": file.given_up}
    recovery = Recovery(run, file.name, file.entry, file.owners, file.needed, beside, record, {})
    for owner, word in sorted(file.signatures.items()):
        if owner not in file.owners or not verify(owner, recovery.message, _unhexed(word)):
            raise BadArgument(f"{path} holds a signature of {printable(owner)} that is not good", ANEW)
        recovery.signatures[owner] = word
    return recovery


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise BadArgument(f"{path} cannot be read: {error.strerror}", "name the file of the recovery") from error
    try:
        what = msgspec.json.decode(data, type=_Kind) if len(data) <= FILE_BYTES_MAX else None
    except (ValueError, RecursionError):
        what = None
    if what is None or what.kind != KIND:
        raise BadArgument(f"{path} is no recovery to sign", ANEW)
    if what.schema != SCHEMA_VERSION:
        raise BadArgument(
            f"{path} is of schema {what.schema}, this is {SCHEMA_VERSION}",
            "use the version of intellectd that wrote it, on both sides",
        )
    return data


class _Kind(msgspec.Struct):
    kind: str
    schema: int


def _unhexed(word: str) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError:
        return b""
