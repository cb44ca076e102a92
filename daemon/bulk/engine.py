"""The bulk engine: what daemon.bulk.interface promises, put together from the parts beside this file.

Owns the threads, the listening address and the table of running transfers. Refuses to know what any of it is for.
"""

import threading
from collections.abc import Callable, Iterable

from intellectd.daemon.bulk.certificate import Identity
from intellectd.daemon.bulk.channels import Channels
from intellectd.daemon.bulk.collective import Collective
from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.collective_plan import plan_of
from intellectd.daemon.bulk.collectives import Collectives
from intellectd.daemon.bulk.contacts import Contacts, links_of
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.dial import Dialler
from intellectd.daemon.bulk.errors import BulkBusy, BulkClosed, BulkError, Failure
from intellectd.daemon.bulk.fetch import Fetch
from intellectd.daemon.bulk.frames import Header
from intellectd.daemon.bulk.interface import (
    CollectiveJob,
    Endpoint,
    FetchJob,
    ObjectProvider,
    OnBulkEvent,
    PeerLink,
    PiecesJob,
    ProbeJob,
    TransferId,
)
from intellectd.daemon.bulk.limits import CLOSE_S, GOODBYE_S, SERVE_STALL_S, TRANSFERS_MAX
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.listener import Listener
from intellectd.daemon.bulk.meeting import relays_of
from intellectd.daemon.bulk.pace import UNLIMITED, Pace
from intellectd.daemon.bulk.piece_fetch import PieceFetch
from intellectd.daemon.bulk.probe import Probe
from intellectd.daemon.bulk.relay import Relay
from intellectd.daemon.bulk.serve import CollectiveWatch, Server
from intellectd.daemon.bulk.sockets import address_of, split_address
from intellectd.daemon.bulk.sockets import listen as listen_on
from intellectd.daemon.bulk.transfer import Transfer
from intellectd.daemon.bulk.trust import TrustTable
from intellectd.daemon.bulk.wire import TRANSFER_ID_BYTES, ChannelRequest, GetRequest, RelayRequest, Request


class Engine:
    """Listens from construction to `close`. Raises BulkAddressInUse when another process holds the address."""

    def __init__(
        self,
        peer_id: str,
        listen: str,
        announce: str | None = "",
        *,
        serve_stall_s: float = SERVE_STALL_S,
        pace: Pace = UNLIMITED,
        sealed: bool = True,
        near: bool = False,
    ) -> None:
        """`announce`: "" for the address that `listen` comes to, None for a host that nobody can dial.
        `sealed=False`: collectives go unencrypted, which is for benchmarks alone; both ends must ask for it.
        `near`: chunks for other processes of this host go by memory that both map."""
        if announce:
            split_address(announce)
        self._peer_id = peer_id
        self._identity = Identity(peer_id)
        self._trust = TrustTable(self._identity)
        try:
            listening = listen_on(listen)
        except (BulkError, ValueError):
            self._identity.close()
            raise
        self._announce, self._bound = announce, listening.getsockname()[:2]
        self._endpoint = Endpoint(self._address(), self._identity.certificate)
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._transfers: dict[TransferId, tuple[Transfer, Callable[[Failure], None]]] = {}
        self._pieces: dict[TransferId, PieceFetch] = {}
        self._closed = False
        self._crew = Crew()
        self._contacts = Contacts()
        self._dialler = Dialler(self._trust, pace, self._contacts)
        self._collectives = Collectives()
        self._channels = Channels(
            peer_id,
            self._trust,
            self._crew,
            self._collectives,
            sealed=sealed,
            pace=pace,
            contacts=self._contacts,
            near=near,
        )
        self._collectives.channels = self._channels
        self._watch = CollectiveWatch()
        self._server = Server(self._watch, serve_stall_s, pace.serve_bytes_per_s)
        self._relay = Relay(self._crew, lambda peer: self._trust.endpoint(peer) is not None, pace)
        self._listener = Listener(listening, self._trust, self._crew, self._dispatch, pace)
        self._channels.meetings.hear = self._listener.hear
        self._crew.start("bulk-listen", self._listener.run)

    @property
    def endpoint(self) -> Endpoint:
        """Where this host is now: one that listens on all interfaces may have moved."""
        if self._endpoint.address != (address := self._address()):
            self._endpoint = Endpoint(address, self._endpoint.certificate)
        return self._endpoint

    def _address(self) -> str:
        return "" if self._announce is None else self._announce or address_of(*self._bound)

    def trust(self, peers: dict[str, Endpoint]) -> None:
        """Replace the table. A peer with an unusable certificate is left out, and said so when it is dialled."""
        self._trust.replace(peers)
        self._channels.recheck()

    def serve(self, provider: ObjectProvider) -> None:
        self._server.provide(provider)

    def start_collective(self, job: CollectiveJob, on_event: OnBulkEvent) -> None:
        plan = plan_of(job, self._peer_id)
        transfer = Transfer(job.transfer_id, job.stall_s, job.deadline_s, on_event)
        self._channels.meetings.learn(relays_of(plan.members, plan.me, plan.neighbours, self._ends(plan.members)))
        buffers, epoch = Buffers(plan, job.own, job.out), self._collectives.new_epoch()
        collective = Collective(plan, buffers, transfer, self._channels, self, epoch)
        self._register(transfer, collective.fail)
        try:
            self._collectives.enter(collective)
            self._watch.began()
            self._crew.start(f"bulk-{plan.schedule}-{transfer.transfer_id.hex()[:8]}", collective.run)
        except BaseException:
            self.leave(collective)
            raise

    def relayed(self) -> tuple[int, int]:
        """(Pairs of peers that are joined here now, bytes that were passed on between such.)"""
        return len(self._relay.pairs()), self._relay.passed_bytes

    def _ends(self, members: Iterable[str]) -> dict[str, Endpoint]:
        known = {peer: self._trust.endpoint(peer) for peer in members} | {self._peer_id: self._endpoint}
        return {peer: end for peer, end in known.items() if end is not None}

    def parked(self, collective: Collective) -> list[tuple[str, Header]]:
        return self._collectives.parked(collective)

    def missed(self, collective: Collective) -> set[str] | None:
        return self._collectives.missed(collective)

    def leave(self, collective: Collective) -> None:
        if self._collectives.leave(collective):
            self._watch.ended(*collective.rate())
        self._forget(collective.transfer)

    def start_fetch(self, job: FetchJob, on_event: OnBulkEvent) -> None:
        def forget() -> None:
            self._forget(fetch.transfer)

        fetch = Fetch(job, self._dialler, on_event, forget)
        self._register(fetch.transfer, fetch.transfer.fail)
        try:
            self._crew.start(f"bulk-fetch-{job.fetch_id.hex()[:8]}", fetch.run)
        except BaseException:
            forget()
            raise

    def start_pieces(self, job: PiecesJob, on_event: OnBulkEvent) -> None:
        def forget() -> None:
            self._pieces.pop(job.fetch_id, None)
            self._forget(fetch.transfer)

        fetch = PieceFetch(self._peer_id, job, self._dialler, self._crew, on_event, forget)
        self._register(fetch.transfer, fetch.fail)
        self._pieces[job.fetch_id] = fetch
        try:
            self._crew.start(f"bulk-pieces-{job.fetch_id.hex()[:8]}", fetch.run)
        except BaseException:
            forget()
            raise

    def offer(self, fetch_id: TransferId, donors: tuple[str, ...], fellows: tuple[str, ...] = ()) -> None:
        fetch = self._pieces.get(fetch_id)
        if fetch is not None:
            fetch.offer(donors, fellows)

    def start_probe(self, job: ProbeJob, on_event: OnBulkEvent) -> None:
        def forget() -> None:
            self._forget(probe.transfer)

        probe = Probe(job, self._channels, lambda: self._watch.runs, on_event, forget)
        self._register(probe.transfer, probe.transfer.fail)
        try:
            self._crew.start(f"bulk-probe-{job.peer[-8:]}", probe.run)
        except BaseException:
            forget()
            raise

    def links(self) -> dict[str, PeerLink]:
        return links_of(self._contacts, self._channels)

    def abort(self, transfer_id: TransferId) -> None:
        """Does nothing for a transfer that has ended or never was."""
        with self._lock:
            _transfer, fail = self._transfers.get(transfer_id, (None, None))
        if fail is not None:
            fail(Failure(None, "it was aborted here"))

    def close(self) -> None:
        """End everything, tell the neighbours that it is this host that leaves, and wait for every thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            running = list(self._transfers.values())
        self._listener.close()
        for _transfer, fail in running:
            fail(Failure(None, "the bulk engine was closed", mine=True))
        self._await_transfers()
        self._relay.close()
        self._channels.close()
        self._crew.join(CLOSE_S)
        self._identity.close()

    def _await_transfers(self) -> None:
        """They tell their neighbours why they end, for which the channels have to stand."""
        with self._ended:
            self._ended.wait_for(lambda: not self._transfers, GOODBYE_S)

    def _dispatch(self, link: Link, request: Request) -> None:
        self._contacts.came(link.peer)
        match request:
            case GetRequest():
                self._server.answer(link, request)
            case ChannelRequest():
                self._channels.accept(link, request)
            case RelayRequest():
                self._relay.accept(link, request)

    def _register(self, transfer: Transfer, fail: Callable[[Failure], None]) -> None:
        if len(transfer.transfer_id) != TRANSFER_ID_BYTES:
            raise ValueError(f"a transfer id has {TRANSFER_ID_BYTES} bytes, not {len(transfer.transfer_id)}")
        with self._lock:
            if self._closed:
                raise BulkClosed()
            if transfer.transfer_id in self._transfers:
                raise ValueError(f"transfer {transfer.transfer_id.hex()} is already running; abort it first")
            if len(self._transfers) >= TRANSFERS_MAX:
                raise BulkBusy(TRANSFERS_MAX)
            self._transfers[transfer.transfer_id] = transfer, fail

    def _forget(self, transfer: Transfer) -> None:
        with self._ended:
            if self._transfers.get(transfer.transfer_id, (None, None))[0] is transfer:
                del self._transfers[transfer.transfer_id]
                self._ended.notify_all()
