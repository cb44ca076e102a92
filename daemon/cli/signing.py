"""A recovery that goes from owner to owner as a file: drafted on a host of the run, signed wherever each key lies.

Owns the file's form, and that each signs what it is shown. What comes in is another person's word: nothing of it is
taken but a record, and signatures that are good for that. Talks to no daemon.
"""

import os
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
SHOWN_MAX = 31  # names below each other: as many as a record has voters, and what is above them stays in sight
ANEW = "ask whoever drafted it for the file as `intellectd recover RUN --draft FILE` wrote it"
BEARER = (
    "keep the file among the owners, and delete it when it is not used: who is in the run and has it with "
    "{}, can do this at any later time, and everything decided since is given up then"
)


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

    @property
    def enough(self) -> bool:
        return len(self.signatures) >= self.needed

    def sign(self, path: Path, whose: str) -> str:
        """By the key in this file; the owner's name. `whose`: where to find out whose it should be."""
        from intellectd.daemon.identity import OwnerKey

        key = OwnerKey.load(path)
        if key.peer_id not in self.owners:
            raise BadArgument(f"{path} is not an owner's key of this run", whose)
        self.signatures[key.peer_id] = key.sign(self.message).hex()
        return key.peer_id

    def signed(self) -> dict[str, str]:
        return dict(sorted(self.signatures.items()))

    def facts(self) -> dict[str, Any]:
        """For --json."""
        record = {"record": self._record_hash(), "round": self.record.round, "voters": list(self.record.next_voters)}
        signatures = {"signed_by": list(self.signed()), "needed": self.needed}
        return {"run_key": self.run.hex(), **record, **self.beside, **signatures}

    def plan(self) -> list[str]:
        """What would be signed is what is shown first; then what is said beside it."""
        forgot, given_up = len(self.beside["forgot"]), [int(number) for number in self.beside["given_up"]]
        lost = [printable(voter) for voter in self.beside["lost"]]
        return [
            f"run {printable(self.name)!r} would go on from round {self.record.round} with these voters:",
            *_indented([printable(voter) for voter in self.record.next_voters]),
            "without these, and without anything that they decide among themselves from here on:",
            *_indented(lost),
            *([_gone(given_up)] if given_up else []),
            *(
                [f"{forgot} of them forgot what they voted before: each votes anew, in this branch alone"]
                * bool(forgot)
            ),
            f"it is record {self._record_hash()} of the run with the public key {self.run.hex()}",
        ]

    def tally(self) -> str:
        return f"{len(self.signatures)} of {counted(self.needed, 'signature')}"

    def _record_hash(self) -> str:
        from intellectd.protocol.records import record_hash

        return record_hash(self.record).hex()


def drafted(answer: dict[str, Any]) -> Recovery:
    """As the daemon drafted it."""
    from intellectd.protocol.records import decode_entry
    from intellectd.protocol.run_id import run_key

    beside = {key: list(answer.get(key) or []) for key in ("lost", "forgot", "given_up")}
    record = decode_entry(bytes.fromhex(answer["entry"])).record
    run, owners = run_key(answer["run_id"]), list(answer["owners"])
    return Recovery(run, answer["name"], answer["entry"], owners, answer["needed"], beside, record, {})


def sign(arguments: Any) -> int:
    """Exit code 2 and the plan without --yes, as `recover`."""
    from intellectd.daemon.atomic import StorageReadOnly, write_atomic

    path = Path(arguments.file).resolve()  # a link is followed, not replaced
    recovery = read(path)
    for line in recovery.plan():
        write_error(line)
    if not arguments.yes:
        write_error(
            "signed would be that record, which names those that go on. The name of the run and who is left out are as "
            "the file tells them: compare the record and the key with the other owners"
        )
        write_error("if that is right, say it again with --yes")
        if arguments.json:
            write_json(recovery.facts())
        return EXIT_USAGE
    owner = recovery.sign(Path(arguments.key), "the file says whose keys are: `owners`")
    try:
        write_atomic(path, text_of(recovery))
    except StorageReadOnly as error:
        hint = f"make {path.parent} writable for this user, or sign a copy of the file that lies elsewhere"
        raise StorageReadOnly(error.message, hint) from error
    if arguments.json:
        write_json({"file": str(path), **recovery.facts()})
        return EXIT_OK
    write(f"signed by {owner}: {recovery.tally()}")
    left = recovery.needed - len(recovery.signatures)
    if left > 0:
        write_error(f"{counted(left, 'owner')} more: each signs this file, or a copy of it as it was drafted")
    else:
        write_error(f"now, on the host that drafted it: `intellectd recover RUN --signed {path.name} --yes`")
    write_error(BEARER.format(counted(recovery.needed, "signature")))
    return EXIT_OK


def _indented(names: list[str]) -> list[str]:
    more = [f"  and {len(names) - SHOWN_MAX} more"] if len(names) > SHOWN_MAX else []
    return [*(f"  {name}" for name in names[:SHOWN_MAX]), *more]


def _gone(rounds: list[int]) -> str:
    if len(rounds) == 1:
        return f"round {rounds[0]} would be given up: its record is here, and nobody here has its update"
    return f"rounds {rounds[0]} to {rounds[-1]} would be given up: their records are here, but not all their updates"


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


class _Kind(msgspec.Struct):
    kind: str
    schema: int


def text_of(recovery: Recovery) -> bytes:
    it, beside = recovery, recovery.beside
    said = (beside["lost"], beside["forgot"], beside["given_up"], recovery.signed())
    file = File(KIND, SCHEMA_VERSION, it.run.hex(), it.name, it.owners, it.needed, *said, it.entry)
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def write_draft(path: Path, recovery: Recovery) -> None:
    """A new file, on whatever disk: some have no links, by which others are made whole or not at all. One that was cut
    off is told as damaged, and drafted again. Raises BadArgument."""
    from intellectd.daemon.atomic import fsync_dir

    if recovery.record.round == 0:  # it follows the manifest, whose hash begins with the run's id (SPEC I3)
        raise BadArgument(
            "a record before the opening tells the run's id, which admits to the run: it is not sent around",
            "bring the keys here, and name each with --key",
        )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text_of(recovery))
            file.flush()
            os.fsync(file.fileno())
        fsync_dir(path.parent)
    except FileExistsError:
        raise BadArgument(f"{path} exists already", "name a new file: nothing is overwritten") from None
    except OSError as error:
        raise BadArgument(f"{path} cannot be written: {error.strerror}", "name a file where you may write") from error


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


def joined(paths: list[Path]) -> Recovery:
    """Of one recovery, signed in several copies. Raises BadArgument."""
    recovery = read(paths[0])
    for path in paths[1:]:
        other = read(path)
        same = (other.run, other.entry, other.owners, other.needed)
        if same != (recovery.run, recovery.entry, recovery.owners, recovery.needed):
            raise BadArgument(f"{path} is another recovery than {paths[0]}", "name copies of one, as it was drafted")
        recovery.signatures.update(other.signatures)
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


def _unhexed(word: str) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError:
        return b""
