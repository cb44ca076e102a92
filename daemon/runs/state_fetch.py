"""A whole state from its donors: piece by piece from all of them at once, each checked against the digest's leaves.

Owns the fetching and the checking, and what of it outlives a restart. Refuses to choose round and donors: the catch-up
machine does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import trio

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.bulk.errors import BulkError
from intellectd.daemon.bulk.interface import (
    BulkEngine,
    BulkEvent,
    DonorLost,
    FetchJob,
    OnBulkEvent,
    PiecesJob,
    TransferDone,
    TransferFailed,
    TransferProgress,
)
from intellectd.daemon.errors import OperatorError
from intellectd.daemon.runs.compute import Compute
from intellectd.daemon.runs.inbox import Inbox
from intellectd.daemon.runs.journal import Journal
from intellectd.daemon.runs.outer_state import OuterState
from intellectd.daemon.runs.serving import snapshot_name
from intellectd.daemon.runs.snapshots import Snapshots
from intellectd.daemon.runs.transfers import FAILED_HERE_PAUSE_S, Post, fetch_deadline_s
from intellectd.daemon.store.incoming import Incoming, InMemory, state_borders
from intellectd.kernels import ops
from intellectd.kernels.digest import HASH_BYTES, leaf_hash, leaf_hashes, state_digest, state_root
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.ids import hash_of

# Whole passes over a state whose disk gives back other bytes than it was given: then it is the disk.
CHECKS_MAX = 3
# A donor that has to hash 10 GB for them first takes so long on two cores; then it may be one that never answers.
LEAVES_PATIENCE_S = 5.0


class FetchError(Exception):
    """The state, or its leaves, did not arrive."""


@dataclass
class _Ended:
    event: trio.Event = field(default_factory=trio.Event)
    failure: str = ""


class StateFetch:
    def __init__(
        self,
        me: str,
        run: bytes,
        state: OuterState,
        compute: Compute,
        bulk: BulkEngine,
        journal: Journal,
        inbox: Inbox,
        snapshots: Snapshots,
        stall_s: float,
        post: Post,
    ) -> None:
        self._me, self._run, self._state, self._compute, self._bulk = me, run, state, compute, bulk
        self._journal, self._inbox, self._snapshots = journal, inbox, snapshots
        self._stall_s, self._post = stall_s, post
        self._round: int | None = None  # that is being fetched, or was last
        self._offered: tuple[str, ...] = ()  # donors that came since that began
        self._fellows: tuple[str, ...] = ()  # likewise, who may be fetching it, too
        self._kept_bytes = 0  # of that state, from tries that failed
        self._troubles: dict[str, None] = {}  # what worker threads have to tell, each once a fetch

    def offer(self, effect: ef.OfferDonors) -> None:
        if effect.round == self._round:
            self._offered += effect.donors
            self._fellows += effect.fellows
            self._bulk.offer(self._pieces_id(effect.round), effect.donors, effect.fellows)

    def _pieces_id(self, round_: int) -> bytes:
        return hash_of("pieces", snapshot_name(self._run, round_, "state").encode())

    async def fetch(self, effect: ef.FetchSnapshot) -> None:
        if effect.donor == self._me:
            self._load(effect)
            return
        self._kept_bytes = self._kept_bytes if effect.round == self._round else 0
        self._round, self._offered, self._fellows = effect.round, (), ()
        try:
            incoming, came_bytes = await self._fetch(effect)
        except (FetchError, StorageError) as error:
            self._post(ev.SnapshotMissed(effect.round, effect.donor, str(error), self._kept_bytes))
            return
        self._install(effect, incoming, came_bytes)

    async def _fetch(self, effect: ef.FetchSnapshot) -> tuple[Incoming | InMemory, int]:
        """(all of it, how much of that was fetched now). Raises FetchError, StorageError."""
        hashes = await self._leaves(effect)
        incoming = await self._compute.aside(lambda: self._open(effect, hashes))
        before = self._proven_bytes(incoming)
        self._snapshots.serve(effect.round, incoming)
        try:
            await self._all(effect, incoming, hashes)
        finally:
            with trio.CancelScope(shield=True):  # for the next life, if this one ends here
                await self._compute.aside(lambda: self._sync(incoming))
                self._tell_troubles()
            self._kept_bytes = self._proven_bytes(incoming)
        return incoming, incoming.data.nbytes - before

    def _proven_bytes(self, incoming: Incoming | InMemory) -> int:
        """What a next try need not fetch."""
        borders = state_borders(self._state.layout.elements)
        return sum(borders[piece + 1] - borders[piece] for piece in incoming.proven)

    def _tell_troubles(self) -> None:
        for trouble in self._troubles:
            self._journal.warn(trouble)
        self._troubles.clear()

    def _load(self, effect: ef.FetchSnapshot) -> None:
        """From this host's own disk, where another state was dropped."""

        def work() -> ev.Event:
            try:
                own = self._snapshots.read(effect.round)
            except OperatorError as error:
                return ev.SnapshotMissed(effect.round, effect.donor, str(error))
            if state_digest(own.theta, own.momentum) != effect.digest:
                return ev.SnapshotMissed(effect.round, effect.donor, "it is not the one that the log proves")
            self._state.install(own.theta, own.momentum)
            return ev.SnapshotInstalled(effect.round, effect.digest)

        self._compute.submit(work, self._post)

    def _install(self, effect: ef.FetchSnapshot, incoming: Incoming | InMemory, came_bytes: int) -> None:
        def work() -> tuple[ev.Event, str | None, ev.Event]:
            data = ops.as_bytes(incoming.data).view(torch.float32)
            theta, momentum = (half.clone() for half in data.chunk(2))
            self._state.install(theta, momentum)
            problem = None
            try:
                if self._snapshots.proven(effect.round, effect.digest):  # another line may have been taken meanwhile
                    incoming.become(self._snapshots.path(effect.round))
                else:
                    incoming.drop()
            except StorageError as error:  # it is in memory: a restart would fetch it again
                problem = str(error)
            self._snapshots.serve(effect.round, None)  # from now on it is given as any snapshot
            held = self._snapshots.held(effect.round)
            return ev.SnapshotInstalled(effect.round, effect.digest, came_bytes), problem, held

        def then(outcome: tuple[ev.Event, str | None, ev.Event]) -> None:
            event, problem, held = outcome
            self._post(event)
            self._journal.snapshot(max(0, effect.round), problem)
            self._post(held)

        self._compute.submit(work, then)

    # ---- the leaves, from one donor after the other

    async def _leaves(self, effect: ef.FetchSnapshot) -> tuple[bytes, ...]:
        """Those whose root is the digest. One that takes long is not waited for: the next is asked beside it. Raises
        FetchError."""
        found, why = list[tuple[bytes, ...]](), list[str]()

        async def ask(donor: str, over: trio.Event) -> None:
            try:
                found.append(await self._leaves_of(effect, donor))
                nursery.cancel_scope.cancel()
            except FetchError as error:
                why.append(str(error))
            over.set()

        async with trio.open_nursery() as nursery:
            for donor in (effect.donor, *effect.others):
                over = trio.Event()
                nursery.start_soon(ask, donor, over)
                with trio.move_on_after(LEAVES_PATIENCE_S):
                    await over.wait()
        if not found:
            raise FetchError("; ".join(why))
        return found[0]

    async def _leaves_of(self, effect: ef.FetchSnapshot, donor: str) -> tuple[bytes, ...]:
        count = len(state_borders(self._state.layout.elements)) - 1
        raw = bytearray(count * HASH_BYTES)
        await self._fetch_whole(effect, donor, "leaves", raw)
        hashes = tuple(bytes(raw[at : at + HASH_BYTES]) for at in range(0, len(raw), HASH_BYTES))
        if state_root(hashes) != effect.digest:
            raise FetchError(f"{donor}: the state is not the one that the log proves")
        return hashes

    async def _fetch_whole(self, effect: ef.FetchSnapshot, donor: str, part: str, into: bytearray) -> None:
        name = snapshot_name(self._run, effect.round, part)
        fetch_id = hash_of("fetch", name.encode(), donor.encode())
        deadline_s = fetch_deadline_s(len(into))
        job = FetchJob(fetch_id, donor, name, 0, memoryview(into), self._stall_s, deadline_s)
        await self._run_job(
            effect, fetch_id, fetch_id, len(into), lambda on_event: self._bulk.start_fetch(job, on_event)
        )

    # ---- the pieces, from all

    def _open(self, effect: ef.FetchSnapshot, hashes: tuple[bytes, ...]) -> Incoming | InMemory:
        elements = self._state.layout.elements
        try:
            incoming: Incoming | InMemory = self._snapshots.incoming(effect.round, effect.digest)
        except StorageError as error:
            self._troubles[f"{error}; the state is fetched into memory alone"] = None
            incoming = InMemory(elements)
        if effect.round < 0:  # momentum is zero, as the file is where nothing was written
            borders = state_borders(elements)
            for piece in range(len(hashes) // 2, len(hashes)):
                if leaf_hash(bytes(borders[piece + 1] - borders[piece])) == hashes[piece]:
                    incoming.prove(piece)
        return incoming

    async def _all(self, effect: ef.FetchSnapshot, incoming: Incoming | InMemory, hashes: tuple[bytes, ...]) -> None:
        for _check in range(CHECKS_MAX):
            await self._pieces(effect, incoming, hashes)
            if await self._compute.aside(lambda: self._still_right(incoming, hashes)):
                return
        raise FetchError("the disk gives back other bytes than it was given; look at its health")

    async def _pieces(self, effect: ef.FetchSnapshot, incoming: Incoming | InMemory, hashes: tuple[bytes, ...]) -> None:
        borders, have = state_borders(self._state.layout.elements), incoming.proven
        name = snapshot_name(self._run, effect.round, "state")
        job = PiecesJob(
            fetch_id=self._pieces_id(effect.round),
            donors=(effect.donor, *effect.others, *self._offered),
            object_name=name,
            into=incoming.data,
            borders=borders,
            hashes=hashes,
            have=have,
            on_piece=lambda piece: self._keep(incoming, piece),
            stall_s=self._stall_s,
            deadline_s=fetch_deadline_s(borders[-1]),
            fellows=(*effect.fellows, *self._fellows),
            held_name=snapshot_name(self._run, effect.round, "held"),
            start=int.from_bytes(hash_of("start", self._me.encode())[:8], "big") % len(hashes),
            floats=True,
        )
        self._journal.kept(effect.digest, sum(borders[piece + 1] - borders[piece] for piece in have), borders[-1])
        await self._run_job(
            effect, job.fetch_id, effect.digest, borders[-1], lambda on_event: self._bulk.start_pieces(job, on_event)
        )

    def _keep(self, incoming: Incoming | InMemory, piece: int) -> None:
        """In a worker thread."""
        try:
            incoming.prove(piece)
        except StorageError as error:
            self._troubles[f"what was fetched is not kept for a restart: {error}"] = None

    def _sync(self, incoming: Incoming | InMemory) -> None:
        try:
            incoming.sync()
        except StorageError as error:
            self._troubles[f"what was fetched is not kept for a restart: {error}"] = None

    def _still_right(self, incoming: Incoming | InMemory, hashes: tuple[bytes, ...]) -> bool:
        """Once more, whole: what was proven may have lain on a disk over a restart."""
        half = incoming.data.nbytes // 2
        found = [h for part in (0, half) for h in leaf_hashes(incoming.data[part : part + half], ops.usable_threads())]
        wrong = [piece for piece, expected in enumerate(hashes) if found[piece] != expected]
        if wrong:
            incoming.doubt(wrong)
        return not wrong

    # ---- either

    async def _run_job(
        self,
        effect: ef.FetchSnapshot,
        fetch_id: bytes,
        part: bytes,
        total_bytes: int,
        start: Callable[[OnBulkEvent], None],
    ) -> None:
        """`part`: how the plan names it (Catchup.left). Raises FetchError. Cancelled, it is the engine that keeps the
        memory alive for the moment it needs it."""
        ended = _Ended()

        def on_event(event: BulkEvent) -> None:
            match event:
                case TransferProgress():
                    self._journal.fetched(part, event.done_bytes, event.total_bytes)
                case DonorLost():
                    self._post(ev.DonorFault(effect.round, event.peer, event.reason))
                case TransferDone():
                    self._journal.fetched(part, total_bytes, total_bytes)  # what is over soon has told no progress
                    ended.event.set()
                case TransferFailed():
                    ended.failure = event.reason
                    ended.event.set()

        try:
            start(self._inbox.marshal(on_event))
        except (ValueError, BulkError) as error:
            await trio.sleep(FAILED_HERE_PAUSE_S)
            raise FetchError(str(error)) from error
        try:
            await ended.event.wait()
        finally:
            if not ended.event.is_set():
                self._bulk.abort(fetch_id)
        if ended.failure:
            raise FetchError(ended.failure)
