"""The bulk engine: what daemon.bulk.interface promises, put together from the parts beside this file.

Owns the threads, the listening address and the table of running transfers. Refuses to know what any of it is for.
"""

import threading
from collections.abc import Callable

from intellectd.daemon.bulk.certificate import Identity
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.dial import Dialler
from intellectd.daemon.bulk.errors import BulkBusy, BulkClosed, BulkError, Failure
from intellectd.daemon.bulk.fetch import Fetch
from intellectd.daemon.bulk.interface import Endpoint, FetchJob, ObjectProvider, OnBulkEvent, RingJob, TransferId
from intellectd.daemon.bulk.limits import CLOSE_S, SERVE_STALL_S, TRANSFERS_MAX
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.listener import Listener
from intellectd.daemon.bulk.pace import UNLIMITED, Pace
from intellectd.daemon.bulk.rendezvous import Rendezvous
from intellectd.daemon.bulk.ring_receive import RingReceive
from intellectd.daemon.bulk.ring_send import RingSend
from intellectd.daemon.bulk.ring_state import RingBuffers, RingState, plan_of
from intellectd.daemon.bulk.serve import RingWatch, Server
from intellectd.daemon.bulk.sockets import listen as listen_on
from intellectd.daemon.bulk.sockets import public_address, split_address
from intellectd.daemon.bulk.transfer import Transfer
from intellectd.daemon.bulk.trust import TrustTable
from intellectd.daemon.bulk.wire import TRANSFER_ID_BYTES, ChannelRequest, GetRequest, Request, RingRequest


class Engine:
    """Listens from construction to `close`. Raises BulkAddressInUse when another process holds the address."""

    def __init__(
        self,
        peer_id: str,
        listen: str,
        announce: str = "",
        serve_stall_s: float = SERVE_STALL_S,
        pace: Pace = UNLIMITED,
    ) -> None:
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
        self._endpoint = Endpoint(announce or public_address(listening), self._identity.certificate)
        self._lock = threading.Lock()
        self._transfers: dict[TransferId, Transfer] = {}
        self._closed = False
        self._crew = Crew()
        self._dialler = Dialler(self._trust, pace)
        self._rendezvous = Rendezvous()
        self._rings = RingWatch()
        self._server = Server(self._rings, serve_stall_s)
        self._listener = Listener(listening, self._trust, self._crew, self._dispatch, self._rendezvous.sweep, pace)
        self._crew.start("bulk-listen", self._listener.run)

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def trust(self, peers: dict[str, Endpoint]) -> None:
        """Replace the table. A peer with an unusable certificate is left out, and said so when it is dialled."""
        self._trust.replace(peers)

    def serve(self, provider: ObjectProvider) -> None:
        self._server.provide(provider)

    def start_ring(self, job: RingJob, on_event: OnBulkEvent) -> None:
        plan = plan_of(job, self._peer_id)
        alone = len(plan.members) == 1
        transfer = Transfer(job.transfer_id, job.stall_s, job.deadline_s, on_event, threads=1 if alone else 2)
        state = RingState(plan, RingBuffers(plan, job.own, job.out), transfer)

        def forget() -> None:
            self._rings.ended()
            self._forget(transfer)

        send = RingSend(state, self._dialler)
        receive = RingReceive(state, send, self._rendezvous, forget)
        name = transfer.transfer_id.hex()[:8]
        self._rings.began()
        self._begin(transfer, f"bulk-ring-{name}-receive", receive.run, forget)
        if not alone:
            try:
                self._crew.start(f"bulk-ring-{name}-send", send.run)
            except (BulkError, RuntimeError) as error:  # the receiver reports it
                transfer.fail(Failure(None, f"this host failed: {error}", mine=True))

    def start_fetch(self, job: FetchJob, on_event: OnBulkEvent) -> None:
        def forget() -> None:
            self._forget(fetch.transfer)

        fetch = Fetch(job, self._dialler, on_event, forget)
        self._begin(fetch.transfer, f"bulk-fetch-{job.fetch_id.hex()[:8]}", fetch.run, forget)

    def abort(self, transfer_id: TransferId) -> None:
        """Does nothing for a transfer that has ended or never was."""
        with self._lock:
            transfer = self._transfers.get(transfer_id)
        if transfer is not None:
            transfer.fail(Failure(None, "it was aborted here"))

    def close(self) -> None:
        """End everything, tell the neighbours that it is this host that leaves, and wait for every thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            transfers = list(self._transfers.values())
        self._listener.close()
        for transfer in transfers:
            transfer.fail(Failure(None, "the bulk engine was closed", mine=True))
        self._rendezvous.close()
        self._crew.join(CLOSE_S)
        self._identity.close()

    def _dispatch(self, link: Link, request: Request) -> None:
        match request:
            case RingRequest(transfer_id):
                self._rendezvous.offer(transfer_id, link)
            case GetRequest():
                self._server.answer(link, request)
            case ChannelRequest():
                link.close()

    def _begin(self, transfer: Transfer, name: str, work: Callable[[], None], forget: Callable[[], None]) -> None:
        """Enter the transfer and start the thread that reports its end; or raise, and nothing has begun."""
        try:
            self._register(transfer)
            self._crew.start(name, work)
        except BaseException:
            forget()
            raise

    def _register(self, transfer: Transfer) -> None:
        if len(transfer.transfer_id) != TRANSFER_ID_BYTES:
            raise ValueError(f"a transfer id has {TRANSFER_ID_BYTES} bytes, not {len(transfer.transfer_id)}")
        with self._lock:
            if self._closed:
                raise BulkClosed()
            if transfer.transfer_id in self._transfers:
                raise ValueError(f"transfer {transfer.transfer_id.hex()} is already running; abort it first")
            if len(self._transfers) >= TRANSFERS_MAX:
                raise BulkBusy(TRANSFERS_MAX)
            self._transfers[transfer.transfer_id] = transfer

    def _forget(self, transfer: Transfer) -> None:
        with self._lock:
            if self._transfers.get(transfer.transfer_id) is transfer:
                del self._transfers[transfer.transfer_id]
