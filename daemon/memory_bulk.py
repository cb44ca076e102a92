"""The bulk plane in memory: the interface of `daemon.bulk` on trio's clock, with hosts that can be stalled and killed.

Owns a hub in place of the wire. Plans, programs, buffers and kernels are the real engine's, so results have the same
bits. Refuses to know threads and TLS; pinned certificates it has, in name: a host that started anew is not
trusted until its beacon says so.
"""

import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

import trio

from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.collective_plan import CollectivePlan, plan_of
from intellectd.daemon.bulk.errors import BulkBusy, BulkClosed, DeadlinePassed
from intellectd.daemon.bulk.interface import (
    CollectiveJob,
    DonorLost,
    Endpoint,
    FetchJob,
    LinkSeen,
    ObjectProvider,
    OnBulkEvent,
    PeerLink,
    PiecesJob,
    ProbeJob,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferProgress,
    whole,
)
from intellectd.daemon.bulk.limits import TRANSFERS_MAX, TRUSTED_MAX
from intellectd.daemon.memory_reduce import BadHop, reduce_all
from intellectd.kernels.digest import leaf_hash

COLLECTIVE_S = 0.2  # what a collective takes once all its members are there; halfway each reports progress
FETCH_S = 0.1
POLL_S = 0.05  # how often a transfer looks whether the others are there: on a clock that jumps, this is free

Tamper = Callable[[str, str, bytes], bytes]  # (reader, object name, the true bytes) -> what is served


class MemoryBulkHub:
    """All engines of one test."""

    def __init__(self, nursery: trio.Nursery | None) -> None:
        """Transfers live in `nursery`; without one there are none."""
        self._nursery = nursery
        self.engines: dict[str, MemoryBulk] = {}
        self.stalled: dict[str, bool] = {}
        self.tamper: dict[str, Tamper] = {}
        self.rates: dict[tuple[str, str], tuple[float, float]] = {}  # (from, to): (bytes/s, rtt_s), as is measured
        self.reduced: list[tuple[str, ...]] = []  # the members of every collective that came to an end
        self._numbers = itertools.count(1)

    def engine(self, peer_id: str) -> "MemoryBulk":
        engine = self.engines[peer_id] = MemoryBulk(self, peer_id, next(self._numbers))
        return engine

    def spawn(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        assert self._nursery is not None, "a transfer in a hub that was made without a nursery"
        self._nursery.start_soon(work, *arguments)

    def stall(self, peer_id: str, stalled: bool = True) -> None:
        """Nothing of this host moves any more, though its connections stand."""
        self.stalled[peer_id] = stalled

    def kill(self, peer_id: str) -> None:
        """The process is gone: its connections are reset, and nobody listens at its address."""
        engine = self.engines.pop(peer_id, None)
        if engine is not None:
            engine.die()


@dataclass
class _Running:
    plan: CollectivePlan | None = None
    buffers: Buffers | None = None
    failure: TransferFailed | None = None
    done: bool = False
    offered: tuple[str, ...] = ()  # donors that came while pieces were fetched
    fellows: tuple[str, ...] = ()  # who fetches them, too
    news: trio.Event = field(default_factory=trio.Event)

    def fail(self, failure: TransferFailed) -> None:
        if not self.done:
            self.failure = self.failure or failure
            self.news.set()


class MemoryBulk:
    """Made by `MemoryBulkHub.engine`."""

    def __init__(self, hub: MemoryBulkHub, peer_id: str, number: int) -> None:
        self._hub, self._peer_id = hub, peer_id
        self._endpoint = Endpoint(f"memory:{number}", b"certificate %d" % number)
        self._trusted: dict[str, Endpoint] = {}
        self._provider: ObjectProvider = lambda _peer, _name: None
        self._running: dict[TransferId, _Running] = {}
        self._links: dict[str, PeerLink] = {}
        self._dead = False

    # -- BulkEngine

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def trust(self, peers: dict[str, Endpoint]) -> None:
        if len(peers) > TRUSTED_MAX:
            raise ValueError(f"{len(peers)} peers to trust; the bulk plane keeps at most {TRUSTED_MAX}")
        self._trusted = dict(peers)

    def serve(self, provider: ObjectProvider) -> None:
        self._provider = provider

    def start_collective(self, job: CollectiveJob, on_event: OnBulkEvent) -> None:
        plan = plan_of(job, self._peer_id)
        running = self._register(job.transfer_id)
        running.plan, running.buffers = plan, Buffers(plan, job.own, job.out)
        self._hub.spawn(self._ring, job, running, on_event)

    def start_fetch(self, job: FetchJob, on_event: OnBulkEvent) -> None:
        running = self._register(job.fetch_id)
        self._hub.spawn(self._fetch, job, running, on_event)

    def start_pieces(self, job: PiecesJob, on_event: OnBulkEvent) -> None:
        running = self._register(job.fetch_id)
        self._hub.spawn(self._pieces, job, running, on_event)

    def offer(self, fetch_id: TransferId, donors: tuple[str, ...], fellows: tuple[str, ...] = ()) -> None:
        running = self._running.get(fetch_id)
        if running is not None:
            running.offered, running.fellows = running.offered + donors, running.fellows + fellows

    def start_probe(self, job: ProbeJob, on_event: OnBulkEvent) -> None:
        running = self._register(job.probe_id)
        self._hub.spawn(self._probe, job, running, on_event)

    def relayed(self) -> tuple[int, int]:
        return 0, 0  # here everybody can be reached

    def links(self) -> dict[str, PeerLink]:
        return dict(self._links)

    def abort(self, transfer_id: TransferId) -> None:
        running = self._running.get(transfer_id)
        if running is not None:
            running.fail(TransferFailed(transfer_id, None, "it was aborted here", False))

    def close(self) -> None:
        self._hub.kill(self._peer_id)

    # -- inside

    def die(self) -> None:
        self._dead = True
        for name, running in self._running.items():
            running.fail(TransferFailed(name, None, "the bulk engine was closed", False))

    def _register(self, name: TransferId) -> _Running:
        if self._dead:
            raise BulkClosed()
        if name in self._running:
            raise ValueError(f"transfer {name.hex()} is already running; abort it first")
        if len(self._running) >= TRANSFERS_MAX:
            raise BulkBusy(TRANSFERS_MAX)
        running = self._running[name] = _Running()
        return running

    def _reaches(self, peer: str) -> "MemoryBulk | None":
        """The peer's engine, if both have pinned the other's certificate of now."""
        there = self._hub.engines.get(peer)
        if there is None or self._trusted.get(peer) != there.endpoint:
            return None
        return there if there._trusted.get(self._peer_id) == self._endpoint else None

    # -- collectives

    async def _ring(self, job: CollectiveJob, running: _Running, on_event: OnBulkEvent) -> None:
        began, plan = trio.current_time(), running.plan
        assert plan is not None
        with trio.move_on_after(job.deadline_s) as deadline:
            await self._together(job, running)
            if running.failure is None:
                on_event(TransferProgress(job.transfer_id, plan.payload_bytes // 2, plan.payload_bytes))
                await self._turn(job, running)
        if deadline.cancelled_caught:
            running.fail(TransferFailed(job.transfer_id, None, str(DeadlinePassed()), True))
        assert running.buffers is not None
        running.buffers.release()
        running.buffers = None
        half = plan.payload_bytes // 2
        links = () if running.failure else self._seen(plan.members[n] for n in sorted(plan.neighbours))
        self._end(job.transfer_id, running, on_event, TransferDone(job.transfer_id, half, half, _since(began), links))

    async def _together(self, job: CollectiveJob, running: _Running) -> None:
        """Until every member is there. Whoever is not in time is suspected by its neighbours, and by all."""
        until = trio.current_time() + job.stall_s
        while running.failure is None and not running.done:
            missing = next((m for m in job.members if not self._takes_part(m, job.transfer_id)), None)
            if missing is None:
                return
            gone = missing not in self._hub.engines
            if trio.current_time() >= until:
                words = "nobody listens at its address" if gone else f"it did not connect in {job.stall_s:g} s"
                self._accuse(job, missing, words, silent=not gone)
                return
            await self._wait(running, POLL_S)

    def _takes_part(self, member: str, transfer: TransferId) -> bool:
        if self._hub.stalled.get(member):
            return False
        engine = self if member == self._peer_id else self._reaches(member)
        return engine is not None and transfer in engine._running

    async def _turn(self, job: CollectiveJob, running: _Running) -> None:
        """The first member does it for all, when the time has come."""
        await self._wait(running, COLLECTIVE_S)
        while running.failure is None and not running.done:
            missing = next((m for m in job.members if not self._takes_part(m, job.transfer_id)), None)
            if missing is not None and missing not in self._hub.engines:
                self._accuse(job, missing, "Connection reset by peer", silent=False)
            elif missing is not None:
                await self._wait(running, job.stall_s)
                if not self._takes_part(missing, job.transfer_id):
                    self._accuse(job, missing, f"nothing came in {job.stall_s:g} s", silent=True)
            elif job.members[0] == self._peer_id:
                self._reduce(job)
            else:
                await self._wait(running, POLL_S)

    def _reduce(self, job: CollectiveJob) -> None:
        parts = [self._hub.engines[member]._running[job.transfer_id] for member in job.members]
        try:
            reduce_all([(part.plan, part.buffers) for part in parts if part.plan and part.buffers])
        except BadHop as error:
            self._accuse(job, job.members[error.member], str(error.__cause__), silent=False)
            return
        self._hub.reduced.append(job.members)
        for part in parts:
            part.done = True
            part.news.set()

    def _accuse(self, job: CollectiveJob, suspect: str, words: str, silent: bool) -> None:
        """Every member hears whom its neighbour suspects; that one hears nothing of the kind."""
        for member in job.members:
            engine = self._hub.engines.get(member)
            running = engine._running.get(job.transfer_id) if engine is not None else None
            if running is not None:
                named = None if member == suspect else suspect
                running.fail(TransferFailed(job.transfer_id, named, f"{suspect}: {words}", silent))

    # -- fetches

    async def _fetch(self, job: FetchJob, running: _Running, on_event: OnBulkEvent) -> None:
        began, reason, silent = trio.current_time(), "", False
        with trio.move_on_after(job.deadline_s):
            await self._wait(running, FETCH_S)
            until = trio.current_time() + job.stall_s
            while running.failure is None and (self._reaches(job.peer) is None or self._hub.stalled.get(job.peer)):
                if trio.current_time() >= until:
                    reason, silent = f"{job.peer}: nothing came in {job.stall_s:g} s", True
                    break
                await self._wait(running, POLL_S)
        if not reason and running.failure is None:
            reason = self._copy(job)
        if reason:
            running.fail(TransferFailed(job.fetch_id, job.peer if silent else None, reason, silent))
        size = job.into.nbytes
        if running.failure is None:
            on_event(TransferProgress(job.fetch_id, size, size))
        self._end(job.fetch_id, running, on_event, TransferDone(job.fetch_id, 0, size, _since(began)))

    async def _pieces(self, job: PiecesJob, running: _Running, on_event: OnBulkEvent) -> None:
        """Each donor in its turn brings a piece, all in the time of one fetch."""
        began, lost, into = trio.current_time(), dict[str, str](), job.into.cast("B")
        await self._wait(running, FETCH_S)
        missing = [piece for piece in range(len(job.hashes)) if piece not in frozenset(job.have)]
        while missing and running.failure is None:
            donors = [peer for peer in (*job.donors, *running.offered) if peer not in lost]
            if not donors:
                running.fail(TransferFailed(job.fetch_id, None, f"no donor is left: {'; '.join(lost.values())}", False))
                break
            peer, piece = donors[len(missing) % len(donors)], missing[0]
            fellows = [peer for peer in (*job.fellows, *running.fellows) if peer not in lost]
            peer = next((fellow for fellow in fellows if self._holds(fellow, job, piece)), peer)
            if self._reaches(peer) is None or self._hub.stalled.get(peer):
                await self._wait(running, job.stall_s)
                lost[peer] = f"{peer}: nothing came in {job.stall_s:g} s"
                continue
            data = self._object_of(peer, job.object_name)
            part = (data or b"")[job.borders[piece] : job.borders[piece + 1]]
            if data is None:
                lost[peer] = f"{peer}: it has no {job.object_name}; ask another donor"
            elif leaf_hash(part) != job.hashes[piece]:
                wrong = f"piece {piece} of {job.object_name} is not the one that is proven"
                lost[peer] = f"{peer}: {wrong}"
                on_event(DonorLost(job.fetch_id, peer, wrong))
            else:
                into[job.borders[piece] : job.borders[piece + 1]] = part
                job.on_piece(piece)
                del missing[0]
        if running.failure is None:
            on_event(TransferProgress(job.fetch_id, job.borders[-1], job.borders[-1]))
        self._end(job.fetch_id, running, on_event, TransferDone(job.fetch_id, 0, job.borders[-1], _since(began)))

    def _holds(self, fellow: str, job: PiecesJob, piece: int) -> bool:
        held = self._object_of(fellow, job.held_name) if not self._hub.stalled.get(fellow) else None
        return held is not None and bool(held[piece // 8] >> piece % 8 & 1)

    def _object_of(self, peer: str, name: str) -> bytes | None:
        there = self._reaches(peer)
        found = there._provider(self._peer_id, name) if there is not None else None
        if found is None:
            return None
        data = whole(found)
        return self._hub.tamper[peer](self._peer_id, name, data) if peer in self._hub.tamper else data

    def _copy(self, job: FetchJob) -> str:
        """Why it could not be, or nothing."""
        data = self._object_of(job.peer, job.object_name)
        if data is None:
            return f"{job.peer}: it has no {job.object_name}; ask another donor"
        if job.offset + job.into.nbytes > len(data):
            return f"{job.peer}: its {job.object_name} has no {job.into.nbytes} bytes at {job.offset}"
        job.into.cast("B")[:] = data[job.offset : job.offset + job.into.nbytes]
        return ""

    # -- links

    def _seen(self, peers: Iterable[str]) -> tuple[LinkSeen, ...]:
        """What the hub says of the links to these peers, which were sent to."""
        found = []
        for peer in peers:
            came = self._links.get(peer, PeerLink())
            self._links[peer] = replace(came, wires=1, came_s=0.0, reached_s=0.0, address=self._trusted[peer].address)
            rate = self._hub.rates.get((self._peer_id, peer))
            if rate is not None:
                found.append(LinkSeen(peer, rate[0], rate[1], 1, "bbr"))
                known = self._links[peer]
                self._links[peer] = replace(known, bytes_per_s=rate[0], rtt_s=rate[1], limit="bbr", measured_s=0.0)
        return tuple(found)

    async def _probe(self, job: ProbeJob, running: _Running, on_event: OnBulkEvent) -> None:
        began = trio.current_time()
        await self._wait(running, FETCH_S)
        seen = self._seen([job.peer]) if self._reaches(job.peer) is not None else ()
        if not seen:
            running.fail(TransferFailed(job.probe_id, None, "too little arrived to say anything of the link", False))
        self._end(job.probe_id, running, on_event, TransferDone(job.probe_id, 0, 0, _since(began), seen))

    # -- both

    async def _wait(self, running: _Running, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await running.news.wait()

    def _end(self, name: TransferId, running: _Running, on_event: OnBulkEvent, done: TransferDone) -> None:
        self._running.pop(name, None)
        if not self._dead:  # a dead process hears of nothing
            on_event(running.failure or done)


def _since(began: float) -> float:
    return max(1e-3, trio.current_time() - began)
