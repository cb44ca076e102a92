"""When a snapshot is written here and what this host can serve.

Owns the rhythm of snapshots, and that training goes on while one is written. A disk that is full stops snapshots,
loudly, never training: what the log and the next updates need is left to them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import trio

from intellectd.daemon.atomic import StorageError, make_dir
from intellectd.daemon.logs import get_log
from intellectd.daemon.runs.compute import Compute, Stopped
from intellectd.daemon.runs.journal import Journal
from intellectd.daemon.runs.outer_state import OuterState
from intellectd.daemon.store.arriving import Arriving
from intellectd.daemon.store.budget import FEEDBACK_BYTES, SNAPSHOT_ROUNDS, snapshot_rounds
from intellectd.daemon.store.incoming import Incoming, InMemory, state_borders
from intellectd.daemon.store.run_store import INCOMING_NAME, RunStore
from intellectd.daemon.store.snapshot import State, read_snapshot
from intellectd.daemon.store.snapshot_writer import SnapshotWriter
from intellectd.kernels.codec import codec_by_name, update_codec
from intellectd.protocol import events as ev

OFFERED_MAX = 8  # in a beacon; there are two, and more only where something went wrong
# What is left free for the rounds until the next snapshot: their updates, and the records and votes.
LOG_SPARE_BYTES = 1024 * 1024

log = get_log("run")


class Snapshots:
    def __init__(
        self, store: RunStore, state: OuterState, compute: Compute, journal: Journal, feedback: bool = False
    ) -> None:
        self._store, self._state, self._compute, self._journal = store, state, compute, journal
        update_bytes = update_codec(codec_by_name(journal.codec)).encoded_bytes(state.layout.elements)
        lost_bytes = FEEDBACK_BYTES * state.layout.elements if feedback else 0
        self._every = snapshot_rounds(journal.codec)
        self.applied = 0  # the round that the state is after
        self._writing, self._writer = False, cast(SnapshotWriter | None, None)
        self._begun = (0, 0)  # the one that is being written: its round, and how long the log was when it began
        self._spare_bytes = SNAPSHOT_ROUNDS * update_bytes + lost_bytes + LOG_SPARE_BYTES

    def is_due(self, round_: int, closes: bool = False) -> bool:
        """When the state after this round has come about. `closes`: it made anchors equal that were apart, and who
        starts again begins from here (SPEC E7)."""
        return round_ > 0 and (closes or not round_ % self._every)

    def start(
        self,
        round_: int,
        digest: bytes,
        nursery: trio.Nursery,
        post: Callable[[ev.Event], None],
        wanted: Callable[[], bool],
    ) -> None:
        """From the trio thread, before anything else is asked of the compute queue. The state may change as soon as it
        has begun: see SnapshotWriter. `wanted`: whether its line of history is still this host's."""
        if self._writing:
            begun_round, begun_length = self._begun
            if self._store.length - begun_length >= round_ - begun_round:
                self._journal.snapshot(round_, "the one before is still being written; is the disk too slow?")
            else:  # a replay, which goes over many rounds in the time of one
                log.debug("no snapshot while the one before is written", run=self._journal.run_name, round=round_)
            return
        self._writing, self._begun = True, (round_, self._store.length)

        def begin() -> SnapshotWriter | StorageError:
            assert self._state.theta is not None and self._state.momentum is not None
            state = State(self._state.theta, self._state.momentum)
            try:
                writer = self._store.begin_snapshot(state, round_, digest, self._spare_bytes)
            except StorageError as error:
                return error
            self._state.before_change = writer.copy_out
            return writer

        def then(outcome: SnapshotWriter | StorageError) -> None:
            nursery.start_soon(self._finish, outcome, round_, post, wanted)

        self._compute.submit(begin, then)

    async def _finish(
        self,
        begun: SnapshotWriter | StorageError,
        round_: int,
        post: Callable[[ev.Event], None],
        wanted: Callable[[], bool],
    ) -> None:
        problem = str(begun) if isinstance(begun, StorageError) else None
        whole = False
        try:
            if isinstance(begun, SnapshotWriter):
                self._writer = begun
                try:
                    whole = await self._compute.aside(begun.write)
                except StorageError as error:
                    problem = str(error)
            if not wanted():
                return
            if whole or problem is not None:
                problem, held = await self._compute.do(lambda: self._publish(begun, problem, wanted))
                self._journal.snapshot(round_, problem)
                post(held)
        except Stopped:
            pass  # the run ends here
        finally:
            self._state.before_change = lambda: None
            if isinstance(begun, SnapshotWriter):
                with trio.CancelScope(shield=True):  # a chunk that a step still writes is waited for, and the disk
                    await self._discard(begun)
            self._writer, self._writing = None, False

    async def _discard(self, writer: SnapshotWriter) -> None:
        """A disk that refuses keeps a file that the next start deletes: no reason to end what else this host does."""
        try:
            await self._compute.aside(writer.discard)
        except StorageError as error:
            self._journal.warn(f"what was written of a snapshot is not deleted: {error}")

    def _publish(
        self, begun: SnapshotWriter | StorageError, problem: str | None, wanted: Callable[[], bool]
    ) -> tuple[str | None, ev.SnapshotsHeld]:
        """In its turn among what rewrites the log: none of an old line comes to lie beside a new one."""
        if isinstance(begun, SnapshotWriter) and problem is None and wanted():
            try:
                begun.publish()
            except StorageError as error:
                problem = str(error)
        self._store.prune()
        return problem, self.held(self.applied)

    def close(self) -> None:
        """What is being written is not waited for."""
        if self._writer is not None:
            self._writer.give_up()

    def read(self, round_: int) -> State:
        """Raises OperatorError."""
        path = self._store.snapshot_path(round_)
        return read_snapshot(path, self._state.layout.elements, max(0, round_)).state

    def path(self, round_: int) -> Path:
        return self._store.snapshot_path(round_)

    def incoming(self, round_: int, digest: bytes) -> Incoming:
        """Raises StorageError, before anything is received if there is no room."""
        elements = self._state.layout.elements
        folder = self._store.path / INCOMING_NAME
        make_dir(folder, 0o700)
        if not Incoming.lies_in(folder, round_, digest):
            self._store.arriving = None  # it holds the room of what came of another state
            Incoming.drop_others(folder, round_, digest)
            self._store.make_room(elements, self._spare_bytes)
        return Incoming(folder, elements, round_, digest)

    def serve(self, round_: int, incoming: Incoming | InMemory | None) -> None:
        """What comes of it, to others that fetch it, too; None: no more. What lies in memory alone is given to nobody:
        it may be gone before it is whole."""
        if isinstance(incoming, Incoming):
            borders = state_borders(self._state.layout.elements)
            self._store.arriving = Arriving(max(0, round_), incoming, borders)
        else:
            self._store.arriving = None

    def proven(self, round_: int, digest: bytes) -> bool:
        """Does the log, as it is now, say that this is the state after that round?"""
        if round_ < 0:
            return digest == self._store.manifest().manifest.state_digest
        return round_ + 1 < self._store.length and self._store.entry(round_ + 1).record.state_digest == digest

    def held_at_start(self, applied: int) -> ev.SnapshotsHeld:
        """And what came of a state before this daemon was started."""
        return replace(self.held(applied), begun=Incoming.begun_in(self._store.path / INCOMING_NAME))

    def held(self, applied: int) -> ev.SnapshotsHeld:
        return ev.SnapshotsHeld(
            tuple(self._store.reached_snapshots()[-OFFERED_MAX:]), self._store.updates_from(applied)
        )
