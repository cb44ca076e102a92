"""Calls and posts to and from all peers, over whatever transport.

Owns the table of links (ours, one per peer) and of served streams (theirs, one per peer). Refuses to know
libp2p: the in-memory twin runs this very code over streams of its own.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import trio

from intellectd.daemon.net import (
    MESSAGE_BYTES_MAX,
    CallHandler,
    Contact,
    PeerUnreachable,
    PostHandler,
    TrafficHandler,
)
from intellectd.daemon.p2p.limits import METHOD_CHARS_MAX, PEERS_KNOWN_MAX, WRITE_SECONDS_MAX
from intellectd.daemon.p2p.link import Link
from intellectd.daemon.p2p.serve import Handlers, Serving
from intellectd.daemon.p2p.streams import ByteStream, Transport
from intellectd.daemon.p2p.traffic import CountedStream, CountedTransport
from intellectd.daemon.p2p.versions import Versions
from intellectd.daemon.p2p.wire import PING, Preamble
from intellectd.daemon.peer_id import PEER_ID_CHARS_MAX, public_key_of_peer_id

log = logging.getLogger("intellectd.p2p")


class Rpc:
    def __init__(self, transport: Transport, nursery: trio.Nursery, preamble: Preamble | None = None) -> None:
        self._on_traffic: list[TrafficHandler] = []
        self._transport = CountedTransport(transport, self._count)
        self._nursery = nursery
        self._versions = Versions(preamble or Preamble())
        self._handlers = Handlers()
        self._links: dict[str, Link] = {}
        self._served: dict[str, trio.CancelScope] = {}
        self._closed = False

    def on_post(self, handler: PostHandler) -> None:
        self._handlers.posts.append(handler)

    def on_call(self, method: str, handler: CallHandler) -> None:
        if not 0 < len(method) <= METHOD_CHARS_MAX:
            raise ValueError(f"a method's name has 1 to {METHOD_CHARS_MAX} characters, not {method!r}")
        if method in self._handlers.calls or method == PING:
            raise ValueError(f"the method {method!r} already has a handler")
        self._handlers.calls[method] = handler

    def on_traffic(self, handler: TrafficHandler) -> None:
        self._on_traffic.append(handler)

    def on_mismatch(self, handler: Callable[[], None]) -> None:
        self._versions.on_mismatch.append(handler)

    def contact(self, peer: str) -> Contact:
        link = self._links.get(peer)
        return replace(link.contact if link is not None else Contact(), refused=self._versions.refused(peer))

    def post(self, peer: str, body: bytes) -> bool:
        _check_size(body)
        try:
            return self._link(peer).post(body)
        except PeerUnreachable:
            return False

    async def call(self, peer: str, method: str, body: bytes, timeout_s: float) -> bytes:
        _check_size(body)
        return await self._link(peer).call(method, body, timeout_s)

    async def greet(self, peer: str, timeout_s: float) -> None:
        """Have a stream open and the versions compared. Raises NetworkError."""
        await self._link(peer).opened(timeout_s)

    async def serve(self, peer: str, stream: ByteStream) -> None:
        """Serve a stream that a peer opened, until it ends. A second one replaces the first."""
        before = self._served.pop(peer, None)
        if before is not None:
            before.cancel()
        with trio.CancelScope() as scope:
            self._served[peer] = scope
            try:
                counted = CountedStream(stream, self._count)
                await Serving(peer, counted, self._transport, self._handlers).run(self._versions)
            finally:
                if self._served.get(peer) is scope:
                    del self._served[peer]

    async def ended(self, peer: str) -> None:
        """Return once no stream of ours to the peer is left, after its connections were closed."""
        if peer in self._links:
            with trio.move_on_after(WRITE_SECONDS_MAX):
                await self._links[peer].ended()

    def speaks_to(self, peer: str) -> bool:
        """Did this host have anything to say to the peer, of its own accord?"""
        return peer in self._links

    def reachable(self, peer: str) -> None:
        """There is news of the peer: whatever waits for a redial need not wait any longer."""
        if peer in self._links and not self._closed:
            self._links[peer].hurry()

    def close(self) -> None:
        self._closed = True
        for link in self._links.values():
            link.close()

    def _count(self, direction: Literal["in", "out"], size: int) -> None:
        for handler in self._on_traffic:
            handler(direction, size)

    def _link(self, peer: str) -> Link:
        if self._closed:
            raise PeerUnreachable("this host is shutting down")
        link = self._links.get(peer)
        if link is None:
            if not is_peer_id(peer):
                raise PeerUnreachable(f"{peer[:PEER_ID_CHARS_MAX]!r} is no peer id")
            if len(self._links) >= PEERS_KNOWN_MAX:
                self._links = {p: kept for p, kept in self._links.items() if not kept.idle}
            link = self._links[peer] = Link(peer, self._transport, self._nursery, self._versions)
        return link


def is_peer_id(text: str) -> bool:
    try:
        return len(public_key_of_peer_id(text)) > 0
    except ValueError:
        return False


def _check_size(body: bytes) -> None:
    if len(body) > MESSAGE_BYTES_MAX:
        raise ValueError(f"a message has {len(body)} bytes, the limit is {MESSAGE_BYTES_MAX}; use the bulk plane")
