"""libp2p's connections and streams in the shape that `daemon.p2p.rpc` wants.

Owns opening a stream to a peer, hanging up, and the news of who came and went. Refuses to know frames.
"""

import logging
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import INotifee
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction

from intellectd.daemon.net import PeerUnreachable
from intellectd.daemon.p2p.dialer import Dialer, is_ending
from intellectd.daemon.p2p.limits import (
    CONNECTIONS_MAX,
    FREE_CONNECTIONS_MIN,
    STREAM_CHUNK_BYTES,
    STREAM_OPEN_SECONDS_MAX,
)
from intellectd.daemon.p2p.streams import ByteStream, StreamEnded, WriteStuck

RPC_PROTOCOL = "/intellectd/rpc"  # without a version: the preamble compares versions, and can name both
log = logging.getLogger("intellectd.p2p")


class Libp2pStream:
    """A libp2p stream as a ByteStream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def read(self) -> bytes:
        try:
            data: bytes = await self._stream.read(STREAM_CHUNK_BYTES)
        except Exception as error:  # its exceptions for a closed stream have no common base
            raise StreamEnded(type(error).__name__) from error
        if not data:
            raise StreamEnded("end of stream")
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except Exception as error:
            if "waiting for window update" in str(error.__cause__ or error):
                raise WriteStuck("it has not read for 5 s") from error  # yamux's own patience
            raise StreamEnded(type(error).__name__) from error

    async def finish(self) -> None:
        try:
            await self._stream.close_write()
        except Exception as error:
            raise StreamEnded(type(error).__name__) from error

    async def reset(self) -> None:
        try:
            await self._stream.reset()
        except Exception as error:
            log.debug("a stream could not be reset, so it is gone already: %r", error)


class Connections(INotifee):  # type: ignore[misc]
    """Who is connected, over what; the Transport of our rpc."""

    def __init__(self, host: Any, dialer: Dialer, nursery: trio.Nursery) -> None:
        self._host = host
        self._swarm = host.get_network()
        self._dialer = dialer
        self._nursery = nursery
        self._up: dict[str, None] = {}
        self._inbound: dict[Any, str] = {}  # connections to their peers, the oldest first
        self._parting: set[Any] = set()  # connections that are being closed to make room
        self.is_guest: Callable[[str], bool] = lambda peer: False  # nothing would be lost if it left
        self.on_up: Callable[[str], None] = lambda peer: None
        self.on_inbound: Callable[[str], None] = lambda peer: None
        self.on_down: Callable[[str], None] = lambda peer: None
        self._swarm.register_notifee(self)

    def peers(self) -> list[str]:
        return [peer for peer in self._up if self._dialer.live(peer)]

    # -- Transport

    async def open_stream(self, peer: str) -> ByteStream:
        try:
            return await self._open_stream(peer)
        except PeerUnreachable:
            # A connection may end at the very moment it is used. Then, once, a new one.
            if self._dialer.live(peer):
                raise
            return await self._open_stream(peer)

    async def _open_stream(self, peer: str) -> ByteStream:
        await self._dialer.connect(peer)
        with trio.move_on_after(STREAM_OPEN_SECONDS_MAX):
            try:
                return Libp2pStream(await self._host.new_stream(ID.from_string(peer), [RPC_PROTOCOL]))
            except Exception as error:
                raise PeerUnreachable(f"{peer} opens no {RPC_PROTOCOL} stream: {error}") from error
        # The connection is open for TCP only: a frozen host, or a firewall that forgot about it. Without it
        # the next attempt dials anew.
        self.hang_up(peer, f"opened no stream within {STREAM_OPEN_SECONDS_MAX:g} s")
        raise PeerUnreachable(f"{peer} is connected but opens no stream")

    def hang_up(self, peer: str, reason: str) -> None:
        connections = self._dialer.live(peer)
        if connections and reason:
            log.warning("hung up on %s: %s", peer, reason)
        for connection in connections:
            self._nursery.start_soon(_close, connection)

    async def drop(self, peer: str) -> None:
        async with trio.open_nursery() as nursery:
            for connection in self._dialer.live(peer):
                nursery.start_soon(_close, connection)

    def abort_all(self) -> None:
        """At the end: whatever still writes to anybody must not hold up the shutdown."""
        for connection in self._swarm.get_connections():
            _abort(connection)

    # -- INotifee

    async def connected(self, network: Any, conn: Any) -> None:
        peer = str(conn.muxed_conn.peer_id)
        self._up[peer] = None
        self._dialer.came(peer)
        self._nursery.start_soon(self._watch, peer, conn)
        if conn.direction is Direction.INBOUND:
            self._inbound[conn] = peer
            self._tell(self.on_inbound, peer)
        self._tell(self.on_up, peer)
        self._make_room()

    async def _watch(self, peer: str, conn: Any) -> None:
        """`disconnected` comes a fifth of a second late, when a restarted peer may be connected again."""
        await conn.muxed_conn.event_shutting_down.wait()
        self._inbound.pop(conn, None)
        self._parting.discard(conn)
        if peer in self._up and not self._dialer.live(peer):
            del self._up[peer]
            self._tell(self.on_down, peer)

    def _make_room(self) -> None:
        """For those who come next: of the strangers that are only here, who came first goes."""
        # Those whose end has begun stay in the swarm's table for a fifth of a second: counted, they would cost others.
        staying = [conn for conn in self._swarm.get_connections() if conn not in self._parting and not is_ending(conn)]
        excess = len(staying) - (CONNECTIONS_MAX - FREE_CONNECTIONS_MIN)
        if excess <= 0:
            return
        guests = [conn for conn, peer in self._inbound.items() if conn not in self._parting and self.is_guest(peer)]
        for conn in guests[:excess]:
            log.debug("closed a connection of %s: there are too many", self._inbound[conn])
            self._parting.add(conn)
            self._nursery.start_soon(_close, conn)

    async def disconnected(self, network: Any, conn: Any) -> None: ...

    def _tell(self, listener: Callable[[str], None], peer: str) -> None:
        try:
            listener(peer)
        except Exception:
            log.exception("a listener for connections failed on %s", peer)

    async def opened_stream(self, network: Any, stream: Any) -> None: ...

    async def closed_stream(self, network: Any, stream: Any) -> None: ...

    async def listen(self, network: Any, multiaddr: Any) -> None: ...

    async def listen_close(self, network: Any, multiaddr: Any) -> None: ...


async def _close(connection: Any) -> None:
    """The socket first: a polite goodbye waits for a lock that a stuck write may hold."""
    _abort(connection)
    try:
        await connection.close()
    except Exception as error:
        log.debug("closing a connection: %r", error)


def _abort(connection: Any) -> None:
    try:
        noise = connection.muxed_conn.secured_conn.conn
        noise.read_writer.read_write_closer.stream.stream.socket.close()
    except Exception as error:
        log.debug("a connection has no socket to close: %r", error)
