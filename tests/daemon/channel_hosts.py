"""Hosts with channels on loopback for the tests: a listener, a trust table, and a handler that writes down."""

import queue
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.certificate import Identity
from intellectd.daemon.bulk.channel import Channel
from intellectd.daemon.bulk.channels import Channels
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.frames import Header, Incoming, Kind
from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.listener import Listener
from intellectd.daemon.bulk.pace import UNLIMITED, Pace
from intellectd.daemon.bulk.sockets import listen, public_address
from intellectd.daemon.bulk.streams import Streams
from intellectd.daemon.bulk.trust import TrustTable
from intellectd.daemon.bulk.wire import ChannelRequest, Request

WAIT_S = 60.0  # far above what anything here takes: a test that waits this long has failed
STALL_S = 15.0

Word = tuple[object, ...]  # ("found", peer), ("lost", peer, reason, refused), ("control", peer, header, payload) ...


@dataclass
class Piece:
    """A chunk to send: frames.Outgoing."""

    header: Header
    payload: bytes | memoryview
    over: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    filled: threading.Event = field(default_factory=threading.Event)

    def fill(self, seal: Callable[[memoryview], None], _room: memoryview) -> bool:
        if self.over:
            return False
        seal(memoryview(self.payload))
        self.filled.set()
        return True

    def moved(self) -> None: ...

    def sent(self) -> None:
        self.done.set()


def piece(payload: bytes | memoryview, chunk: int = 0, transfer: int = 1) -> Piece:
    return Piece(Header(Kind.CHUNK, chunk=chunk, transfer=transfer, length=len(payload)), payload)


class Diary:
    """frames.Handler: every word in one queue; chunks are kept by number."""

    def __init__(self) -> None:
        self.words: queue.Queue[Word] = queue.Queue()
        self._lock = threading.Lock()
        self.chunks: dict[int, bytes] = {}
        self.unwanted: set[int] = set()  # chunks that are read and dropped
        self.gate = threading.Event()  # cleared: on_chunk waits
        self.gate.set()
        self.at_gate = 0  # readers that wait there
        self.threads: set[str] = set()
        self.progress = 0

    def on_control(self, peer: str, header: Header, payload: bytes) -> None:
        self.words.put(("control", peer, header, payload))

    def wants(self, _peer: str, header: Header) -> bool:
        return header.chunk not in self.unwanted

    def on_bytes(self, _peer: str, _header: Header, _count: int) -> None:
        self.progress += 1

    def pass_gate(self) -> None:
        with self._lock:
            self.at_gate += 1
        assert self.gate.wait(WAIT_S)
        with self._lock:
            self.at_gate -= 1

    def on_chunk(self, peer: str, header: Header, incoming: Incoming) -> None:
        self.pass_gate()
        place = bytearray(header.length)
        incoming.open_into(memoryview(place))
        self.chunks[header.chunk] = bytes(place)
        self.threads.add(threading.current_thread().name)
        self.words.put(("chunk", peer, header.chunk))

    def on_lost(self, peer: str, reason: str, refused: bool) -> None:
        self.words.put(("lost", peer, reason, refused))

    def on_found(self, peer: str) -> None:
        self.words.put(("found", peer))

    def next(self, *kinds: str) -> Word:
        """The next word of one of these kinds; others are passed over."""
        while True:
            word = self.words.get(timeout=WAIT_S)
            if word[0] in kinds:
                return word

    def await_chunks(self, count: int) -> None:
        while len(self.chunks) < count:
            self.next("chunk")


def one(_congestion: str, _rtt_s: float | None, _buffer_bytes: int) -> Streams:
    """So that a test knows how many wires there are."""
    return Streams()


class Host:
    def __init__(
        self,
        peer: str,
        *,
        sealed: bool = True,
        pace: Pace = UNLIMITED,
        at: str = "127.0.0.1:0",
        diary: Diary | None = None,
        near: bool = False,
    ) -> None:
        self.peer = peer
        self.identity = Identity(peer)
        self.trust = TrustTable(self.identity)
        self.crew = Crew()
        self.diary = diary or Diary()
        self.channels = Channels(
            peer, self.trust, self.crew, self.diary, sealed=sealed, pace=pace, first=one, near=near
        )
        listening = listen(at)
        self.endpoint = Endpoint(public_address(listening), self.identity.certificate)
        self._listener = Listener(listening, self.trust, self.crew, self._dispatch)
        self.crew.start("listen", self._listener.run)
        self._open = True

    def know(self, *others: "Host", **endpoints: Endpoint) -> None:
        self.trust.replace({other.peer: other.endpoint for other in others} | endpoints)
        self.channels.recheck()

    def wires(self, peer: str) -> int:
        return len(self.channels._channel(peer).wires)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._listener.close()
            self.channels.close()
            assert self.crew.join(WAIT_S) == []
            self.identity.close()

    def _dispatch(self, link: Link, request: Request) -> None:
        assert isinstance(request, ChannelRequest)
        self.channels.accept(link, request)


@contextmanager
def hosts(*peers: str, sealed: bool = True, pace: Pace = UNLIMITED, near: bool = False) -> Iterator[list[Host]]:
    """Hosts that know each other."""
    made = [Host(peer, sealed=sealed, pace=pace, near=near) for peer in peers]
    try:
        for host in made:
            host.know(*[other for other in made if other is not host])
        yield made
    finally:
        for host in made:
            host.close()


def takes_more(channel: Channel) -> bool:
    """Whether the kernel would take another byte for any of its wires."""
    poll = select.poll()
    for wire in channel.wires:
        poll.register(wire._socket.fileno(), select.POLLOUT)
    return bool(poll.poll(0))


def eventually(condition: Callable[[], bool]) -> None:
    """For what no event tells of: asked again until it holds or WAIT_S is over."""
    pause, until = threading.Event(), now_s() + WAIT_S
    while not condition():
        assert now_s() < until, "it did not come to hold"
        pause.wait(0.005)
