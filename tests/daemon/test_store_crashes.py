"""A run's folder as a crash leaves it at any of its writes: what was said to be there is, and nothing is damaged.

SPEC C4, A4, N2. Every place in daemon/store that changes a disk is found in its source, and has to be met: a new one
that no story here leads to fails the last test. The folders are opened by the real stores.
"""

import ast
import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import torch

from intellectd.daemon import atomic
from intellectd.daemon.store import incoming as incoming_store
from intellectd.daemon.store import run_store, snapshot_writer, state_file
from intellectd.daemon.store.budget import SNAPSHOTS_KEPT
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.incoming import Incoming, state_borders
from intellectd.daemon.store.run_store import INCOMING_NAME, RunStore
from intellectd.daemon.store.snapshot import State, bytes_of, read_snapshot, snapshot_bytes
from intellectd.daemon.store.state_file import StateFile
from intellectd.daemon.store.updates import NotHeld
from intellectd.kernels import ops
from intellectd.kernels.digest import state_digest, update_root
from intellectd.protocol.effects import PersistVote
from intellectd.protocol.ids import At, Ballot
from intellectd.protocol.manifest import SignedManifest
from intellectd.protocol.records import Entry, record_hash
from tests.daemon.crash_images import BY_DESCRIPTOR, BY_NAME, Content, Watched, digest_of, tight_disk, watching
from tests.daemon.ram import ram_path
from tests.daemon.shell_made import copy_run

__all__ = ["ram_path"]

STORE = Path(run_store.__file__).parent
SOURCES = (*sorted(STORE.glob("*.py")), Path(atomic.__file__))
ELEMENTS = 64
LEAF_BYTES = 64  # of a state on its way here: eight pieces
Modes = tuple[tuple[bool, Content], ...]  # are all names there? and what of the bytes
QUICK_TIMES = 1  # of one way to a write
QUICK: Modes = ((False, "synced"), (True, "zeros"))
ALL: Modes = ((True, "now"), *QUICK, (True, "synced"), (False, "now"), (True, "half"), (True, "holes"))
Site = tuple[str, int]


@dataclass
class Told:
    """What has been said to be on the disk, and what may be there besides because it was being written."""

    logs: list[list[bytes]] = field(default_factory=lambda: [[]])  # record hashes, any of these
    votes: dict[bytes, int] = field(default_factory=dict)  # attempt of the newest, by generation
    updates: set[bytes] = field(default_factory=set)
    damaged: bytes = b""  # the root of an update that this test has damaged
    states: dict[int, bytes] = field(default_factory=dict)  # digests
    maybe: dict[int, bytes] = field(default_factory=dict)
    pieces: set[int] = field(default_factory=set)
    incarnation: int = 0
    leaving: bool = False


def state_of(round_: int) -> tuple[State, bytes]:
    theta = torch.arange(ELEMENTS, dtype=torch.float32) + 1 + round_
    return State(theta, -theta), state_digest(theta, -theta)


def update_of(number: int) -> bytes:
    return hashlib.sha512(bytes([number])).digest() * 20  # three sectors


class Story:
    """Stores are written to as a daemon does, and at every write the folder is copied and looked at."""

    store: RunStore

    def __init__(self, folder: Path, entries: list[Entry], signed: SignedManifest, modes: Modes) -> None:
        self.folder, self.images = folder / "run", folder / "images"
        self.entries, self.signed = entries, signed
        self.told, self.sites = Told(), set[Site]()
        self.met = Counter[frozenset[Site]]()
        self.modes, self.looked, self._seen = modes, 0, set[bytes]()
        self.folder.mkdir()
        self.watched = Watched(self.folder, self.before)

    # ---- at every write

    def before(self, operation: str, path: Path) -> None:
        sites = _sites()
        self.sites |= sites
        self.met[frozenset(sites)] += 1
        if self.modes == QUICK and self.met[frozenset(sites)] > QUICK_TIMES:
            return
        where = f"before {operation} of {path.relative_to(self.folder)}"
        for names_now, content in self.modes:
            self.look(f"{where}, names {'as they are' if names_now else 'synced'}, bytes {content}", names_now, content)

    def look(self, where: str, names_now: bool, content: Content) -> None:
        image = self.images / "image"
        self.images.mkdir(exist_ok=True)
        self.watched.between(image, names_now, content)
        try:
            known = digest_of(image, repr(self.told))
            if known in self._seen:
                return
            self._seen.add(known)
            self.looked += 1
            try:
                self.examine(image)
            except Exception as error:
                error.add_note(where)
                raise
        finally:
            shutil.rmtree(image)

    def examine(self, image: Path) -> None:
        told = self.told
        if not hasattr(self, "store") and not (image / "manifest").exists():
            with pytest.raises(CorruptFile, match="is missing"):
                RunStore(image)  # it has not got its name yet: nobody opens it
            return
        store = RunStore(image)
        try:
            log = [record_hash(entry.record) for entry in store.entries()]
            assert log in told.logs, f"a log of {len(log)} records that never was"
            attempts = {generation: vote.promised.attempt for generation, vote in store.votes().items()}
            assert all(attempts.get(generation, -1) >= least for generation, least in told.votes.items()), attempts
            held = set(store.updates.held()) - {told.damaged}
            assert told.updates <= held and all(len(store.updates.read_verified(root)) for root in held)
            found = {r: read_snapshot(store.snapshot_path(r), ELEMENTS, r).digest for r in store.reached_snapshots()}
            assert all(digest == {**told.maybe, **told.states}.get(r) for r, digest in found.items()), found
            lasting = {r for r in told.states if r < max(1, len(log)) and self._of_this_line(r, log)}
            assert lasting <= found.keys(), f"states {sorted(found)} of {sorted(lasting)}"
            assert store.next_incarnation(0) > told.incarnation
            assert store.is_leaving or not told.leaving
            self._examine_loss(store)
            assert not list(image.rglob(".*.tmp")) or list(image.rglob(".new.tmp")), "it was not tidied up"
        finally:
            store.close()
        self._examine_incoming(image)

    def _of_this_line(self, round_: int, log: list[bytes]) -> bool:
        return round_ == 0 or log[round_] == self.line[round_]

    def _examine_loss(self, store: RunStore) -> None:
        """Its own affair: it may be gone, or a part of it zero, and is never another's."""
        for root in store.residuals.held():
            memory = store.residuals.read(root, ELEMENTS)
            if memory is not None:
                values = ops.as_bytes(memory).view(torch.float32)
                assert bool(((values == 0) | (values == root[0])).all())

    def _examine_incoming(self, image: Path) -> None:
        if not (image / INCOMING_NAME).is_dir() or not self.told.pieces:
            return
        state, digest = state_of(8)
        data = bytes(bytes_of(state.theta)) + bytes(bytes_of(state.momentum))
        borders, again = state_borders(ELEMENTS), Incoming(image / INCOMING_NAME, ELEMENTS, 8, digest)
        assert self.told.pieces - {-1} <= set(again.proven)
        for piece in again.proven:
            assert again.data[borders[piece] : borders[piece + 1]] == data[borders[piece] : borders[piece + 1]]

    # ---- what a daemon does, in its order

    @property
    def line(self) -> list[bytes]:
        return self.told.logs[-1]

    def append(self, entry: Entry) -> None:
        now = self.line
        self.told.logs = [now, [*now, record_hash(entry.record)]]
        self.store.append(entry)
        self.told.logs = self.told.logs[1:]

    def vote(self, attempt: int, entry: Entry) -> None:
        record = entry.record
        at = At(record.generation, record.round, record.parent)
        self.store.write_vote(PersistVote(at, Ballot(attempt, "PA"), None, None))
        self.told.votes[at.generation] = attempt

    def keep(self, number: int) -> bytes:
        body = update_of(number)
        memory = self.store.updates.new(bytes([number]) * 32, len(body))
        memory[:] = body
        root = update_root(ops.as_bytes(memory))
        self.store.updates.keep(bytes([number]) * 32, memory, root, self.store.length)
        self.told.updates.add(root)
        return root

    def snapshot(self, round_: int) -> None:
        state, digest = state_of(round_)
        self.told.maybe[round_] = digest
        self.store.write_snapshot(state, round_, digest, 0)
        self.told.states[round_] = digest

    def take_first(self) -> None:
        """As an import does: the file first, then its name."""
        state, path = state_of(0)[0], self.folder / ".first.tmp"
        first = StateFile(path, ELEMENTS)
        first.add(bytes_of(state.theta))
        digest = first.finish()
        self.told.maybe[0] = digest
        self.store.take_snapshot(path, 0)
        self.told.states[0] = digest

    def prune(self, keeps: set[bytes]) -> None:
        self.told.updates &= keeps
        reached = self.store.reached_snapshots()
        for old in reached[:-SNAPSHOTS_KEPT]:
            self.told.states.pop(old, None)
        self.store.prune()

    def start(self) -> None:
        self.told.incarnation = self.store.next_incarnation(1000)

    def lose(self, number: int) -> None:
        memory = self.store.residuals.new(ELEMENTS)
        ops.as_bytes(memory).view(torch.float32).fill_(float(number))
        self.store.residuals.keep(bytes([number]) * 32, ())

    def fetch(self) -> None:
        """Half of a state, a restart, the rest of it."""
        state, digest = state_of(8)
        data = bytes(bytes_of(state.theta)) + bytes(bytes_of(state.momentum))
        borders, folder = state_borders(ELEMENTS), self.folder / INCOMING_NAME
        other = Incoming(folder, ELEMENTS, 4, state_of(4)[1])  # of another state, which this one displaces
        other.prove(0)
        other.sync()
        Incoming(folder, ELEMENTS, 7, state_of(7)[1]).drop()
        self.told.pieces = {-1}
        arriving = Incoming(folder, ELEMENTS, 8, digest)
        for piece in range(len(borders) - 1):
            if piece == 4:
                arriving.sync()
                self.told.pieces |= set(range(4))
                arriving = Incoming(folder, ELEMENTS, 8, digest)
            arriving.data[borders[piece] : borders[piece + 1]] = data[borders[piece] : borders[piece + 1]]
            arriving.prove(piece)
        self.told.pieces -= {2}
        arriving.doubt([2])
        arriving.prove(2)
        arriving.sync()
        self.told.maybe[8] = digest
        self.told.pieces = set()
        arriving.become(self.store.snapshot_path(8))
        self.told.states[8] = digest

    def leave_line(self, round_: int, mark: int) -> None:
        """From that round on, another history."""
        entry = self.store.entry(round_ + 1)
        other = msgspec.structs.replace(entry, record=msgspec.structs.replace(entry.record, update_bytes=mark))
        kept = self.line[: round_ + 1]
        old = self.line
        self.told.states = {r: d for r, d in self.told.states.items() if r <= max(0, round_)}
        self.told.logs = [old, [*kept, record_hash(other.record)]]
        self.store.rebase(round_, [other])
        self.told.logs = self.told.logs[1:]
        assert (self.folder / "left" / f"{round_ + 1:08d}-{old[-1].hex()[:16]}" / "records").is_file()

    def begin(self) -> None:
        entries = self.entries
        self.store = RunStore.create(self.folder, self.signed)
        self.start()
        for entry in entries[:5]:
            self.vote(entry.record.round + 1, entry)
            self.append(entry)
        self.store.updates.new(bytes(32), 100)
        self.store.updates.drop(bytes(32))
        for number in range(3):
            self.keep(number)
        self.take_first()
        for round_ in (2, 4):
            self.snapshot(round_)
        self.prune(set())

    def middle(self) -> None:
        entries = self.entries
        self.keep(7)
        root = self.keep(8)
        for entry in entries[5:9]:
            self.append(entry)
            self.vote(entry.record.round + 1, entry)  # the file is rewritten meanwhile
        self.store.updates.path_of(root).write_bytes(b"damaged")
        self.told.updates.discard(root)
        self.told.damaged = root
        with pytest.raises(NotHeld):
            self.store.updates.read_verified(root)
        self.lose(1)
        self.lose(2)
        self.store.residuals.new(ELEMENTS)
        self.store.residuals.drop_new()
        self.prune(set())
        self.told.states.pop(self.store.reached_snapshots()[0])
        with tight_disk(snapshot_bytes(ELEMENTS) - 1):
            self.snapshot(6)  # the oldest gives way to it

    def end(self) -> None:
        Incoming(self.folder / INCOMING_NAME, ELEMENTS, 4, state_of(4)[1]).sync()
        self.store.forget_arrived(8)
        self.fetch()
        self.append(self.entries[9])
        for number, round_ in enumerate((8, 7, 3, 2)):
            self.leave_line(round_, 1000 + number)
        self.store.mark_leaving()
        self.told.leaving = True
        self.start()
        self.again()

    def again(self) -> None:
        """After a crash that has left a bit of everything behind; and what is done then can be cut short, too."""
        self.store.close()
        with (self.folder / "log" / "records").open("ab") as log:
            log.write(b"half a frame")
        (part, *_more) = (self.folder / "left").iterdir()
        for folder in (self.folder, self.folder / "updates", self.folder / "snapshots", part):
            (folder / ".left.tmp").write_bytes(b"half")
        self.store = RunStore(self.folder)
        self.store.close()


def _sites() -> set[Site]:
    """Where in the stores' sources this write comes from: the write itself and whoever asked for it there."""
    found, frame = set[Site](), sys._getframe()
    names = {str(source) for source in SOURCES}
    while frame is not None:
        if frame.f_code.co_filename in names:
            found.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return found


SYSTEM = (*BY_DESCRIPTOR, *BY_NAME)
HELPERS = ("fsync_dir", "write_atomic", "write_new", "make_dir")


def _writes() -> set[Site]:
    """Every call in the stores' sources that changes a disk, or makes a change durable; but for tidying up after a
    failure, which leaves what a crash there would leave."""
    found = set[Site]()
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        failing = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        excused = {id(node) for handler in failing for node in ast.walk(handler)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and id(node) not in excused and _changes_disk(node):
                found.add((source.name, node.lineno))
    return found


def _changes_disk(call: ast.Call) -> bool:
    name, words = ast.unparse(call.func), ast.unparse(call)
    assert not name.endswith((".write_bytes", ".write_text", ".touch")) and not name.startswith("shutil."), (
        f"{words}: nothing here looks at the disk before that"
    )
    if name in ("open", "os.open") or name.endswith(".open"):
        return "O_CREAT" in words
    return (
        name in HELPERS
        or (name.startswith("os.") and name[3:] in SYSTEM)
        or name.endswith((".unlink", ".mkdir"))
        or name.endswith("memory.flush")
    )


@contextmanager
def told(ram_path: Path, monkeypatch: pytest.MonkeyPatch, modes: Modes) -> Iterator[Story]:
    monkeypatch.setattr(incoming_store, "LEAF_BYTES", LEAF_BYTES)
    monkeypatch.setattr(snapshot_writer, "SYNC_BYTES", ELEMENTS * 4)
    monkeypatch.setattr(state_file, "SYNC_BYTES", ELEMENTS * 4)
    monkeypatch.setattr(run_store, "VOTES_KEPT_MAX", 7)
    monkeypatch.setattr(run_store, "STATES_LEFT_MAX", 1)
    copy_run(ram_path / "made")
    (made,) = (ram_path / "made" / "runs").iterdir()
    model = RunStore(made)
    story = Story(ram_path, model.entries(), model.manifest(), modes)
    model.close()
    with watching(story.watched, monkeypatch):
        yield story
    story.store.close()


@pytest.mark.parametrize("modes", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_whatever_a_crash_leaves_opens_with_all_that_was_said_to_be_there(
    modes: Modes, ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with told(ram_path, monkeypatch, modes) as story:
        story.begin()
        story.middle()
        story.end()
    assert story.looked > 100
    assert not sorted(_writes() - story.sites), "nobody has looked at what a crash there leaves"
