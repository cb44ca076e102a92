"""One collective on this host: its thread, which watches, and the words of its neighbours.

Owns the beginning and the terminal event. The wires' threads do the work, each on the chunk that it has just read
(arrivals.py) or is about to write (departures.py); chunks do not wait for each other, so several wires and cores share
it. Refuses to know schedules, sockets and keys.

A neighbour that is ready says GO; what it has not got when a connection broke goes again. Nothing else is
acknowledged: who has all results cannot owe anybody a part.
"""

import contextlib
from typing import Protocol

from intellectd.daemon.bulk.arrivals import Arrivals
from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.books import Books
from intellectd.daemon.bulk.channel_port import ChannelsPort
from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.collective_plan import CollectivePlan
from intellectd.daemon.bulk.collective_watch import Watch
from intellectd.daemon.bulk.departures import Departures
from intellectd.daemon.bulk.errors import DeadlinePassed, Failure, NeighbourAborted, Stopped, WireError, failure_of
from intellectd.daemon.bulk.frames import Header, Kind
from intellectd.daemon.bulk.interface import LinkSeen
from intellectd.daemon.bulk.limits import HELD_STALLS, PEER_ID_BYTES_MAX, PROGRESS_EACH_CHUNKS_MAX, SETTLE_S, WATCH_S
from intellectd.daemon.bulk.neighbour import Neighbour, is_older
from intellectd.daemon.bulk.transfer import Transfer

AGAIN = 1  # the flag of a GO that tells what has come so far: what has gone and not come is to be sent again
AFTER_LOSS = 2  # of one after a connection broke: if it went before
MISSED = 3  # of one from a host that dropped chunks of this transfer, or may have: all that has gone is to go again
ASK = 1  # the flag of a WAITING that wants to know
ASK_AGAIN = 2  # and what has come so far
DONE = 1  # the flag of a GONE of what ended well: it has all that was for it
OTHERS_ALONE = 1  # in the place of the chunk's number: and for none of its own
HELD = 3  # of one from a host where chunks of the neighbour's wait for others': that it takes nothing is nobody's fault


class Table(Protocol):
    """Of the collectives that run here."""

    def parked(self, collective: "Collective") -> list[tuple[str, Header]]:
        """What was said of it before it began, once."""
        ...

    def missed(self, collective: "Collective") -> set[str] | None:
        """Whose early chunks were dropped before it had begun, once. None: anybody's, for it is not the first here."""
        ...

    def leave(self, collective: "Collective") -> None: ...


class Collective:
    def __init__(
        self,
        plan: CollectivePlan,
        buffers: Buffers,
        transfer: Transfer,
        channels: ChannelsPort,
        table: Table,
        epoch: int,
    ) -> None:
        self.plan, self.transfer, self.epoch = plan, transfer, epoch
        self._buffers, self._channels, self._table = buffers, channels, table
        self._books = Books(plan, buffers, transfer, epoch)
        self._departures = Departures(self._books)
        self._arrivals = Arrivals(self._books, self._departures, self._say_what_came)
        self._watch = Watch(transfer.stall_s)
        self._settles_s = 0.0  # since when there is nothing but to hear that all is there; 0: there is more
        self._early: dict[str, Header] = {}  # who said GO before this host had met anybody
        self.wants, self.on_chunk = self._arrivals.wants, self._arrivals.on_chunk
        self.fail = self._books.fail

    def rate(self) -> tuple[int, float]:
        """(bytes that it has sent, seconds since it began). Nothing of one that failed: most of the time it waited for
        somebody, and what may be served beside the next one is a share of this."""
        if self.transfer.failure is not None:
            return 0, 0.0
        return self._books.sent_bytes, now_s() - self.transfer.started_s

    # ---- its thread

    def run(self) -> None:
        books = self._books
        try:
            if self.plan.alone:
                self._reduce_alone()
            else:
                self._meet()
                self._wait()
        except Stopped:
            pass  # whoever stopped it has said why
        except Exception as error:  # this host's own faults too: the neighbours must not wait for nothing
            self.fail(failure_of(error, ""))
        try:
            self._part()
            self._table.leave(self)
            self.transfer.report_end(books.sent_bytes, books.received_bytes, self._seen())
        finally:
            self.transfer.thread_ends()

    def _reduce_alone(self) -> None:
        """A collective of one goes through the same kernels, so that its result is what a larger one's would be."""
        for chunk in self.plan.chunks:
            self.transfer.check()
            with self._buffers.inside:
                self._buffers.alone(chunk)
            self._books.moved_bytes += chunk.size
            self._report()

    def _meet(self) -> None:
        plan, now = self.plan, now_s()
        bits = -(-2 * len(plan.chunks) // 8)
        found: dict[str, Neighbour] = {}
        for number in plan.neighbours:
            peer = plan.members[number]
            channel = self._channels.need(peer, self.transfer.stall_s)
            owed, owe = plan.arrivals.get(number, 0), plan.departures.get(number, 0)
            found[peer] = Neighbour(number, peer, owed, owe, channel, now, bytearray(bits))
        early = dict(self._table.parked(self))
        with self._books.lock:
            self._books.meet(found)
            self._departures.make(plan.program.begin())
            early |= self._early
        missed = self._table.missed(self)
        for neighbour in found.values():
            neighbour.missed = missed is None or neighbour.peer in missed
            self._say_go(neighbour)
            if neighbour.departures:
                self._tell(neighbour, self._word(Kind.WAITING, ASK), plan.transfer_id)
        for peer, header in early.items():
            if peer in found:  # anybody can say GO of anything
                self.on_control(peer, header, b"")
        for neighbour in found.values():
            self._departures.early(neighbour, self._under_way(neighbour.peer))

    def _under_way(self, peer: str) -> float:
        """Bytes that the path there holds, both ways, as far as it is known."""
        known = self._channels.measured(peer)
        return (known.bytes_per_s or 0.0) * (known.rtt_s or 0.0) if known is not None else 0.0

    def _wait(self) -> None:
        every_s = min(WATCH_S, self.transfer.stall_s / 8)
        while not self._books.over.wait(every_s):
            self._look(now_s())
        self.transfer.check()
        self._report()

    def _look(self, now: float) -> None:
        books = self._books
        if now > self.transfer.deadline:
            self.fail(failure_of(DeadlinePassed(), ""))
            return
        with books.lock:
            neighbours = list(books.neighbours.values())
            failure = self._watch.judge(neighbours, books.chunk_at, now)
            told = self._watch.to_tell(neighbours, now)
            nudged = self._watch.to_nudge(neighbours, now)
            holding = [neighbour for neighbour in told if self._arrivals.holds(neighbour)]
        if failure is not None:
            self.fail(failure)
        for neighbour in told:
            for_others = OTHERS_ALONE if neighbour in holding else 0
            self._tell(neighbour, self._word(Kind.WAITING, HELD if neighbour.waits_here else 0, for_others))
        for neighbour in nudged:
            self._say_what_came(neighbour)
        if books.settling:
            self._settle(neighbours, now)
        else:
            self._settles_s = 0.0
        self._report()

    def _settle(self, neighbours: list[Neighbour], now: float) -> None:
        """This host has all; of what it sent last, some may have been lost with a connection."""
        self._settles_s = self._settles_s or now
        unsure = [neighbour for neighbour in neighbours if neighbour.unsure]
        if now - self._settles_s > SETTLE_S:
            self._departures.nobody_is_there(unsure)
        for neighbour in unsure:
            self._tell(neighbour, self._word(Kind.WAITING, ASK_AGAIN), self.plan.transfer_id)

    def _report(self) -> None:
        always = len(self.plan.chunks) <= PROGRESS_EACH_CHUNKS_MAX
        self.transfer.progress(self._books.progress_bytes(), self.plan.payload_bytes, always)

    def _part(self) -> None:
        """Tell why, if it failed; then nothing touches the buffers any more."""
        failure, neighbours, name = self.transfer.failure, self._books.neighbours, b""
        if failure is not None:
            suspect = self.plan.members[self.plan.me] if failure.mine else failure.suspect or ""
            name = suspect.encode()[:PEER_ID_BYTES_MAX]
        for neighbour in neighbours.values():
            neighbour.channel.drop(self.plan.key)
            if failure is not None:
                with contextlib.suppress(OverflowError):  # nobody there listens; this host ends all the same
                    neighbour.channel.tell(self._word(Kind.ABORT, int(failure.silent)), name)
        self._buffers.release()
        self._arrivals.release()
        for neighbour in neighbours.values():
            self._channels.release(neighbour.peer)

    def _seen(self) -> tuple[LinkSeen, ...]:
        """Of the links to its neighbours, what was measured in its time. A window that was shut because chunks waited
        there for others' says how slow those were, and nothing of this link."""
        since_s, neighbours = self.transfer.started_s, self._books.neighbours.values()
        found = [(neighbour, self._channels.measured(neighbour.peer)) for neighbour in neighbours]
        links = [measure.seen(neighbour.peer, since_s) for neighbour, measure in found if measure is not None]
        held = [neighbour.peer for neighbour in neighbours if neighbour.held]
        shut = ("rwnd", "host")
        return tuple(link for link in links if link is not None and not (link.limit in shut and link.peer in held))

    def _word(self, kind: Kind, flag: int = 0, chunk: int = 0) -> Header:
        return self._books.word(kind, flag, chunk)

    # ---- words of neighbours, in their wires' threads

    def on_control(self, peer: str, header: Header, payload: bytes) -> None:
        """Raises WireError for what it may not say."""
        neighbour = self._books.known(peer) or self._known_now(peer, header)
        if neighbour is None:
            return
        if header.kind is Kind.GONE:
            self._has_ended(neighbour, header)
            return
        with self._books.lock:
            if header.kind is Kind.ABORT and header.step != neighbour.epoch:
                # An attempt that it had given up before this one; or one in which it had no time to say anything else.
                neighbour.gives_up(header.step, failure_of(self._aborted(header, payload), peer))
                return
            if header.kind in (Kind.GO, Kind.WAITING) and not neighbour.speaks_in(header.step):
                return
            neighbour.heard(now_s())
        if header.step == neighbour.aborted:
            self.fail(Failure(None, f"{peer} ended the transfer"))
            return
        match header.kind:
            case Kind.GO if header.flag in (AGAIN, AFTER_LOSS):
                self._departures.begin(neighbour, header.step, kept=False)
                self._departures.send_again(neighbour, header.chunk, payload, header.flag == AFTER_LOSS)
            case Kind.GO:
                self._departures.begin(neighbour, header.step, kept=header.flag != MISSED)
            case Kind.WAITING:
                self._answer(neighbour, header)
            case Kind.ABORT:
                self.fail(failure_of(self._aborted(header, payload), peer))
            case other:
                raise WireError(f"it sent {other.name} in a collective")

    def _known_now(self, peer: str, header: Header) -> Neighbour | None:
        """None before this host has met anybody: then the newest GO of each is kept, and for everything else it is
        asked again."""
        with self._books.lock:
            if self._books.neighbours:
                return self._books.known(peer)
            kept = self._early.get(peer)
            if header.kind is Kind.ABORT and kept and kept.step == header.step:
                del self._early[peer]
            is_go = header.kind is Kind.GO and header.flag in (0, MISSED)
            if is_go and not (kept and is_older(header.step, kept.step)):
                self._early[peer] = header
            return None

    def _has_ended(self, neighbour: Neighbour, header: Header) -> None:
        """There. That may overtake its last chunks, and words that it said before."""
        with self._books.lock:
            heeded = neighbour.ends(header.step, Failure(None, f"{neighbour.peer} has ended this transfer"))
        if not heeded:
            return
        if header.flag == DONE:
            self._departures.has_all(neighbour)
        else:
            self._departures.nobody_is_there([neighbour])

    def _answer(self, neighbour: Neighbour, header: Header) -> None:
        if header.flag == ASK:
            self._say_go(neighbour)
        elif header.flag == ASK_AGAIN:
            self._say_what_came(neighbour, AFTER_LOSS)
        else:
            self._bear_with(neighbour, header.flag == HELD, header.chunk == OTHERS_ALONE)

    def _bear_with(self, neighbour: Neighbour, held: bool, for_others: bool) -> None:
        """While chunks wait there for others' alone its wires take nothing, and are well."""
        with self._books.lock:
            changes, neighbour.holds = for_others != neighbour.holds, for_others
            if held:
                neighbour.moved_at, neighbour.held = now_s(), True
        if changes:
            neighbour.channel.stall_after(self.transfer.stall_s * (HELD_STALLS if for_others else 1))

    def _aborted(self, header: Header, payload: bytes) -> NeighbourAborted:
        """It may name a member, and no one else."""
        named, silent = payload.decode("ascii", "replace"), bool(header.flag)
        if named == self.plan.members[self.plan.me]:
            return NeighbourAborted("it suspects this host", None, silent)
        if named not in self.plan.members:
            return NeighbourAborted("it suspects nobody", None, silent)
        return NeighbourAborted(f"it suspects {named}", named, silent)

    def _say_go(self, neighbour: Neighbour) -> None:
        if neighbour.arrivals:
            self._tell(neighbour, self._word(Kind.GO, MISSED if neighbour.missed else 0), self.plan.transfer_id)

    def _say_what_came(self, neighbour: Neighbour, flag: int = AGAIN) -> None:
        self._say_go(neighbour)
        with self._books.lock:
            pages = list(neighbour.pages())
        for first, bits in pages:
            self._tell(neighbour, self._word(Kind.GO, flag, first), bits)

    def _tell(self, neighbour: Neighbour, header: Header, payload: bytes = b"") -> None:
        """In any thread, also in those of other neighbours' wires: that this one takes no words is its own fault."""
        try:
            neighbour.channel.tell(header, payload)
        except OverflowError as error:
            self.fail(Failure(neighbour.peer, f"{neighbour.peer}: {error}", silent=True))

    # ---- its connections

    @property
    def has_met(self) -> bool:
        """What comes now is looked at."""
        return bool(self._books.neighbours)

    def on_bytes(self, peer: str, count: int) -> None:
        """Of a chunk that is wanted: of many on a slow line none may be whole for long."""
        neighbour = self._books.neighbours.get(peer)
        if neighbour is not None:
            self._books.stirs(neighbour, count)

    def on_lost(self, peer: str, reason: str, refused: bool) -> None:
        neighbour = self._books.neighbours.get(peer)
        if neighbour is None or self._books.over.is_set():
            return
        if refused and not neighbour.counts:
            self._departures.nobody_is_there([neighbour])
            return
        if refused:
            self.fail(Failure(peer, f"{peer}: {reason}"))
            return
        with self._books.lock:
            self._books.breaks(neighbour, reason)

    def on_found(self, peer: str) -> None:
        """After a loss: this host says what it has, and asks what has come there."""
        neighbour = self._books.neighbours.get(peer)
        if neighbour is None or not neighbour.lost or self._books.over.is_set():
            return
        self._say_what_came(neighbour, AFTER_LOSS)
        if neighbour.parcels:
            self._tell(neighbour, self._word(Kind.WAITING, ASK_AGAIN), self.plan.transfer_id)
