"""The bulk plane as the rest of the daemon sees it: collectives and fetches, with progress, failure and abort.

Owns the vocabulary between the app and the engine. Refuses to know rounds, records and votes: a transfer is
named by the hash of what it computes. Callbacks come from worker threads; the app marshals them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

TransferId = bytes  # 32 bytes


@dataclass(frozen=True)
class Endpoint:
    """Where a peer's bulk engine listens, and the DER certificate to pin, both from its signed beacon."""

    address: str  # "host:port"; "" of one that nobody can dial
    certificate: bytes


@dataclass(frozen=True)
class CollectiveJob:
    """One all-reduce: `members` in the schedule's order, this host included.

    `own` is this host's encoded delta (uint8, codec layout of `elements`), read-only; `out` receives the mean of the
    members, encoded in the codec's `update_codec`, the same bytes on every one. Slices are cut at multiples of
    kernels GROUP.
    """

    transfer_id: TransferId
    members: tuple[str, ...]
    weights: tuple[float, ...]  # tokens, by member
    codec: str
    elements: int
    own: memoryview
    out: memoryview
    stall_s: float  # nothing of a neighbour for this long: the transfer fails
    deadline_s: float  # the whole transfer
    schedule: str = "ring"  # "ring", "direct" or "torus"
    shape: tuple[int, ...] = ()  # of a torus its rows; of a direct exchange each member's share, or equal ones


@dataclass(frozen=True)
class FetchJob:
    """Copy `length` bytes of `object_name` from `peer` into `into` (len(into) == length)."""

    fetch_id: TransferId
    peer: str
    object_name: str  # e.g. "update/<root hex>" or "snapshot/<run key hex>/<round>/state"
    offset: int
    into: memoryview
    stall_s: float
    deadline_s: float


@dataclass(frozen=True)
class PiecesJob:
    """Copy `object_name` from all of `donors` at once into `into`, piece by piece. Piece i is the bytes from borders[i]
    to borders[i + 1] and counts if its leaf_hash is hashes[i]; those in `have` lie in `into` already. `on_piece` is
    called in worker threads when one has been put into its place. `fellows` fetch it, too: what each holds of it is in
    their `held_name`, a bit for each piece, the lowest first. `start`: the piece that is asked for first if there
    are none."""

    fetch_id: TransferId
    donors: tuple[str, ...]
    object_name: str
    into: memoryview
    borders: tuple[int, ...]
    hashes: tuple[bytes, ...]
    have: tuple[int, ...]
    on_piece: Callable[[int], None]
    stall_s: float
    deadline_s: float
    fellows: tuple[str, ...] = ()
    held_name: str = ""
    start: int = 0
    floats: bool = False  # of fp32, which a slow donor is asked to pack


@dataclass(frozen=True)
class ProbeJob:
    """Send `peer` at most `bytes_max` bytes that mean nothing, to learn what its link carries. Collectives go first:
    none begins while one runs, and it fails when one begins."""

    probe_id: TransferId
    peer: str
    bytes_max: int
    stall_s: float
    deadline_s: float


@dataclass(frozen=True)
class LinkSeen:
    """What this host's sending to a peer has shown, one way, from here."""

    peer: str
    bytes_per_s: float  # while there was something to send, above 0
    rtt_s: float  # the least lately seen
    streams: int
    limit: str  # what held it back: "bbr", "loss", "sndbuf", "rwnd", "host", "pace" or "app", see streams.diagnosed


@dataclass(frozen=True)
class PeerLink:
    """How the bulk planes of this host and one peer reach each other, and what is known of the way there. Ages are in
    seconds; None is never, in this process's life, or not known."""

    wires: int = 0  # that stand now
    came_s: float | None = None  # since it last reached this host and proved who it is
    reached_s: float | None = None  # since this host last reached it
    address: str = ""  # where this host tried last
    failure: str = ""  # of this host's last attempt, "" if that succeeded
    bytes_per_s: float | None = None
    rtt_s: float | None = None
    limit: str = ""
    measured_s: float | None = None


@dataclass(frozen=True)
class TransferProgress:
    transfer_id: TransferId
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class TransferDone:
    transfer_id: TransferId
    sent_bytes: int  # on the wire as given to the socket, headers included
    received_bytes: int
    seconds: float
    links: tuple[LinkSeen, ...] = ()  # what it showed of those it sent to, if it sent enough to tell


@dataclass(frozen=True)
class TransferFailed:
    """`suspect` is the peer whose connection broke, refused or fell silent; None when nobody in particular."""

    transfer_id: TransferId
    suspect: str | None
    reason: str
    silent: bool  # True: no progress in time. False: the connection said so (reset, refused, garbage)
    links: tuple[LinkSeen, ...] = ()  # as of a TransferDone


@dataclass(frozen=True)
class DonorLost:
    """One of several donors sent what is not right. The fetch goes on without it."""

    transfer_id: TransferId
    peer: str
    reason: str


BulkEvent = TransferProgress | TransferDone | TransferFailed | DonorLost
OnBulkEvent = Callable[[BulkEvent], None]


class ServedObject(Protocol):
    """Bytes that need not be in memory."""

    @property
    def nbytes(self) -> int: ...

    def part(self, start: int, stop: int) -> memoryview:
        """Of bytes [start, stop) as many as are at hand together from the first on, at least one. Any thread. Raises
        OSError."""
        ...


# Called in a worker thread with (peer id, object name); None means "not here".
ObjectProvider = Callable[[str, str], "memoryview | ServedObject | None"]


@dataclass(frozen=True)
class MemoryObject:
    """A ServedObject."""

    view: memoryview

    @property
    def nbytes(self) -> int:
        return self.view.nbytes

    def part(self, start: int, stop: int) -> memoryview:
        return self.view[start:stop]


def served(found: memoryview | ServedObject) -> ServedObject:
    return MemoryObject(found.cast("B")) if isinstance(found, memoryview) else found


def whole(found: memoryview | ServedObject) -> bytes:
    """All of it, for what is small. Raises OSError."""
    data, parts, start = served(found), list[memoryview](), 0
    while start < data.nbytes:
        parts.append(data.part(start, data.nbytes))
        start += len(parts[-1])
    return b"".join(parts)


class BulkEngine(Protocol):
    @property
    def endpoint(self) -> Endpoint: ...

    def trust(self, peers: dict[str, Endpoint]) -> None:
        """Replace the table of peers that may connect and be dialled (at most 1,024)."""
        ...

    def start_collective(self, job: CollectiveJob, on_event: OnBulkEvent) -> None: ...

    def start_fetch(self, job: FetchJob, on_event: OnBulkEvent) -> None: ...

    def start_pieces(self, job: PiecesJob, on_event: OnBulkEvent) -> None: ...

    def offer(self, fetch_id: TransferId, donors: tuple[str, ...], fellows: tuple[str, ...] = ()) -> None:
        """They serve what is being fetched in pieces, or fetch it, too. Does nothing when that is not under way."""
        ...

    def start_probe(self, job: ProbeJob, on_event: OnBulkEvent) -> None: ...

    def links(self) -> dict[str, PeerLink]:
        """Of every peer with which there was any contact, or an attempt; at most 1,024."""
        ...

    def relayed(self) -> tuple[int, int]:
        """(Pairs of peers that this host joins now, bytes that it has passed on between such.)"""
        ...

    def abort(self, transfer_id: TransferId) -> None:
        """End a transfer within a second; its buffers are not touched after the TransferFailed that follows."""
        ...

    def serve(self, provider: ObjectProvider) -> None: ...

    def close(self) -> None: ...
