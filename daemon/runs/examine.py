"""The log of a run, examined where it lies: every record, certificate, vote and kept update, and nothing is changed.

Owns the order of the checks and what a finding says. Needs no daemon and disturbs none that is at work there: files
are read as far as they are whole. Refuses to know who asked.
"""

import errno
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from intellectd.daemon.identity import verify
from intellectd.daemon.runs.verify_log import check_manifest
from intellectd.daemon.store import log_files
from intellectd.daemon.store.frame_file import CorruptFile, Frames
from intellectd.kernels.digest import DigestError, update_root
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.entries import roots_of
from intellectd.protocol.head import Head
from intellectd.protocol.manifest import BadManifest, Manifest, decode_signed
from intellectd.protocol.records import BadRecord, check_entry, decode_entry
from intellectd.protocol.seat import NO_BALLOT

_UPDATE = re.compile(r"^([0-9a-f]{64})\.bin$")


class Finding(Exception):
    """What is wrong: with which file, and with the record of which round, if that can be said; and what to do."""

    def __init__(self, path: Path, round_: int | None, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.path, self.round, self.reason, self.hint = path, round_, reason, hint


@dataclass
class Examined:
    records: int = 0  # the opening, which is round 0, included
    head: str = ""  # hash of the newest record
    generation: bytes = b""  # of the newest record
    updates: int = 0
    unfinished_bytes: int = 0  # at the end of a file: being written, or left by a crash; they count for nothing
    states: dict[int, bytes] = field(default_factory=dict)  # by record, the digest of the state before it
    roots: dict[bytes, int] = field(default_factory=dict)  # of updates, with their rounds

    @property
    def rounds(self) -> int:
        return max(0, self.records - 1)


class Reader:
    """Signatures for somebody who only reads."""

    secret = b""  # no message is read

    def sign(self, message: bytes) -> bytes:
        raise AssertionError("nothing is signed here")

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool:
        return verify(peer, message, signature)


def manifest_of(folder: Path) -> Manifest:
    """`folder` is named by its run id. Raises Finding."""
    return _manifest(folder)


def examine(folder: Path) -> Examined:
    """`folder` is named by its run id. Raises Finding, of the lowest round first."""
    manifest = _manifest(folder)
    voted = _votes(folder)  # before the records, of which a daemon at work may write one more meanwhile
    seen = Examined()
    _records(folder, manifest, seen)
    voted_round = voted.get(seen.generation, -1) if seen.records else max(voted.values(), default=-1)
    if voted_round > seen.records and not log_files.may_stand_behind_its_votes(folder):
        reason = f"it is missing: this host has voted on round {voted_round}, so it had the records before"
        raise Finding(log_files.records_path(folder), seen.records, reason, log_files.remedy_for(folder))
    _updates(folder, seen)
    return seen


def _manifest(folder: Path) -> Manifest:
    path = folder / log_files.MANIFEST_NAME
    try:
        signed = decode_signed(path.read_bytes())
        check_manifest(folder.name, signed)
    except BadManifest as error:
        raise Finding(path, None, str(error), log_files.remedy_for(folder)) from error
    except OSError as error:
        raise unreadable(path, None, error) from error
    return signed.manifest


def _votes(folder: Path) -> dict[bytes, int]:
    """The round of the newest vote on each line of history."""
    path, newest = log_files.votes_path(folder), dict[bytes, int]()
    remedy = log_files.remedy_for(folder)
    for _, body in _bodies(Frames(path, log_files.VOTES_MAGIC, remedy), None):
        try:
            vote = log_files.decode_vote(body)
        except msgspec.MsgspecError as error:
            raise Finding(path, None, f"a vote cannot be read: {error}", remedy) from error
        if vote.promised != NO_BALLOT:  # a mark is no vote
            newest[vote.at.generation] = vote.at.round
    return newest


def _records(folder: Path, manifest: Manifest, seen: Examined) -> None:
    head = Head(manifest, run_ids.run_key(folder.name), None)
    remedy = log_files.remedy_for(folder)
    frames = Frames(log_files.records_path(folder), log_files.LOG_MAGIC, remedy)
    for index, body in _bodies(frames, 0):
        try:
            entry = decode_entry(body)
            check_entry(head, entry, Reader())
        except BadRecord as error:
            raise Finding(frames.path, index, str(error), remedy) from error
        head = head.next(entry)
        seen.states[index] = entry.record.state_digest
        seen.roots.update(dict.fromkeys(roots_of(entry), index))
        seen.records, seen.head, seen.generation = index + 1, head.hash.hex(), head.generation
    seen.unfinished_bytes = frames.unfinished_bytes


def _bodies(frames: Frames, first_round: int | None) -> Iterator[tuple[int, bytes]]:
    count = 0
    try:
        for body in frames:
            yield count, body
            count += 1
    except CorruptFile as error:
        raise Finding(frames.path, None if first_round is None else count, error.message, error.hint) from error
    except OSError as error:
        raise unreadable(frames.path, None, error) from error


def _updates(folder: Path, seen: Examined) -> None:
    """Each that is kept has the digest that it is named by; those not yet in the log may be voted on."""
    try:
        names = sorted(path.name for path in (folder / log_files.UPDATES_NAME).iterdir())
    except OSError as error:
        raise unreadable(folder / log_files.UPDATES_NAME, None, error) from error
    roots = [bytes.fromhex(found[1]) for name in names if (found := _UPDATE.match(name))]
    for root in sorted(roots, key=lambda root: seen.roots.get(root, seen.records)):
        path = folder / log_files.UPDATES_NAME / f"{root.hex()}.bin"
        try:
            good = _digest(path) == root
        except FileNotFoundError:
            continue  # a daemon at work has pruned it
        except OSError as error:
            raise unreadable(path, seen.roots.get(root), error) from error
        if not good:
            reason = "the update's bytes are not those that the record names"
            hint = f"move {path} away: the daemon fetches it from the peers if it needs it"
            raise Finding(path, seen.roots.get(root), reason, hint)
        seen.updates += 1


def unreadable(path: Path, round_: int | None, error: OSError) -> Finding:
    forbidden = error.errno in (errno.EACCES, errno.EPERM)
    hint = "use the daemon's user, or root" if forbidden else "see that it is there, and how well the disk is"
    return Finding(path, round_, f"it cannot be read: {error.strerror}", hint)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                return update_root(data)
        except (ValueError, DigestError):  # an empty file
            return b""
