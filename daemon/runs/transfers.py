"""Encoded updates on their way to this host's disk: by a collective that it takes part in, or from a donor.

Owns the memory that the bulk engine writes to, from the first byte until the update is durable under its root or
dropped. A name has at most one such memory: a second one would be the same file. Refuses to decide what to move.
"""

import mmap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.bulk.errors import BulkError
from intellectd.daemon.bulk.interface import (
    BulkEngine,
    BulkEvent,
    CollectiveJob,
    FetchJob,
    ProbeJob,
    TransferDone,
    TransferFailed,
    TransferProgress,
)
from intellectd.daemon.runs.compute import Compute, RunsWork
from intellectd.daemon.runs.inbox import Inbox
from intellectd.daemon.runs.journal import Journal
from intellectd.daemon.runs.outer_state import Frozen
from intellectd.daemon.runs.serving import update_name
from intellectd.daemon.store.run_store import RunStore
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name, update_codec
from intellectd.kernels.digest import update_root
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.ids import hash_of

FETCH_S_MIN = 600.0  # any object is given this long; the stall limit ends dead donors long before
FAILED_HERE_PAUSE_S = 1.0  # what fails without a packet sent is told late, or failing and retrying would spin
FETCH_BYTES_PER_S_MIN = 250_000  # a donor slower than 2 Mbit/s is no donor: the run is faster than the catch-up

# Of a link nothing is known of: at 500 Mbit/s and 100 ms TCP has found most of its pace by then, and a home's uplink
# of 10 Mbit/s is taken for 3 s, once in hours.
PROBE_BYTES_MAX = 4 * 1024 * 1024
PROBE_DEADLINE_S = 30.0  # half of the time until the next one (SPEC B14)

ABORTED = "it was aborted here before it had begun"

Post = Callable[[ev.Event], None]


def fetch_deadline_s(length: int) -> float:
    return FETCH_S_MIN + length / FETCH_BYTES_PER_S_MIN


@dataclass
class _Incoming:
    """From before its file is there until that is durable or gone: meanwhile it can be aborted, and asked for anew."""

    memory: mmap.mmap | None = None
    aborted: bool = False
    again: ef.StartTransfer | ef.FetchUpdate | None = None  # asked for anew while the abort was on its way
    donor: str = ""  # of an update that is fetched


class Transfers:
    def __init__(
        self,
        run: bytes,
        store: RunStore,
        elements: int,
        compute: Compute,
        bulk: BulkEngine,
        journal: Journal,
        inbox: Inbox,
        runner: RunsWork,
        stall_s: float,
        post: Post,
    ) -> None:
        self._run, self._store, self._elements, self._compute = run, store, elements, compute
        self._bulk, self._journal, self._inbox, self._runner = bulk, journal, inbox, runner
        self._stall_s, self._post = stall_s, post
        self.frozen: Frozen | None = None  # what this host contributes
        self._incoming: dict[bytes, _Incoming] = {}
        self.nursery: trio.Nursery | None = None

    # ---- the collective

    async def start_collective(self, effect: ef.StartTransfer) -> None:
        """Begins it, and waits for no disk: one that reserves no room takes minutes for the file."""
        name, incoming, frozen = effect.transfer, self._incoming.get(effect.transfer), self.frozen
        if incoming is not None:
            incoming.again = effect if incoming.aborted else incoming.again
            return
        if frozen is None:
            self._post(ev.TransferBroke(name, None, False, "this host has no delta to contribute"))
            return
        incoming = self._incoming[name] = _Incoming()
        self._spawn(self._run_collective, effect, incoming, frozen)

    async def _run_collective(self, effect: ef.StartTransfer, incoming: _Incoming, frozen: Frozen) -> None:
        """Raises StorageError: without a disk for the result this host cannot take part in any round."""
        name, size = effect.transfer, update_codec(codec_by_name(effect.codec)).encoded_bytes(self._elements)
        memory = incoming.memory = await self._runner(lambda: self._store.updates.new(name, size))
        if incoming.aborted:
            await self._drop(name, ev.TransferBroke(name, None, False, ABORTED))
            return
        job = CollectiveJob(
            transfer_id=name,
            members=effect.members,
            weights=tuple(float(w) for w in effect.weights),
            codec=effect.codec,
            elements=self._elements,
            own=frozen.encoded.numpy().data.toreadonly(),
            out=memoryview(memory),
            stall_s=effect.stall_s,
            deadline_s=effect.deadline_s,
            schedule=effect.schedule,
            shape=effect.shape,
        )
        try:
            self._bulk.start_collective(
                job, self._inbox.marshal(lambda event: self._collective_event(event, effect.codec))
            )
        except (ValueError, BulkError) as error:
            # A plan comes from a peer: whatever does not fit together in it is no fault of ours.
            self._failed_here(name, ev.TransferBroke(name, None, False, f"the transfer cannot be: {error}"[:200]))
            return
        self._journal.transfer_started(len(effect.members))

    def abort(self, transfer: bytes) -> None:
        incoming = self._incoming.get(transfer)
        if incoming is not None:
            incoming.aborted, incoming.again = True, None
            self._bulk.abort(transfer)

    def close(self) -> None:
        """The run ends here: the neighbours hear it at once instead of waiting for us."""
        for name in self._incoming:
            self._bulk.abort(name)

    def _collective_event(self, event: BulkEvent, codec: str) -> None:
        name = event.transfer_id
        match event:
            case TransferProgress():
                self._post(ev.TransferMoved(name, event.done_bytes, event.total_bytes))
            case TransferDone():
                self._measured(event)
                self._journal.transfer_ended(event, self._elements * 4)
                self._keep(name, codec, None)
            case TransferFailed():
                self._measured(event)
                incoming = self._incoming.get(name)
                self._journal.transfer_failed(event, aborted=incoming is not None and incoming.aborted)
                broke = ev.TransferBroke(name, event.suspect, event.silent, event.reason)
                self._spawn(self._drop, name, broke)

    # ---- what is known of links

    def _measured(self, event: TransferDone | TransferFailed) -> None:
        """Before the end itself: the next plan may follow from that at once."""
        for link in event.links:
            self._journal.link_measured(link)
            self._post(ev.LinkMeasured(link.peer, link.bytes_per_s, link.rtt_s))

    def probe(self, effect: ef.ProbeLink) -> None:
        """Nobody waits for it: what comes to nothing is for the debug log alone."""
        if self._incoming:
            return
        name = hash_of("probe", self._run, effect.peer.encode())
        job = ProbeJob(name, effect.peer, PROBE_BYTES_MAX, self._stall_s, PROBE_DEADLINE_S)
        try:
            self._bulk.start_probe(job, self._inbox.marshal(lambda event: self._probe_event(event, effect.peer)))
        except (ValueError, BulkError) as error:
            self._journal.probe_failed(effect.peer, str(error))

    def _probe_event(self, event: BulkEvent, peer: str) -> None:
        match event:
            case TransferDone():
                self._measured(event)
            case TransferFailed():
                self._journal.probe_failed(peer, event.reason)

    # ---- from a donor

    async def fetch(self, effect: ef.FetchUpdate) -> None:
        expected = update_codec(codec_by_name(self._journal.codec)).encoded_bytes(self._elements)
        name, incoming = effect.root, self._incoming.get(effect.root)
        if incoming is not None:
            # Its end answers this request too; but where it was late, another donor is asked instead (SPEC K13).
            if incoming.donor not in ("", effect.donor):
                incoming.aborted, incoming.again = True, effect
                self._bulk.abort(name)
            return
        incoming = self._incoming[name] = _Incoming(donor=effect.donor)
        if effect.update_bytes != expected:
            self._failed_here(name, ev.UpdateMissed(name, effect.donor, f"{effect.update_bytes} bytes, not {expected}"))
            return
        self._spawn(self._run_fetch, effect, incoming)

    async def _run_fetch(self, effect: ef.FetchUpdate, incoming: _Incoming) -> None:
        name, size = effect.root, effect.update_bytes
        try:
            memory = incoming.memory = await self._runner(lambda: self._store.updates.new(name, size))
        except StorageError as error:  # it may not be needed yet: several are fetched ahead
            self._failed_here(name, ev.UpdateMissed(name, effect.donor, f"there is no room for it here: {error}"))
            return
        if incoming.aborted:
            await self._drop(name, ev.UpdateMissed(name, effect.donor, ABORTED))
            return
        job = FetchJob(
            name,
            effect.donor,
            update_name(self._run, name),
            0,
            memoryview(memory),
            self._stall_s,
            fetch_deadline_s(size),
        )
        try:
            self._bulk.start_fetch(job, self._inbox.marshal(lambda event: self._fetch_event(event, effect)))
        except (ValueError, BulkError) as error:
            self._failed_here(name, ev.UpdateMissed(name, effect.donor, str(error)))

    def _fetch_event(self, event: BulkEvent, effect: ef.FetchUpdate) -> None:
        match event:
            case TransferProgress():
                self._journal.fetched(effect.root, event.done_bytes, event.total_bytes)
            case TransferDone():
                self._journal.fetched(effect.root, event.received_bytes, event.received_bytes)
                self._keep(effect.root, self._journal.codec, effect)
            case TransferFailed():
                self._spawn(self._drop, effect.root, ev.UpdateMissed(effect.root, effect.donor, event.reason))

    # ---- the end of either

    def _keep(self, name: bytes, codec: str, wanted: ef.FetchUpdate | None) -> None:
        """Hash what arrived, make it durable, and say so; wrong bytes are dropped."""
        memory, store = self._incoming[name].memory, self._store
        assert memory is not None, "a transfer that ends well has begun"

        def work() -> ev.Event:
            tensor = ops.as_bytes(memory)
            length, root = tensor.numel(), update_root(tensor, ops.usable_threads())
            good = ops.finite(update_codec(codec_by_name(codec)), tensor, ops.usable_threads()) and (
                wanted is None or root == wanted.root
            )
            if good:
                store.updates.keep(name, memory, root, store.length)
                return ev.TransferEnded(name, root, length) if wanted is None else ev.UpdateHeld(root)
            store.updates.drop(name)
            if wanted is None:
                return ev.TransferBroke(name, None, False, "the result is not finite")
            return ev.UpdateMissed(wanted.root, wanted.donor, "the bytes are not those of the record")

        def then(event: ev.Event) -> None:
            again = self._incoming.pop(name).again
            if isinstance(event, ev.UpdateMissed) and isinstance(again, ef.FetchUpdate):
                self._spawn(self.fetch, again)
            else:
                self._post(event)

        self._compute.submit(work, then)

    def _failed_here(self, name: bytes, event: ev.Event) -> None:
        async def report() -> None:
            await trio.sleep(FAILED_HERE_PAUSE_S)
            await self._drop(name, event)

        self._spawn(report)

    def _spawn(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(work, *arguments)

    async def _drop(self, name: bytes, event: ev.Event) -> None:
        """Off the loop: to delete a large file takes a moment."""
        await self._runner(lambda: self._store.updates.drop(name))
        incoming = self._incoming.pop(name, None)
        again = incoming.again if incoming is not None else None
        if again is None:
            self._post(event)
        elif isinstance(again, ef.StartTransfer):
            await self.start_collective(again)
        else:
            await self.fetch(again)
