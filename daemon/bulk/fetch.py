"""One fetch: a range of a peer's object, copied into a buffer of the app's.

Owns the asking side of a GET and its terminal event. What arrives is authenticated as the peer's, not as right:
the app checks it against a root hash.
"""

from collections.abc import Callable

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.dial import Dialler
from intellectd.daemon.bulk.errors import (
    Busy,
    DeadlinePassed,
    Declined,
    LinkSilent,
    Stopped,
    WireError,
    failure_of,
)
from intellectd.daemon.bulk.interface import FetchJob, OnBulkEvent
from intellectd.daemon.bulk.limits import PROGRESS_EACH_CHUNKS_MAX, SERVE_BURST_BYTES
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.transfer import Transfer
from intellectd.daemon.bulk.wire import (
    HEADER_BYTES,
    PACKED,
    GetRequest,
    Header,
    Kind,
    Refusal,
    decode_header,
    encode_request,
)
from intellectd.protocol.pieces import PATIENCE_S


class Fetch:
    """`run` is its thread. `forget` is called before the terminal event, when the buffer has been let go."""

    def __init__(self, job: FetchJob, dialler: Dialler, on_event: OnBulkEvent, forget: Callable[[], None]) -> None:
        if job.into.readonly:
            raise ValueError(f"{job.object_name} cannot be fetched into a read-only buffer")
        self.transfer = Transfer(job.fetch_id, job.stall_s, job.deadline_s, on_event)
        self._peer = job.peer
        self._request = GetRequest(job.object_name, job.offset, job.into.nbytes)
        encode_request(self._request)  # a name that does not fit is the caller's mistake: say so at once
        self._into: memoryview | None = job.into.cast("B")
        self._dialler = dialler
        self._forget = forget
        self._link: Link | None = None

    def run(self) -> None:
        transfer = self.transfer
        try:
            self._copy()
        except Stopped:
            pass  # whoever stopped the transfer has said why
        except Exception as error:  # this host's own faults too: the app waits for an event
            transfer.fail(failure_of(error, self._peer))
        link, self._into = self._link, None
        if link is not None:
            link.close()
        self._forget()
        try:
            transfer.report_end(link.sent_bytes if link else 0, link.received_bytes if link else 0)
        finally:
            transfer.thread_ends()

    def _copy(self) -> None:
        transfer, into = self.transfer, self._into
        assert into is not None
        link, answer = self._dialler.dial(self._peer, self._request, transfer)
        self._link = link
        link.hand_over(transfer.stop, transfer.deadline)
        checked_answer(answer, self._request)
        each = len(into) <= PROGRESS_EACH_CHUNKS_MAX * SERVE_BURST_BYTES
        for start in range(0, len(into), SERVE_BURST_BYTES):
            piece = into[start : start + SERVE_BURST_BYTES]
            self._read_soon(link, piece)
            transfer.progress(start + len(piece), len(into), always=each)
        end = decode_header(link.read_bytes(HEADER_BYTES, transfer.stall_s))
        if end.kind != Kind.END:
            raise WireError(f"{end.kind.name} where the object ends")

    def _read_soon(self, link: Link, piece: memoryview) -> None:
        """One that sends a byte now and then never stalls, and is no donor."""
        until = now_s() + PATIENCE_S
        link.limit(min(until, self.transfer.deadline))
        try:
            link.read_exactly(piece, self.transfer.stall_s)
        except DeadlinePassed:
            if now_s() > self.transfer.deadline:
                raise
            raise LinkSilent(f"no {len(piece)} bytes came in {PATIENCE_S:g} s") from None
        link.limit(self.transfer.deadline)


def checked_answer(answer: Header, wanted: GetRequest, may_be_packed: bool = False) -> None:
    """Raises Declined or WireError unless what was asked for follows."""
    if answer.kind == Kind.REFUSED:
        refused = Busy if answer.flag == Refusal.BUSY else Declined
        raise refused(_refusal(answer.flag, wanted))
    if answer.kind != Kind.OBJECT or answer.length != wanted.length or answer.flag > (PACKED if may_be_packed else 0):
        raise WireError(f"{answer.kind.name} of {answer.length} bytes, asked for {wanted.length} of an object")


def _refusal(flag: int, wanted: GetRequest) -> str:
    match flag:
        case Refusal.UNKNOWN_OBJECT:
            return f"it has no {wanted.object_name}; ask another donor"
        case Refusal.BAD_RANGE:
            return f"its {wanted.object_name} has no {wanted.length} bytes at {wanted.offset}"
        case Refusal.BUSY:
            return "it serves as many as it can; ask again later, or another donor"
    return f"it refused {wanted.object_name}, for reason {flag} that this version does not know"
