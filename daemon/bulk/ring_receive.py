"""The receiving thread of a ring: takes the left neighbour's chunks, runs the kernels, and ends the transfer.

Owns the left link and the terminal event. It checks each header against the plan before a byte of payload is
read, and reads payload straight into its place. Refuses to know how chunks leave.
"""

import contextlib
from collections.abc import Callable

from intellectd.daemon.bulk.bell import Mailbox, now_s, wait_readable
from intellectd.daemon.bulk.errors import (
    DeadlinePassed,
    LinkLost,
    LinkSilent,
    RingStarved,
    Stopped,
    WireError,
    failure_of,
)
from intellectd.daemon.bulk.limits import GOODBYE_S, PROGRESS_EACH_CHUNKS_MAX, STARVED_STALLS
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.rendezvous import Rendezvous
from intellectd.daemon.bulk.ring import Chunk, is_final
from intellectd.daemon.bulk.ring_abort import abort_frame, heard_abort
from intellectd.daemon.bulk.ring_send import RingSend
from intellectd.daemon.bulk.ring_state import RingState
from intellectd.daemon.bulk.wire import HEADER_BYTES, Header, Kind, decode_header, encode_header

_GO = encode_header(Header(Kind.GO))


class RingReceive:
    def __init__(self, state: RingState, sender: RingSend, rendezvous: Rendezvous, forget: Callable[[], None]) -> None:
        self._state = state
        self._sender = sender
        self._rendezvous = rendezvous
        self._forget = forget
        self._link: Link | None = None
        # The hop in which each chunk is to come next; last_hop + 1 when none is.
        self._next_hop = [(*state.plan.hops_received(chunk), state.plan.last_hop + 1)[0] for chunk in state.plan.chunks]
        self._moved_s = now_s()

    def run(self) -> None:
        state = self._state
        try:
            if len(state.plan.members) == 1:
                self._reduce_alone()
            else:
                self._receive_all()
                state.await_sender_done()
        except Stopped:
            pass  # whoever stopped the transfer has said why
        except Exception as error:  # this host's own faults too: the neighbours must not wait for nothing
            state.transfer.fail(failure_of(error, state.plan.left))
        try:
            self._tell_left()
            self._end()
        finally:
            if self._link is not None:
                self._link.hang_up(now_s() + (GOODBYE_S if state.transfer.failure else 0.0))
            state.thread_ends()

    def _reduce_alone(self) -> None:
        """A ring of one goes through the same kernels, so that its result is what a larger ring's would be."""
        for chunk in self._state.plan.chunks:
            self._state.transfer.check()
            self._state.buffers.start(chunk)
            self._state.received_bytes += chunk.size
            self._report()

    def _receive_all(self) -> None:
        plan = self._state.plan
        left = sum(len(plan.hops_received(chunk)) for chunk in plan.chunks)
        link, header = self._greet_left()
        self._moved_s = now_s()
        while True:
            left -= self._handle(link, header)
            if not left:
                return
            header = self._next_header(link)

    def _greet_left(self) -> tuple[Link, Header]:
        """The left neighbour's link and its first frame. One that waited here may be of an attempt long over."""
        until = now_s() + self._state.transfer.stall_s
        while True:
            link = self._link = self._await_left(until)
            link.hand_over(self._state.transfer.stop, self._state.transfer.deadline)
            try:
                link.write_all(memoryview(_GO), self._state.transfer.stall_s)
                return link, self._next_header(link)
            except LinkLost:
                if not link.parked:
                    raise
                self._link = None
                link.close()

    def _await_left(self, until: float) -> Link:
        state = self._state
        arrivals: Mailbox[Link] = Mailbox(1)
        self._rendezvous.expect(state.transfer.transfer_id, state.plan.left, arrivals)
        try:
            stop = state.transfer.stop
            stop.check()
            wait_readable((stop, arrivals), min(until, state.transfer.deadline) - now_s())
            stop.check()
        finally:
            self._rendezvous.forget(state.transfer.transfer_id, arrivals)
            link = arrivals.take()
            arrivals.close()
            if stop.is_set and link is not None:
                link.close()
        if link is None:
            raise LinkSilent(f"it did not connect in {state.transfer.stall_s:g} s")
        return link

    def _next_header(self, link: Link) -> Header:
        return decode_header(link.read_bytes(HEADER_BYTES, self._state.transfer.stall_s))

    def _handle(self, link: Link, header: Header) -> int:
        """Chunks received by this frame: one or none."""
        match header.kind:
            case Kind.CHUNK:
                self._take_chunk(link, header)
                self._moved_s = now_s()
                return 1
            case Kind.WAITING:
                starved_s = now_s() - self._moved_s
                if starved_s > STARVED_STALLS * self._state.transfer.stall_s:
                    raise RingStarved(f"the neighbours live, but no chunk has come around in {starved_s:.1f} s")
                return 0
            case Kind.ABORT:
                raise heard_abort(link, header, self._state)
            case other:
                raise WireError(f"it sent {other.name} in a ring")

    def _take_chunk(self, link: Link, header: Header) -> None:
        state, chunk = self._state, self._checked(header)
        final = is_final(header.hop, len(state.plan.members))
        if final:
            state.await_sent(chunk)
        link.read_exactly(state.buffers.place(chunk), state.transfer.stall_s)
        if final:
            state.buffers.check(chunk)
        else:
            state.buffers.add(chunk, final=chunk.owner == state.plan.me)
        self._next_hop[chunk.index] = self._hop_after(chunk, header.hop)
        if header.hop < state.plan.last_hop:
            state.to_send.put((chunk, header.hop + 1))
        state.received_bytes += chunk.size
        self._report()

    def _checked(self, header: Header) -> Chunk:
        """The chunk that a header announces, if it may come now."""
        chunks = self._state.plan.chunks
        if header.index >= len(chunks):
            raise WireError(f"chunk {header.index} of a ring with {len(chunks)}")
        chunk = chunks[header.index]
        if header.hop != self._next_hop[chunk.index] or header.hop > self._state.plan.last_hop:
            raise WireError(f"chunk {chunk.index} in hop {header.hop}, where {self._next_hop[chunk.index]} is next")
        if header.length != chunk.size:
            raise WireError(f"{header.length} bytes for chunk {chunk.index}, which has {chunk.size}")
        return chunk

    def _hop_after(self, chunk: Chunk, hop: int) -> int:
        later = (other for other in self._state.plan.hops_received(chunk) if other > hop)
        return next(later, self._state.plan.last_hop + 1)

    def _report(self) -> None:
        state = self._state
        each = len(state.plan.chunks) <= PROGRESS_EACH_CHUNKS_MAX
        state.transfer.progress(state.received_bytes + state.sent_bytes, state.total_bytes, always=each)

    def _tell_left(self) -> None:
        link, failure = self._link, self._state.transfer.failure
        if link is None or failure is None:
            return
        link.hand_over(None, now_s() + GOODBYE_S)
        with contextlib.suppress(LinkLost, LinkSilent, DeadlinePassed):
            link.write_all(memoryview(abort_frame(failure, self._state)), 0.0)  # little, and the way back is idle

    def _end(self) -> None:
        """Let go of the buffers, make room for another attempt under the same id, then report."""
        state = self._state
        state.await_sender_outside()
        state.buffers.release()
        self._forget()
        received = self._link.received_bytes if self._link else 0
        state.transfer.report_end(self._sender.wire_bytes, received)
