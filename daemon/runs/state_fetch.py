"""A whole state from a donor: both vectors at once, believed when their digest is the one that the log proves.

Owns the fetching and the checking. Refuses to choose round and donor: the catch-up machine does.
"""

import torch
import trio

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.bulk.errors import BulkError
from intellectd.daemon.bulk.interface import (
    BulkEngine,
    BulkEvent,
    FetchJob,
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
from intellectd.daemon.store.snapshot import bytes_of
from intellectd.kernels.digest import state_digest
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.ids import hash_of


class FetchError(Exception):
    """A part of a snapshot did not arrive."""


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

    async def fetch(self, effect: ef.FetchSnapshot) -> None:
        if effect.donor == self._me:
            self._load(effect)
            return
        elements = self._state.layout.elements
        theta, momentum = torch.empty(elements), torch.zeros(elements)
        parts = {"theta": theta} if effect.round < 0 else {"theta": theta, "momentum": momentum}
        failures: list[str] = []

        async def one(part: str, scope: trio.CancelScope) -> None:
            try:
                await self._fetch_part(effect, part, parts[part])
            except FetchError as error:
                failures.append(f"{part}: {error}")
                scope.cancel()

        # Both at once: the donor may prune its snapshot while it is read, but keeps what is open.
        async with trio.open_nursery() as nursery:
            for part in parts:
                nursery.start_soon(one, part, nursery.cancel_scope)
        if failures:
            self._post(ev.SnapshotMissed(effect.round, effect.donor, failures[0]))
            return
        self._install(effect, theta, momentum)

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

    def _install(self, effect: ef.FetchSnapshot, theta: torch.Tensor, momentum: torch.Tensor) -> None:
        def work() -> tuple[ev.Event, str | None, ev.Event | None]:
            digest = state_digest(theta, momentum)
            if digest != effect.digest:
                missed = ev.SnapshotMissed(effect.round, effect.donor, "the state is not the one that the log proves")
                return missed, None, None
            self._state.install(theta, momentum)
            try:
                if self._snapshots.proven(effect.round, digest):  # another line may have been taken meanwhile
                    self._snapshots.write(effect.round, digest)
                problem = None
            except StorageError as error:  # it is in memory: a restart would fetch it again
                problem = str(error)
            return ev.SnapshotInstalled(effect.round, digest), problem, self._snapshots.held(effect.round)

        def then(outcome: tuple[ev.Event, str | None, ev.Event | None]) -> None:
            event, problem, held = outcome
            self._post(event)
            if held is not None:
                self._journal.snapshot(max(0, effect.round), problem)
                self._post(held)

        self._compute.submit(work, then)

    async def _fetch_part(self, effect: ef.FetchSnapshot, part: str, into: torch.Tensor) -> None:
        """Raises FetchError. Cancelled, it is the engine that keeps `into` alive for the moment it still needs it."""
        name = snapshot_name(self._run, effect.round, part)
        fetch_id = hash_of("fetch", name.encode(), effect.donor.encode())
        ended = trio.Event()
        failed: list[str] = []

        def on_event(event: BulkEvent) -> None:
            match event:
                case TransferProgress():
                    self._journal.fetched(fetch_id, event.done_bytes, event.total_bytes)
                case TransferDone():
                    self._journal.fetched(fetch_id, event.received_bytes, event.received_bytes)
                    ended.set()
                case TransferFailed():
                    failed.append(event.reason)
                    ended.set()

        view = bytes_of(into)
        deadline_s = fetch_deadline_s(len(view))
        try:
            job = FetchJob(fetch_id, effect.donor, name, 0, view, self._stall_s, deadline_s)
            self._bulk.start_fetch(job, self._inbox.marshal(on_event))
        except (ValueError, BulkError) as error:
            await trio.sleep(FAILED_HERE_PAUSE_S)
            raise FetchError(str(error)) from error
        try:
            await ended.wait()
        finally:
            if not ended.is_set():
                self._bulk.abort(fetch_id)
        if failed:
            raise FetchError(failed[0])
