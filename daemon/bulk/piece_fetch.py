"""One object from many donors at once: a thread and a connection for each, every piece checked before it counts.

Owns the asking side of many GETs on one connection, and the end. protocol/pieces.py decides who is asked for what.
A piece that is wrong, or none for long, costs its donor its part in this fetch; the rest goes on. A fellow fetches the
object, too: it is asked what it holds, and for that.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.block_reader import BlockReader
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.dial import Dialler
from intellectd.daemon.bulk.errors import BulkError, Busy, Declined, Failure, LinkSilent, Stopped, WireError, failure_of
from intellectd.daemon.bulk.fetch import checked_answer
from intellectd.daemon.bulk.interface import DonorLost, OnBulkEvent, PiecesJob
from intellectd.daemon.bulk.limits import (
    BUSY_AGAIN_S,
    BUSY_ASKS_MAX,
    DONORS_MAX,
    FELLOWS_ALONE_S,
    PACK_BELOW,
    PIECES_LOOK_S,
    SERVE_IDLE_S,
)
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.transfer import Transfer
from intellectd.daemon.bulk.wire import HEADER_BYTES, PACKED, GetRequest, Header, Kind, decode_header, encode_request
from intellectd.kernels.digest import leaf_hash
from intellectd.protocol.pieces import Ask, Look, Pieces

Question = Ask | Look


class PieceFetch:
    """`run` is its thread. `forget` is called before the terminal event, when the buffer has been let go."""

    def __init__(
        self, me: str, job: PiecesJob, dialler: Dialler, crew: Crew, on_event: OnBulkEvent, forget: Callable[[], None]
    ) -> None:
        """`me`: how fellows know this host. ValueError: the job does not fit together."""
        pieces = len(job.hashes)
        if job.into.readonly or len(job.borders) != pieces + 1 or job.borders[-1:] != (job.into.nbytes,):
            raise ValueError(f"{pieces} pieces of {job.object_name} do not make {job.into.nbytes} bytes to write to")
        encode_request(GetRequest(job.object_name, 0, job.into.nbytes))  # a name that does not fit: say so at once
        self.transfer = Transfer(job.fetch_id, job.stall_s, job.deadline_s, on_event)
        self._job, self._dialler, self._crew = job, dialler, crew
        self._on_event, self._forget = on_event, forget
        self._into: memoryview | None = job.into.cast("B")
        self._changed = threading.Condition()
        self._pieces = Pieces([b - a for a, b in itertools.pairwise(job.borders)], job.have, job.start, me)
        self._held = GetRequest(job.held_name, 0, -(-pieces // 8))
        self._fellows: dict[str, None] = {}
        self._moved_s = now_s()  # when a piece last came
        self._here_bytes = sum(job.borders[piece + 1] - job.borders[piece] for piece in dict.fromkeys(job.have))
        self._at_work: dict[str, None] = {}  # donors whose thread has not ended
        self._over = False
        self._asked: dict[str, None] = {}  # donors that have, or had, a part in it
        self._links: dict[str, Link] = {}
        self._lost: dict[str, str] = {}  # donors, and why
        self._brought: dict[str, int] = {}  # pieces, by donor
        self._sent = self._received = 0

    def fail(self, failure: Failure) -> None:
        self.transfer.fail(failure)
        with self._changed:
            self._changed.notify_all()

    def offer(self, donors: tuple[str, ...], fellows: tuple[str, ...] = ()) -> None:
        """Any thread."""
        for peer in (*donors, *fellows):
            with self._changed:
                if self._over or peer in self._asked or len(self._asked) >= DONORS_MAX:
                    continue
                self._asked[peer] = None
                if peer not in donors:
                    self._fellows[peer] = None
                self._pieces.join(peer, peer in self._fellows)
                self._at_work[peer] = None
            try:
                self._crew.start(f"bulk-donor-{peer[-8:]}", partial(self._serve_from, peer))
            except (BulkError, RuntimeError) as error:
                self._gone(peer, failure_of(error, peer))

    # ---- its own thread

    def run(self) -> None:
        transfer = self.transfer
        try:
            self._go()
        except Stopped:
            pass  # whoever stopped the transfer has said why
        except Exception as error:  # this host's own faults too: the app waits for an event
            self.fail(failure_of(error, ""))
        transfer.stop.set()
        with self._changed:  # the donors' threads leave at the stop, within one read
            self._over = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._at_work)
        self._into = None
        self._forget()
        try:
            transfer.report_end(self._sent, self._received)
        finally:
            transfer.thread_ends()

    def _go(self) -> None:
        self.offer(self._job.donors, self._job.fellows)
        with self._changed:
            while not self._pieces.done:
                self.transfer.check()
                if not self._at_work or self._only_waiting_fellows():
                    words = "; ".join(self._lost.values())
                    self.transfer.fail(Failure(None, f"no donor is left: {words}" if words else "nobody to ask"))
                    return
                for peer in self._pieces.overdue(now_s()):
                    self._drop_overdue(peer)
                self._changed.wait(PIECES_LOOK_S)

    def _only_waiting_fellows(self) -> bool:
        """Under the lock. Nobody is left who has all, and those who fetch it, too, have had nothing new for long."""
        return now_s() - self._moved_s > FELLOWS_ALONE_S and all(peer in self._fellows for peer in self._at_work)

    def _drop_overdue(self, peer: str) -> None:
        """Under the lock. Its thread finds its connection closed, at its next read."""
        self._pieces.leave(peer)
        self._lost[peer] = f"{peer}: no whole piece came in time"
        if peer in self._links:
            self._links[peer].hang_up_elsewhere()

    # ---- a donor's thread

    def _serve_from(self, peer: str) -> None:
        failure: Failure | None = None
        try:
            self._ask_until_done(peer)
        except Stopped:
            pass
        except Exception as error:  # whatever it is costs this donor only, and is told
            failure = failure_of(error, peer)
            if isinstance(error, WireError):
                self._on_event(DonorLost(self.transfer.transfer_id, peer, str(error)))
        self._gone(peer, failure)

    def _ask_until_done(self, peer: str) -> None:
        """A donor that has no room is asked again, for a while since it last brought something."""
        tries, brought = 0, self._brought.get(peer, 0)
        while True:
            try:
                ask = self._next_ask(peer)
                while ask is not None:
                    ask = self._converse(peer, ask)
                return
            except Declined as error:  # a fellow may not have begun yet
                if not isinstance(error, Busy) and peer not in self._fellows:
                    raise
                if self._brought.get(peer, 0) > brought:
                    tries, brought = 0, self._brought[peer]
                tries += 1
                if tries >= BUSY_ASKS_MAX:
                    raise
                self._pause(peer)

    def _pause(self, peer: str) -> None:
        """What was under way from it is meanwhile asked of others."""
        until = now_s() + BUSY_AGAIN_S
        with self._changed:
            self._pieces.leave(peer)
            self._changed.notify_all()
            while (left_s := until - now_s()) > 0 and not self._pieces.done:
                self.transfer.check()
                self._changed.wait(min(PIECES_LOOK_S, left_s))
            self._pieces.join(peer, peer in self._fellows)

    def _gone(self, peer: str, failure: Failure | None) -> None:
        with self._changed:
            if failure is not None:
                self._lost.setdefault(peer, failure.reason)
            self._pieces.leave(peer)
            self._at_work.pop(peer, None)
            self._changed.notify_all()

    def _next_ask(self, peer: str) -> Question | None:
        """Waits until there is something to ask of it. None: never again."""
        with self._changed:
            while not self._pieces.done and peer in self._pieces.donors:
                self.transfer.check()
                ask = self._pieces.ask(peer, now_s())
                if ask is not None:
                    return ask
                self._changed.wait(PIECES_LOOK_S)
        return None

    def _converse(self, peer: str, ask: Question) -> Question | None:
        """On one connection, until there is nothing to ask or it has idled for so long that it may be closed: what
        to ask on the next."""
        link, answer = self._dialler.dial(peer, self._request(ask, peer), self.transfer)
        try:
            link.hand_over(self.transfer.stop, self.transfer.deadline)
            with self._changed:
                self._links[peer] = link
            under_way = deque([ask])
            while True:
                self._ask_more(link, peer, under_way)
                self._read(link, peer, under_way[0], answer)
                under_way.popleft()
                if not under_way:
                    idle_at = now_s()
                    more = self._next_ask(peer)
                    if more is None or now_s() - idle_at > SERVE_IDLE_S / 2:
                        return more
                    self._say(link, peer, more)
                    under_way.append(more)
                answer = decode_header(link.read_bytes(HEADER_BYTES, self.transfer.stall_s))
        finally:
            with self._changed:
                self._links.pop(peer, None)
                self._sent += link.sent_bytes
                self._received += link.received_bytes
            link.close()

    def _ask_more(self, link: Link, peer: str, under_way: deque[Question]) -> None:
        while True:
            with self._changed:
                ask = self._pieces.ask(peer, now_s())
            if ask is None:
                return
            self._say(link, peer, ask)
            under_way.append(ask)

    def _say(self, link: Link, peer: str, ask: Question) -> None:
        link.write_all(memoryview(encode_request(self._request(ask, peer))), self.transfer.stall_s)

    def _request(self, ask: Question, peer: str) -> GetRequest:
        if isinstance(ask, Look):
            return self._held
        start, stop = self._job.borders[ask.first], self._job.borders[ask.first + ask.count]
        return GetRequest(self._job.object_name, start, stop - start, self._job.floats and self._is_slow(peer))

    def _is_slow(self, peer: str) -> bool:
        """So that its time is better spent on packing; not before it has shown that."""
        with self._changed:
            return 0 < self._pieces.rates().get(peer, 0.0) < PACK_BELOW

    def _read(self, link: Link, peer: str, ask: Question, answer: Header) -> None:
        checked_answer(answer, self._request(ask, peer), may_be_packed=self._job.floats and isinstance(ask, Ask))
        if isinstance(ask, Look):
            self._read_held(link, peer)
        else:
            length = answer.length
            self._read_pieces(BlockReader(link, length) if answer.flag == PACKED else link, peer, ask)
        end = decode_header(link.read_bytes(HEADER_BYTES, self.transfer.stall_s))
        if end.kind != Kind.END:
            raise WireError(f"{end.kind.name} where the range ends")

    def _read_held(self, link: Link, peer: str) -> None:
        held = int.from_bytes(link.read_bytes(self._held.length, self.transfer.stall_s), "little")
        with self._changed:
            self._pieces.holds(peer, held)
            self._changed.notify_all()

    def _read_pieces(self, link: Link | BlockReader, peer: str, ask: Ask) -> None:
        borders, into = self._job.borders, self._into
        assert into is not None
        scratch = memoryview(bytearray(max(b - a for a, b in _pairs(borders, ask))))
        for piece in range(ask.first, ask.first + ask.count):
            start, stop = borders[piece], borders[piece + 1]
            part = scratch[: stop - start]
            link.read_exactly(part, self.transfer.stall_s)
            if leaf_hash(part) != self._job.hashes[piece]:
                raise WireError(f"piece {piece} of {self._job.object_name} is not the one that is proven")
            self._came(peer, piece, part, into[start:stop])

    def _came(self, peer: str, piece: int, part: memoryview, place: memoryview) -> None:
        if not self._pieces.has(piece):
            place[:] = part  # two threads may, with the same bytes
        with self._changed:
            if peer not in self._pieces.donors:
                raise LinkSilent("no whole piece came in time")
            if not self._pieces.came(peer, piece, now_s()):
                return
            self._moved_s = now_s()
            self._brought[peer] = self._brought.get(peer, 0) + 1
            self._here_bytes += len(part)
            here_bytes = self._here_bytes
            self._changed.notify_all()
        self._job.on_piece(piece)
        self.transfer.progress(here_bytes, self._job.borders[-1])


def _pairs(borders: tuple[int, ...], ask: Ask) -> list[tuple[int, int]]:
    return [(borders[piece], borders[piece + 1]) for piece in range(ask.first, ask.first + ask.count)]
