"""What the libp2p adapter and its in-memory twin do alike of `daemon.net.Network`.

Owns the joints between rpc, bootstrap and address book: what dialling means, who is told of a disconnect.
Refuses to know what a connection is made of; the two subclasses do.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

import trio

from intellectd.daemon.net import (
    BadAddress,
    CallHandler,
    Contact,
    DisconnectHandler,
    PeerUnreachable,
    PostHandler,
    TrafficHandler,
)
from intellectd.daemon.p2p.addresses import Address, parse_dialable
from intellectd.daemon.p2p.book import AddressBook
from intellectd.daemon.p2p.bootstrap import Bootstrapper
from intellectd.daemon.p2p.rpc import Rpc, is_peer_id
from intellectd.daemon.p2p.streams import Transport
from intellectd.daemon.p2p.wire import Preamble

INBOUND_REMEMBERED_MAX = 1024  # as many as may be members

log = logging.getLogger("intellectd.p2p")


class RpcNetwork(ABC):
    def __init__(
        self,
        peer_id: str,
        transport: Transport,
        book: AddressBook,
        nursery: trio.Nursery,
        preamble: Preamble | None,
    ) -> None:
        self._peer_id = peer_id
        self._book = book
        self._nursery = nursery
        self._rpc = Rpc(transport, nursery, preamble)
        self._is_wanted: Callable[[str], bool] = self._rpc.speaks_to
        self._inbound: dict[str, float] = {}  # who came last stands last
        self._on_disconnect: list[DisconnectHandler] = []
        self._bootstrapper = Bootstrapper(peer_id, self._meet, self.connected, nursery)
        nursery.start_soon(self._bootstrapper.run)

    @abstractmethod
    def connected(self) -> list[str]: ...

    @abstractmethod
    def directory_peers(self) -> int: ...

    @abstractmethod
    async def _reach(self, target: Address) -> None:
        """Have a connection to the peer at this address. Raises NetworkError."""

    @abstractmethod
    async def _met(self, peer: str) -> None:
        """The peer answered as one of ours: it belongs in the directory."""

    @abstractmethod
    async def _meet(self, target: Address) -> None:
        """Reach a bootstrap address and join the directory through it. Raises NetworkError."""

    @abstractmethod
    async def _drop(self, peer: str) -> None:
        """Close all connections to the peer and take it out of the directory."""

    @property
    def peer_id(self) -> str:
        return self._peer_id

    async def dial(self, address: str, timeout_s: float) -> str:
        target = parse_dialable(address)
        if target.peer == self._peer_id:
            raise BadAddress(f"{address} is this host's own address")
        deadline = trio.current_time() + timeout_s
        with trio.move_on_after(timeout_s) as scope:
            await self._reach(target)
        if scope.cancelled_caught:
            raise PeerUnreachable(f"{address} did not answer within {timeout_s:g} s")
        self._book.learn(target.peer, [address])
        await self._rpc.greet(target.peer, max(0.0, deadline - trio.current_time()))
        await self._met(target.peer)
        return target.peer

    def learn(self, peer: str, addresses: list[str]) -> None:
        if peer != self._peer_id and is_peer_id(peer) and self._book.learn(peer, addresses):
            if peer in self.connected():
                self._book.met(peer)
            self._rpc.reachable(peer)

    def post(self, peer: str, body: bytes) -> bool:
        return self._rpc.post(peer, body)

    async def call(self, peer: str, method: str, body: bytes, timeout_s: float) -> bytes:
        return await self._rpc.call(peer, method, body, timeout_s)

    def on_post(self, handler: PostHandler) -> None:
        self._rpc.on_post(handler)

    def on_call(self, method: str, handler: CallHandler) -> None:
        self._rpc.on_call(method, handler)

    def on_disconnect(self, handler: DisconnectHandler) -> None:
        self._on_disconnect.append(handler)

    def on_traffic(self, handler: TrafficHandler) -> None:
        self._rpc.on_traffic(handler)

    def on_mismatch(self, handler: Callable[[], None]) -> None:
        self._rpc.on_mismatch(handler)

    def keep(self, is_wanted: Callable[[str], bool]) -> None:
        self._is_wanted = is_wanted

    def came(self) -> dict[str, float]:
        return dict(self._inbound)

    def contact(self, peer: str) -> Contact:
        return self._rpc.contact(peer)

    async def evict(self, peer: str) -> None:
        if is_peer_id(peer) or peer in self.connected():  # a stranger may have another kind of key
            await self._drop(peer)
            await self._rpc.ended(peer)

    async def bootstrap(self, addresses: list[str]) -> None:
        """More addresses to meet the swarm through, tried in the background. Raises BadAddress."""
        self._bootstrapper.add(addresses)

    def _came(self, peer: str) -> None:
        self._book.met(peer)
        self._rpc.reachable(peer)

    def _came_in(self, peer: str) -> None:
        """It was the peer that dialled."""
        self._inbound.pop(peer, None)
        self._inbound[peer] = trio.current_time()
        if len(self._inbound) > INBOUND_REMEMBERED_MAX:
            del self._inbound[next(iter(self._inbound))]

    def _went(self, peer: str) -> None:
        for handler in self._on_disconnect:
            try:
                handler(peer)
            except Exception:
                log.exception("a handler of disconnects failed on %s", peer)
        if not self.connected():
            self._bootstrapper.hurry()
