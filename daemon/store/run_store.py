"""The folder of one run: manifest, log, votes, updates and snapshots, and which of them may go.

Owns names, durability and retention. Refuses to judge what they say; the protocol verified records before
they come here, and digests are compared by who loads a state.
"""

import itertools
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from intellectd.daemon.atomic import StorageFull, fsync_dir, make_dir, storage_errors, write_atomic
from intellectd.daemon.store import log_files
from intellectd.daemon.store.arriving import Arriving
from intellectd.daemon.store.asked import Asked
from intellectd.daemon.store.budget import KEEP_FEW, Retention
from intellectd.daemon.store.frame_file import CorruptFile, FrameFile
from intellectd.daemon.store.incoming import Incoming
from intellectd.daemon.store.residuals import Residuals
from intellectd.daemon.store.snapshot import State, check_room, free_bytes, part_of, snapshot_bytes
from intellectd.daemon.store.snapshot_writer import SnapshotWriter, write_snapshot
from intellectd.daemon.store.updates import Updates
from intellectd.kernels.digest import state_leaves
from intellectd.protocol.effects import PersistVote
from intellectd.protocol.entries import GOSSIP, roots_of
from intellectd.protocol.ids import NO_HASH, encode
from intellectd.protocol.limits import ENTRIES_PER_CALL_MAX
from intellectd.protocol.manifest import BadManifest, SignedManifest, decode_signed
from intellectd.protocol.records import BadRecord, Entry, decode_entry, record_hash
from intellectd.protocol.seat import NO_BALLOT

VOTES_KEPT_MAX = 256  # frames in the vote file before it is rewritten with the newest alone
STATES_LEFT_MAX = 2  # parts of a history that was left whose states are kept: each has as many as SNAPSHOTS_KEPT
ANSWER_BYTES_MAX = 384 * 1024  # entries in one answer: below the control plane's message cap
INCARNATION_DIGITS_MAX = 18  # milliseconds since 1970 have 13
RESIDUALS_NAME = "feedback"
INCOMING_NAME = "incoming"
LEAVES_THREADS = 2  # for the joiner that waits; training has the other cores
LEAVING_NAME = "leaving"  # an empty file: this host takes leave of the run, whatever happens to its process
_SNAPSHOT = re.compile(r"^(\d{8,})\.safetensors$")


def snapshot_in(folder: Path, round_: int) -> Path:
    return folder / "snapshots" / f"{max(0, round_):08d}.safetensors"


def snapshots_in(folder: Path) -> list[int]:
    """Rounds, oldest first. Raises StorageError."""
    with storage_errors(folder / "snapshots"):
        names = os.listdir(folder / "snapshots")
    return sorted(int(found[1]) for name in names if (found := _SNAPSHOT.match(name)))


class RunStore:
    def __init__(self, path: Path) -> None:
        """Opens the folder of a run. Raises CorruptFile or StorageError; nothing is made up for what is missing."""
        self.path = path
        self._leaves: tuple[tuple[int, int], bytes] | None = None
        self._leaves_lock = threading.Lock()
        self.retention, self.asked = KEEP_FEW, Asked()
        self._rebased = 0  # twice for each time: before and after
        self.arriving: Arriving | None = None  # a state on its way here, for others that fetch it
        self._remedy = log_files.remedy_for(path)
        with storage_errors(self.manifest_path):
            is_there = self.manifest_path.is_file()
        if not is_there:
            raise CorruptFile(f"{self.manifest_path} is missing", self._remedy)
        self._log = FrameFile(log_files.records_path(path), log_files.LOG_MAGIC, self._remedy)
        try:
            self._votes = FrameFile(log_files.votes_path(path), log_files.VOTES_MAGIC, self._remedy)
            self._check_votes()
            with storage_errors(path):
                self.residuals = Residuals(path / RESIDUALS_NAME)
                self.updates = Updates(path / log_files.UPDATES_NAME, len(self._log))
                make_dir(path / "snapshots", 0o700)
                for left in sorted([*path.glob("*/.*.tmp"), *path.glob("left/*/.*.tmp"), *path.glob(".*.tmp")]):
                    left.unlink(missing_ok=True)  # what a crash left half-written
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, signed: SignedManifest) -> "RunStore":
        """Makes the folder. Raises StorageError."""
        make_dir(path, 0o700)
        for file, magic in (
            (log_files.records_path(path), log_files.LOG_MAGIC),
            (log_files.votes_path(path), log_files.VOTES_MAGIC),
        ):
            FrameFile.create(file, magic, log_files.remedy_for(path)).close()
        write_atomic(path / log_files.MANIFEST_NAME, encode(signed))
        return cls(path)

    def close(self) -> None:
        self._log.close()
        if hasattr(self, "_votes"):
            self._votes.close()

    # ---- manifest

    @property
    def manifest_path(self) -> Path:
        return self.path / log_files.MANIFEST_NAME

    def manifest(self) -> SignedManifest:
        try:
            with storage_errors(self.manifest_path):
                return decode_signed(self.manifest_path.read_bytes())
        except BadManifest as error:
            raise CorruptFile(f"{self.manifest_path} is damaged: {error}", self._remedy) from error

    def mark_leaving(self) -> None:
        write_atomic(self.path / LEAVING_NAME, b"")

    @property
    def is_leaving(self) -> bool:
        return (self.path / LEAVING_NAME).exists()

    def next_incarnation(self, now_ms: int) -> int:
        """Larger than at any start before, though the clock went back: peers drop beacons of an older life."""
        path = self.path / "incarnation"
        try:
            text = path.read_text("ascii")[:INCARNATION_DIGITS_MAX]
            before = int(text) if text.isdecimal() else 0
        except (OSError, ValueError):
            before = 0
        chosen = max(now_ms, before + 1)
        write_atomic(path, str(chosen).encode())
        return chosen

    # ---- log and votes

    def entries(self) -> list[Entry]:
        return [self.entry(index) for index in range(len(self._log))]

    def entries_from(self, round_: int) -> list[Entry]:
        """As many as one answer takes. Record r is frame r: the log begins with the opening, round 0. None while a line
        of history is left in another thread: records of two lines would be blamed on this host."""
        found: list[Entry] = []
        size, rebased = 0, self._rebased
        for index in range(max(0, round_), min(len(self._log), round_ + ENTRIES_PER_CALL_MAX)):
            try:
                body = self._log.read(index)
            except IndexError:
                return []  # the other line is shorter still
            size += len(body)
            if found and size > ANSWER_BYTES_MAX:
                break
            found.append(decode_entry(body))
        return found if rebased == self._rebased else []

    def entry(self, round_: int) -> Entry:
        try:
            return decode_entry(self._log.read(round_))
        except BadRecord as error:
            raise CorruptFile(f"{self._log.path} is damaged in record {round_}: {error}", self._remedy) from error

    @property
    def length(self) -> int:
        return len(self._log)

    def append(self, entry: Entry) -> None:
        assert entry.record.round == len(self._log), "the log has a gap"
        self._log.append(encode(entry))

    def rebase(self, round_: int, entries: Sequence[Entry]) -> Path | None:
        """The log goes on after `round_` with these (SPEC G8). What it leaves, records and states, is kept in a folder
        of its own, which is returned. Raises StorageError; whenever the power goes, the log is the one or the other."""
        keep = round_ + 1
        if self.arriving is not None and self.arriving.round >= max(1, keep):
            self.arriving = None  # whoever fetches the other line's state of that round would be given pieces of this
        left = [self._log.read(index) for index in range(keep, len(self._log))]
        kept_in = self._put_aside(keep, left) if left else None
        self._rebased += 1
        kept = (self._log.read(index) for index in range(min(keep, len(self._log))))
        self._log.rewrite(itertools.chain(kept, (encode(entry) for entry in entries)))
        self._rebased += 1
        return kept_in

    def _put_aside(self, keep: int, bodies: list[bytes]) -> Path:
        last = record_hash(decode_entry(bodies[-1]).record).hex()[:16]
        folder = self.path / log_files.LEFT_NAME / f"{keep:08d}-{last}"
        make_dir(folder, 0o700)
        with storage_errors(folder):
            if not (folder / "records").exists():
                FrameFile.create(folder / "records", log_files.LOG_MAGIC, self._remedy).close()
            copy = FrameFile(folder / "records", log_files.LOG_MAGIC, self._remedy)
            try:
                copy.rewrite(bodies)
            finally:
                copy.close()
            fsync_dir(folder.parent)
            fsync_dir(self.path)  # the folder itself must outlive a power cut before its records are taken elsewhere
            # The states go first: a log must not come to stand beside states of another line.
            for round_ in self.snapshots():
                if round_ >= max(1, keep):
                    os.replace(self.snapshot_path(round_), folder / self.snapshot_path(round_).name)
            fsync_dir(folder)
            fsync_dir(self.path / "snapshots")
            self._drop_old_states()
        return folder

    def _drop_old_states(self) -> None:
        """They are as large as the model; of the parts that were left before, the records tell enough."""
        parts = sorted((self.path / log_files.LEFT_NAME).iterdir(), key=lambda part: part.stat().st_mtime_ns)
        for part in parts[:-STATES_LEFT_MAX]:
            for state in sorted(part.glob("*.safetensors")):
                state.unlink(missing_ok=True)

    def vote(self) -> PersistVote | None:
        """The newest."""
        return self._vote(len(self._votes) - 1) if len(self._votes) else None

    def votes(self) -> dict[bytes, PersistVote]:
        """The newest of each generation (SPEC G9), the oldest first."""
        newest: dict[bytes, PersistVote] = {}
        for index in range(len(self._votes)):
            vote = self._vote(index)
            newest.pop(vote.at.generation, None)
            newest[vote.at.generation] = vote
        return newest

    def _vote(self, index: int) -> PersistVote:
        try:
            return log_files.decode_vote(self._votes.read(index))
        except msgspec.MsgspecError as error:
            raise CorruptFile(f"{self._votes.path} is damaged: {error}", self._remedy) from error

    def write_vote(self, vote: PersistVote) -> None:
        if len(self._votes) >= VOTES_KEPT_MAX:
            others = {g: v for g, v in self.votes().items() if g != vote.at.generation}
            self._votes.rewrite([msgspec.msgpack.encode(v) for v in (*others.values(), vote)])
        else:
            self._votes.append(msgspec.msgpack.encode(vote))

    def _check_votes(self) -> None:
        """Records are on disk before a vote on what follows them. A log that is too short has lost some, and
        this host would vote on them again. A mark is no vote: that of a branch comes before the branch itself."""
        if log_files.may_stand_behind_its_votes(self.path):
            return
        votes = {g: v for g, v in self.votes().items() if v.promised != NO_BALLOT}
        mine = self.entry(len(self._log) - 1).record.generation if len(self._log) else None
        vote = votes.get(mine) if mine else next(reversed(votes.values()), None)
        if vote is not None and vote.at.round > len(self._log):
            raise CorruptFile(
                f"{self._log.path} ends with record {len(self._log) - 1}, but this host has voted on record "
                f"{vote.at.round}: records are missing; it was left as it is",
                self._remedy,
            )

    # ---- snapshots

    def snapshot_path(self, round_: int) -> Path:
        """The state after this round; the first parameters are round 0's."""
        return snapshot_in(self.path, round_)

    def reached_snapshots(self) -> list[int]:
        """Those that the log reaches: others are of no use to anybody, though something wrote them."""
        return [round_ for round_ in self.snapshots() if round_ < max(1, len(self._log))]

    def snapshots(self) -> list[int]:
        return snapshots_in(self.path)

    def write_snapshot(self, state: State, round_: int, digest: bytes, spare_bytes: int) -> None:
        """Raises StorageError; with less than `spare_bytes` left besides, before anything is written."""
        write_snapshot(self._room_for(state, round_, spare_bytes), state, max(0, round_), digest)

    def begin_snapshot(self, state: State, round_: int, digest: bytes, spare_bytes: int) -> SnapshotWriter:
        """The same, for the caller to go on with. Raises StorageError."""
        return SnapshotWriter(self._room_for(state, round_, spare_bytes), state, max(0, round_), digest)

    def _room_for(self, state: State, round_: int, spare_bytes: int) -> Path:
        self.make_room(state.theta.numel(), spare_bytes)
        return self.snapshot_path(round_)

    def make_room(self, elements: int, spare_bytes: int) -> None:
        """For one state more. Raises StorageError."""
        wanted = snapshot_bytes(elements)
        try:
            check_room(self.path / "snapshots", wanted, spare_bytes)
        except StorageFull:
            if not self._gave_room(wanted + spare_bytes):
                raise

    def _gave_room(self, wanted_bytes: int) -> bool:
        """By the oldest states before the newest that the log proves, if that suffices. Without a newer one the updates
        since would be kept until the disk is full, and no round goes on without room for its own."""
        reached = self.reached_snapshots()
        size = self._snapshot_size(reached)
        kept = [*Retention(bytes_max=1).kept(reached, size, len(self._log)), self.asked.newest(reached)]
        older = [round_ for round_ in reached if round_ not in kept]
        lacking = max(0, wanted_bytes - free_bytes(self.path))
        if len(older) * size < lacking:
            return False
        for round_ in older[: -(-lacking // max(1, size))]:
            self._delete_state(round_)
        return True

    def take_snapshot(self, file: Path, round_: int) -> None:
        """A file that is a snapshot already, whole and durable, becomes this round's. Raises StorageError."""
        path = self.snapshot_path(round_)
        with storage_errors(path):
            os.replace(file, path)
            fsync_dir(path.parent)

    def leaves(self, round_: int) -> bytes:
        """The hashes of the leaves of a snapshot's state (SPEC K8), one behind the other; kept for the newest that was
        asked for, as joiners come together. Any thread. Raises CorruptFile or OSError."""
        path = self.snapshot_path(round_)
        key = round_, path.stat().st_mtime_ns
        with self._leaves_lock:
            if self._leaves is None or self._leaves[0] != key:
                theta, momentum = part_of(path, "theta"), part_of(path, "momentum")
                self._leaves = key, b"".join(state_leaves(theta, momentum, LEAVES_THREADS))
            return self._leaves[1]

    def forget_arrived(self, applied: int) -> None:
        """What came of a state that leads no further than the one that is here. Raises StorageError."""
        folder = self.path / INCOMING_NAME
        begun = Incoming.begun_in(folder)
        if applied >= -1 and folder.is_dir() and (begun is None or begun[0] <= max(0, applied)):
            with storage_errors(folder):
                for left in sorted(folder.iterdir()):
                    left.unlink()

    # ---- retention

    def prune(self) -> None:
        """Keep the newest snapshots that the log reaches, one that is being fetched from here, and every update since
        the oldest of them. Raises StorageError."""
        # Records are appended meanwhile, in another thread. Looked at again, the log might be longer than `needed` is,
        # and the update of its newest record, which nobody else may have, would pass for one that lost its round.
        length = len(self._log)
        reached = self.reached_snapshots()
        size = self._snapshot_size(reached)
        kept = self.retention.kept(reached, size, length)
        asked = self.asked.newest(reached)
        if asked is not None and asked not in kept and self._is_worth_it(asked, len(kept) + 1, size):
            kept.append(asked)
        for old in reached:
            if old not in kept:
                self._delete_state(old)
        first = min(kept, default=0) + 1
        needed = [root for i in range(min(first, length), length) for root in roots_of(self.entry(i))]
        self.updates.prune(needed, length)

    def _delete_state(self, round_: int) -> None:
        path = self.snapshot_path(round_)
        with storage_errors(path):
            path.unlink(missing_ok=True)

    def _is_worth_it(self, round_: int, count: int, size: int) -> bool:
        """While the operator's limit has room for it, and the updates after it are no more bytes than a newer state,
        which would lead on as soon."""
        if self.retention.bytes_max and count * size > self.retention.bytes_max:
            return False
        return sum(self.entry(r).record.update_bytes for r in range(round_ + 1, len(self._log))) <= size

    def _snapshot_size(self, rounds: list[int]) -> int:
        """Bytes of each: all are of the same vectors."""
        with storage_errors(self.path):
            try:
                return self.snapshot_path(rounds[-1]).stat().st_size if rounds else 0
            except FileNotFoundError:
                return 0

    def updates_from(self, applied: int) -> int:
        """The first round from which on all updates up to `applied` lie here: what a replay can count on."""
        first = applied + 1
        while 1 < first <= len(self._log):
            record = self.entry(first - 1).record
            grouped = record.schedule == GOSSIP  # then each group's own members have its update (SPEC E5)
            if record.update_root != NO_HASH and not grouped and not self.updates.holds(record.update_root):
                break
            first -= 1
        return max(1, first)
