"""The sending thread of a ring: dials the right neighbour, starts this host's chunks, passes on what is queued.

Owns the right link. It reads there too, for the neighbour's reason to give up. Refuses to know what comes from
the left.
"""

import contextlib

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.dial import Dialler
from intellectd.daemon.bulk.errors import DeadlinePassed, LinkLost, LinkSilent, Stopped, WireError, failure_of
from intellectd.daemon.bulk.limits import GOODBYE_S, HEARTBEATS_PER_STALL, PIECE_BYTES
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.ring import Chunk, starter
from intellectd.daemon.bulk.ring_abort import abort_frame, heard_abort
from intellectd.daemon.bulk.ring_state import RingState
from intellectd.daemon.bulk.wire import HEADER_BYTES, Header, Kind, RingRequest, decode_header, encode_header

_ZEROS = bytes(PIECE_BYTES)
_WAITING = encode_header(Header(Kind.WAITING))


class RingSend:
    def __init__(self, state: RingState, dialler: Dialler) -> None:
        self._state = state
        self._dialler = dialler
        self._link: Link | None = None
        # What the socket has not taken of the frame being sent.
        self._header_left = memoryview(b"")
        self._payload_left = 0
        self._heard = bytearray()
        self.wire_bytes = 0

    def run(self) -> None:
        state = self._state
        try:
            self._link = self._dial()
            state.sender_enters()
            self._pump(self._link)
        except Stopped:
            pass  # whoever stopped the transfer has said why
        except Exception as error:  # not least this host's own faults: the neighbours must not wait for nothing
            state.transfer.fail(failure_of(error, state.plan.right))
        finally:
            self.wire_bytes = self._link.sent_bytes if self._link else 0
            state.sender_leaves()
            self._say_goodbye()
            state.thread_ends()

    def _dial(self) -> Link:
        transfer = self._state.transfer
        request = RingRequest(transfer.transfer_id)
        link, answer = self._dialler.dial(self._state.plan.right, request, transfer)
        self._link = link
        link.hand_over(transfer.stop, transfer.deadline)
        if answer.kind == Kind.ABORT:
            raise heard_abort(link, answer, self._state)
        if answer.kind != Kind.GO:
            raise WireError(f"it answered a ring with {answer.kind.name}")
        return link

    def _pump(self, link: Link) -> None:
        """Started chunks first, then in order of arrival: each link is busy from the first moment to the last."""
        plan, state = self._state.plan, self._state
        left = sum(len(plan.hops_sent(chunk)) for chunk in plan.chunks)
        for chunk in plan.chunks:
            if starter(chunk.owner, len(plan.members)) == plan.me:
                state.buffers.start(chunk)
                self._send_chunk(link, chunk, 0)
                left -= 1
        heartbeat_s = state.transfer.stall_s / HEARTBEATS_PER_STALL
        while left:
            item = state.to_send.take()
            if item is not None:
                self._send_chunk(link, *item)
                left -= 1
            elif link.wait(heartbeat_s, read=True, also=state.to_send):
                self._hear(link)
            else:
                self._send_frame(link, _WAITING, memoryview(b""))

    def _send_chunk(self, link: Link, chunk: Chunk, hop: int) -> None:
        header = encode_header(Header(Kind.CHUNK, hop=hop, index=chunk.index, length=chunk.size))
        self._send_frame(link, header, self._state.buffers.place(chunk))
        self._state.sent_bytes += chunk.size
        self._state.mark_sent(chunk)

    def _send_frame(self, link: Link, header: bytes, payload: memoryview) -> None:
        self._state.transfer.check()
        self._header_left, self._payload_left = memoryview(header), len(payload)
        self._write(link, self._header_left)
        self._header_left = memoryview(b"")
        taken = link.sent_bytes
        try:
            self._write(link, payload)
        finally:
            self._payload_left -= link.sent_bytes - taken

    def _write(self, link: Link, data: memoryview) -> None:
        try:
            link.write_all(data, self._state.transfer.stall_s, lambda: self._hear(link))
        except LinkLost:
            with contextlib.suppress(LinkLost):
                self._hear(link)  # a neighbour that hung up may have said why before
            raise

    def _hear(self, link: Link) -> None:
        """Read what the right neighbour has said, which can only be why it gives up."""
        piece = memoryview(bytearray(HEADER_BYTES))
        while count := link.read_some(piece[: HEADER_BYTES - len(self._heard)]):
            self._heard += piece[:count]
            if len(self._heard) == HEADER_BYTES:
                header = decode_header(bytes(self._heard))
                if header.kind != Kind.ABORT:
                    raise WireError(f"it sent {header.kind.name} against the ring's direction")
                raise heard_abort(link, header, self._state)

    def _say_goodbye(self) -> None:
        link, failure = self._link, self._state.transfer.failure
        if link is None:
            return
        if failure is None:
            link.close()  # the socket still delivers what it took, and the neighbour has nothing to say
            return
        until = now_s() + GOODBYE_S
        link.hand_over(None, until)
        with contextlib.suppress(LinkLost, LinkSilent, DeadlinePassed):
            self._finish_frame(link)
            link.write_all(memoryview(abort_frame(failure, self._state)), GOODBYE_S)
        link.hang_up(until)

    def _finish_frame(self, link: Link) -> None:
        """Fill a chunk half sent up with zeros, for the buffers are no longer ours.

        What it says does not matter any more, only the frame behind it does.
        """
        # TLS wants a write that it refused again: a header goes out whole or not at all, so this is the same one.
        link.write_all(self._header_left, GOODBYE_S)
        while self._payload_left > 0:
            padding = memoryview(_ZEROS)[: min(self._payload_left, PIECE_BYTES)]
            link.write_all(padding, GOODBYE_S)
            self._payload_left -= len(padding)
