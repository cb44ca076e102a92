"""A peer whose keys are right and whose frames are the test's: blocking sockets with a bound."""

import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from intellectd.daemon.bulk.frames import HEADER_BYTES, Header, Kind, decode_header, encode_header
from intellectd.daemon.bulk.sealed import SECRET_BYTES, TAG_BYTES, AesGcm, derive_keys
from intellectd.daemon.bulk.wire import HEADER_BYTES as ANSWER_BYTES
from intellectd.daemon.bulk.wire import REQUEST_PREFIX, ChannelRequest, decode_request, encode_request
from intellectd.daemon.bulk.wire import Header as Answer
from intellectd.daemon.bulk.wire import Kind as AnswerKind
from intellectd.daemon.bulk.wire import encode_header as encode_answer
from tests.daemon.bulk_swarm import Outsider, read_exactly
from tests.daemon.channel_hosts import Host

GO = encode_answer(Answer(AnswerKind.GO))


@dataclass
class RawWire:
    connection: socket.socket
    out: AesGcm
    into: AesGcm

    def frame(self, header: Header, payload: bytes = b"") -> bytes:
        """The next frame, sealed; not sent."""
        raw = encode_header(header)
        sealed = bytearray(len(payload) + TAG_BYTES)
        self.out.seal(raw, payload, memoryview(sealed))
        return raw + bytes(sealed)

    def say(self, raw: bytes) -> None:
        self.connection.sendall(raw)

    def hear(self) -> tuple[Header, bytes]:
        raw = read_exactly(self.connection, HEADER_BYTES)
        header = decode_header(raw)
        place = bytearray(header.length)
        sealed = bytearray(read_exactly(self.connection, header.length + TAG_BYTES))
        self.into.open(raw, memoryview(sealed), memoryview(place))
        return header, bytes(place)

    def reset(self) -> None:
        """As the kernel does for a process that was killed with bytes unread."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class ChannelOutsider(Outsider):
    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self.peer = peer

    def channel_to(self, host: Host, wires: tuple[bytes, ...] = ()) -> RawWire:
        mine = os.urandom(SECRET_BYTES)
        tls = self.dial(host.endpoint, encode_request(ChannelRequest(wires)) + mine)
        assert read_exactly(tls, ANSWER_BYTES) == GO
        keys = derive_keys(self.peer, host.peer, mine, read_exactly(tls, SECRET_BYTES))
        return self._raw(tls, keys.from_dialler, keys.from_acceptor)

    def channel_from(self, host: Host) -> RawWire:
        tls = self.accept(host.endpoint)
        (length,) = REQUEST_PREFIX.unpack(read_exactly(tls, REQUEST_PREFIX.size))
        assert isinstance(decode_request(read_exactly(tls, length)), ChannelRequest)
        theirs, mine = read_exactly(tls, SECRET_BYTES), os.urandom(SECRET_BYTES)
        tls.sendall(GO + mine)
        keys = derive_keys(host.peer, self.peer, theirs, mine)
        return self._raw(tls, keys.from_acceptor, keys.from_dialler)

    def _raw(self, tls: ssl.SSLSocket, out: bytes, into: bytes) -> RawWire:
        timeout = tls.gettimeout()
        connection = socket.socket(fileno=tls.detach())
        connection.settimeout(timeout)
        self._open.append(connection)
        return RawWire(connection, AesGcm(out), AesGcm(into))


@contextmanager
def host_and_outsider(host: str = "a", outsider: str = "x") -> Iterator[tuple[Host, ChannelOutsider]]:
    """Who know each other."""
    with ChannelOutsider(outsider) as x:
        a = Host(host)
        try:
            a.know(**{outsider: x.endpoint})
            yield a, x
        finally:
            a.close()


def chunk(length: int, number: int = 0) -> Header:
    return Header(Kind.CHUNK, chunk=number, transfer=1, length=length)
