"""Engines on loopback for the bulk tests: deltas, the dumb reference mean, and events waited for with a bound."""

import functools
import hashlib
import queue
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from intellectd.daemon.bulk.certificate import Identity
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import (
    BulkEvent,
    CollectiveJob,
    Endpoint,
    FetchJob,
    TransferDone,
    TransferFailed,
    TransferProgress,
)
from intellectd.daemon.bulk.sockets import split_address
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name, update_codec

EVENT_S = 60.0  # far above what anything here takes: a test that waits this long has failed
STALL_S = 15.0  # of tests in which nothing stalls, however busy the machine is


def transfer_id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


@dataclass
class Events:
    """What a transfer reported. Called from its thread."""

    inbox: "queue.Queue[BulkEvent]" = field(default_factory=queue.Queue)
    progress: list[TransferProgress] = field(default_factory=list)

    def __call__(self, event: BulkEvent) -> None:
        self.inbox.put(event)

    def next_progress(self) -> TransferProgress:
        event = self.inbox.get(timeout=EVENT_S)
        assert isinstance(event, TransferProgress), event
        return event

    def end(self) -> TransferDone | TransferFailed:
        while True:
            event = self.inbox.get(timeout=EVENT_S)
            if not isinstance(event, TransferProgress):
                return event
            self.progress.append(event)

    def done(self) -> TransferDone:
        end = self.end()
        assert isinstance(end, TransferDone), end
        return end

    def failed(self) -> TransferFailed:
        end = self.end()
        assert isinstance(end, TransferFailed), end
        return end


def encoded_delta(codec: str, elements: int, seed: int) -> bytearray:
    return bytearray(_encoded_delta(codec, elements, seed))


@functools.lru_cache(32)  # most rings are of the same few
def _encoded_delta(codec: str, elements: int, seed: int) -> bytes:
    delta = torch.randn(elements, generator=torch.Generator().manual_seed(seed)) * 1e-3
    out = bytearray(codec_by_name(codec).encoded_bytes(elements))
    assert ops.encode(codec_by_name(codec), delta, ops.as_bytes(out)) is None
    return bytes(out)


def decoded(codec: str, elements: int, encoded: bytes | bytearray) -> torch.Tensor:
    out = torch.empty(elements)
    ops.decode(codec_by_name(codec), ops.as_bytes(encoded), out)
    return out


def mean(codec: str, elements: int, deltas: list[bytearray], weights: tuple[float, ...]) -> torch.Tensor:
    """The dumb reference: everything decoded, summed in fp64, divided."""
    total = torch.zeros(elements, dtype=torch.float64)
    for delta, weight in zip(deltas, weights, strict=True):
        total += weight * decoded(codec, elements, delta).double()
    return total / sum(weights)


@dataclass
class Case:
    """One collective's jobs: deltas by member, and a fresh `out` for each."""

    members: tuple[str, ...]
    codec: str = "int8"
    elements: int = 256 * 1000
    name: str = "ring"
    stall_s: float = STALL_S
    deadline_s: float = 60.0
    schedule: str = "ring"
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.weights = tuple(1000.0 + 500.0 * i for i in range(len(self.members)))
        self.deltas = [encoded_delta(self.codec, self.elements, seed) for seed in range(len(self.members))]
        size = update_codec(codec_by_name(self.codec)).encoded_bytes(self.elements)
        self.outs = [bytearray(size) for _ in self.members]

    def job(self, member: str) -> CollectiveJob:
        i = self.members.index(member)
        return CollectiveJob(
            transfer_id(self.name),
            self.members,
            self.weights,
            self.codec,
            self.elements,
            memoryview(self.deltas[i]).toreadonly(),
            memoryview(self.outs[i]),
            self.stall_s,
            self.deadline_s,
            self.schedule,
            self.shape,
        )

    def start(self, engine: Engine, member: str) -> Events:
        events = Events()
        engine.start_collective(self.job(member), events)
        return events


def fetch_job(peer: str, name: str, into: bytearray, offset: int = 0, stall_s: float = STALL_S) -> FetchJob:
    return FetchJob(transfer_id(name), peer, name, offset, memoryview(into), stall_s, 60.0)


@contextmanager
def swarm(*peers: str, near: bool = False) -> Iterator[dict[str, Engine]]:
    """An engine for each peer, all trusting each other."""
    engines = {peer: Engine(peer, "127.0.0.1:0", near=near) for peer in peers}
    try:
        trust_all(engines)
        yield engines
    finally:
        for engine in engines.values():
            engine.close()


def trust_all(engines: dict[str, Engine], **others: Endpoint) -> None:
    for engine in engines.values():
        engine.trust({peer: other.endpoint for peer, other in engines.items()} | others)


class Outsider:
    """A peer whose TLS is right and whose behaviour is the test's: blocking sockets with a bound."""

    def __init__(self, peer: str) -> None:
        self.identity = Identity(peer)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(EVENT_S)
        port = self.listening.getsockname()[1]
        self.endpoint = Endpoint(f"127.0.0.1:{port}", self.identity.certificate)
        self._open: list[socket.socket] = [self.listening]

    def __enter__(self) -> "Outsider":
        return self

    def __exit__(self, *_error: object) -> None:
        for connection in self._open:
            connection.close()
        self.identity.close()

    def dial(self, endpoint: Endpoint, first: bytes = b"") -> ssl.SSLSocket:
        """Connected to an engine that has been sent `first`."""
        plain = socket.create_connection(split_address(endpoint.address), timeout=EVENT_S)
        self._open.append(plain)
        tls = self.identity.context(False, [endpoint.certificate]).wrap_socket(plain)
        self._open.append(tls)
        tls.sendall(first)
        return tls

    def accept(self, *trusted: Endpoint) -> ssl.SSLSocket:
        plain, _address = self.listening.accept()
        self._open.append(plain)
        plain.settimeout(EVENT_S)
        context = self.identity.context(True, [endpoint.certificate for endpoint in trusted])
        tls = context.wrap_socket(plain, server_side=True)
        self._open.append(tls)
        return tls


def reset(connection: ssl.SSLSocket) -> None:
    """Close as the kernel does for a process that was killed with bytes unread: by a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_exactly(connection: socket.socket, count: int) -> bytes:
    raw = b""
    while len(raw) < count:
        piece = connection.recv(count - len(raw))
        assert piece, f"the connection ended after {len(raw)} of {count} bytes"
        raw += piece
    return raw


def closed(connection: socket.socket) -> bool:
    """Whether the other end hangs up, in time, after whatever it still says."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
