"""The control plane in memory: the interface of `daemon.net` with links that can be cut and slowed.

Owns a hub in place of the internet and of the DHT. The rpc over it is the real one, so errors, bounds and
versions behave alike. Refuses to know a clock: latency and timeouts are trio's, which tests may jump.
Unlike the DHT, it forgets the announcements of a dead host at once.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from intellectd.daemon.memory_pipe import End, MemoryStream, Wire, connect
from intellectd.daemon.net import AddressInUse, PeerUnreachable
from intellectd.daemon.p2p.addresses import Address, advertised, parse_announce, parse_dialable, parse_listen
from intellectd.daemon.p2p.book import AddressBook
from intellectd.daemon.p2p.keys import Announced, key_bytes
from intellectd.daemon.p2p.limits import DIAL_SECONDS_MAX, QUERY_SECONDS_MAX
from intellectd.daemon.p2p.network import RpcNetwork
from intellectd.daemon.p2p.streams import ByteStream
from intellectd.daemon.p2p.wire import Preamble
from intellectd.daemon.peer_id import peer_id_of_public_key

_FIRST_PORT = 40001  # what a listen port of 0 becomes; counts up
log = logging.getLogger("intellectd.p2p")


class MemoryHub:
    """All hosts of one test, and the wires between each two of them."""

    def __init__(self) -> None:
        self.hosts: dict[str, MemoryNetwork] = {}
        self._listening: dict[tuple[str, int], MemoryNetwork] = {}
        self._wires: dict[tuple[str, str], Wire] = {}
        self._next_port = _FIRST_PORT

    def wire(self, one: str, other: str) -> Wire:
        pair = (min(one, other), max(one, other))
        return self._wires.setdefault(pair, Wire())

    def cut(self, one: str, other: str) -> None:
        """Nothing passes, and nobody is told: dials time out, connections fall silent."""
        self.wire(one, other).set(cut=True)

    def heal(self, one: str, other: str) -> None:
        self.wire(one, other).set(cut=False)

    def delay(self, one: str, other: str, latency_s: float) -> None:
        """One way; a round trip takes twice as long."""
        self.wire(one, other).set(latency_s=latency_s)

    def freeze(self, peer: str) -> None:
        """Cut off from everybody, as a stopped process is."""
        for other in self.hosts:
            self.cut(peer, other)

    def kill(self, peer: str) -> None:
        """The process dies: its kernel closes what was open, nothing of it runs any more."""
        self.hosts[peer].die()

    def bind(self, address: Address, host: "MemoryNetwork") -> Address:
        if address.port == 0:
            address = Address(address.family, address.host, self._next_port)
            self._next_port += 1
        for place in _places(address):
            if self._listening.setdefault(place, host) is not host:
                raise AddressInUse(f"{address} is in use by another program: stop it, or choose another port")
        return address

    def release(self, host: "MemoryNetwork") -> None:
        self.hosts.pop(host.peer_id, None)
        self._listening = {place: h for place, h in self._listening.items() if h is not host}

    def listener(self, address: Address) -> "MemoryNetwork | None":
        return self._listening.get((address.host, address.port))


class MemoryNetwork(RpcNetwork):
    """Made by `open_memory_network`. It is its own Transport."""

    def __init__(self, hub: MemoryHub, peer_id: str, nursery: trio.Nursery, preamble: Preamble | None = None) -> None:
        self._hub = hub
        self._ends: dict[str, list[End]] = {}
        self._contacts: dict[str, None] = {}  # in place of a routing table
        self._announced = Announced()
        self._own_addresses: list[str] = []
        self._dead = False
        super().__init__(peer_id, self, AddressBook(), nursery, preamble)

    # -- Network

    def addresses(self) -> list[str]:
        return list(self._own_addresses)

    def connected(self) -> list[str]:
        return [peer for peer, ends in self._ends.items() if ends]

    def directory_peers(self) -> int:
        return len(self._contacts)

    async def announce(self, key: str) -> None:
        self._announced.add(key)
        await trio.lowlevel.checkpoint()

    def withdraw(self, key: str) -> None:
        self._announced.discard(key)

    async def find(self, key: str) -> dict[str, list[str]]:
        """Whom a walk from contact to contact reaches; a silent contact costs one query's timeout."""
        key_bytes(key)
        found: dict[str, list[str]] = {}
        walk, delay_s = [self.peer_id], 0.0
        for peer in walk:
            for contact in self._hub.hosts[peer]._contacts if peer in self._hub.hosts else ():
                if contact in walk or contact not in self._hub.hosts:
                    continue
                wire = self._hub.wire(self.peer_id, contact)
                delay_s = max(delay_s, QUERY_SECONDS_MAX if wire.cut else 2 * wire.latency_s)
                if not wire.cut:
                    walk.append(contact)
                    if key in self._hub.hosts[contact]._announced:
                        found[contact] = self._hub.hosts[contact].addresses()
        await trio.sleep(delay_s)
        return found

    # -- Transport

    async def open_stream(self, peer: str) -> ByteStream:
        if not self._ends.get(peer):
            await self._dial_any(peer)
        return self._ends[peer][0].open_stream()

    def hang_up(self, peer: str, reason: str) -> None:
        if self._ends.get(peer):
            if reason:
                log.warning("hung up on %s: %s", peer, reason)
            # Not from here: who posts does not expect to be told of the disconnect before `post` returns.
            self._nursery.start_soon(self._close_later, peer, reason)

    # -- birth and death

    def listen(self, listen: list[str], announce: list[str]) -> None:
        bound = [self._hub.bind(parse_listen(text), self) for text in listen]
        fixed = [parse_announce(text, self.peer_id) for text in announce]
        for address in fixed:
            self._hub.bind(address, self)  # somebody forwards the announced address to us
        self._own_addresses = [str(a) for a in fixed] or advertised(bound, self.peer_id)
        self._hub.hosts[self.peer_id] = self

    def die(self) -> None:
        self._dead = True
        self._hub.release(self)
        for peer in list(self._ends):
            self._close_all(peer, "this host died")
        self._rpc.close()
        self._nursery.cancel_scope.cancel()

    # -- connections

    async def _dial_any(self, peer: str) -> None:
        addresses = self._book.of(peer) or self._hub_addresses(peer)
        failure = PeerUnreachable(f"no address of {peer} is known")
        for address in addresses:
            try:
                return await self._reach(address)
            except PeerUnreachable as error:
                failure = error
        raise failure

    def _hub_addresses(self, peer: str) -> list[Address]:
        """What the DHT would say: addresses of contacts, and of theirs."""
        known = {contact: None for p in [self.peer_id, *self._contacts] for contact in self._contacts_of(p)}
        host = self._hub.hosts.get(peer) if peer in known else None
        return [parse_dialable(text) for text in host.addresses()] if host else []

    def _contacts_of(self, peer: str) -> list[str]:
        return list(self._hub.hosts[peer]._contacts) if peer in self._hub.hosts else []

    async def _reach(self, target: Address) -> None:
        if self._ends.get(target.peer):
            return
        wire = self._hub.wire(self.peer_id, target.peer)
        with trio.move_on_after(DIAL_SECONDS_MAX) as scope:
            await wire.cross()
            await wire.cross()
        if scope.cancelled_caught:
            raise PeerUnreachable(f"{target.transport()} did not answer within {DIAL_SECONDS_MAX:g} s")
        host = self._hub.listener(target)
        if host is None or self._dead:
            raise PeerUnreachable(f"{target.peer} at {target.transport()} answered: Connection refused")
        if host.peer_id != target.peer:
            raise PeerUnreachable(f"{target.transport()} belongs to another peer")
        here, there = connect(self.peer_id, target.peer, wire)
        host._came_in(self.peer_id)
        host._adopt(there)
        self._adopt(here)

    def _adopt(self, end: End) -> None:
        end.on_stream = lambda stream: self._take(end.peer, stream)
        end.on_close = lambda: self._closed(end)
        self._contacts[end.peer] = None
        self._ends.setdefault(end.peer, []).append(end)
        self._came(end.peer)

    def _take(self, peer: str, stream: MemoryStream) -> None:
        if not self._dead:  # behind a cut wire nobody has heard of the death yet: streams are opened into the void
            self._nursery.start_soon(self._serve, peer, stream)

    async def _serve(self, peer: str, stream: MemoryStream) -> None:
        await self._rpc.serve(peer, stream)

    def _closed(self, end: End) -> None:
        self._ends[end.peer].remove(end)
        host = self._hub.hosts.get(end.peer)
        if host is not None and end.other is not None and not end.other.closed:
            host._nursery.start_soon(_hear_of_close, end.other)
        if not self._ends[end.peer]:
            del self._ends[end.peer]
            self._went(end.peer)

    def _close_all(self, peer: str, reason: str) -> None:
        for end in list(self._ends.get(peer, ())):
            end.close(reason)

    async def _close_later(self, peer: str, reason: str) -> None:
        self._close_all(peer, reason)
        await trio.lowlevel.checkpoint()

    async def _drop(self, peer: str) -> None:
        self._contacts.pop(peer, None)
        self._close_all(peer, "evicted")
        await trio.lowlevel.checkpoint()

    async def _met(self, peer: str) -> None:
        self._contacts[peer] = None
        await trio.lowlevel.checkpoint()

    async def _meet(self, target: Address) -> None:
        await self._reach(target)
        await self._met(target.peer)


async def _hear_of_close(end: End) -> None:
    await end.wire.cross()
    end.close("the other side closed")


def _places(address: Address) -> list[tuple[str, int]]:
    if not address.wildcard():
        return [(address.host, address.port)]
    expanded = [parse_dialable(text) for text in advertised([address], _SOMEBODY)]
    return [(a.host, a.port) for a in expanded] + [(address.host, address.port)]


_SOMEBODY = peer_id_of_public_key(bytes(32))  # `advertised` wants a peer id; here only hosts and ports count


@asynccontextmanager
async def open_memory_network(
    hub: MemoryHub,
    private_key_bytes: bytes,
    listen: list[str],
    announce: list[str],
    bootstrap: list[str],
    *,
    preamble: Preamble | None = None,
) -> AsyncIterator[MemoryNetwork]:
    """As `daemon.p2p.host.open_network`, in a hub."""
    public = Ed25519PrivateKey.from_private_bytes(private_key_bytes).public_key().public_bytes_raw()
    failure: Exception | None = None
    async with trio.open_nursery() as outer:
        # A nursery of its own: a host that is killed ends, the test that killed it goes on.
        nursery: trio.Nursery = await outer.start(_hold_nursery)
        network = MemoryNetwork(hub, peer_id_of_public_key(public), nursery, preamble)
        try:
            network.listen(listen, announce)
            await network.bootstrap(bootstrap)
            yield network
        except Exception as error:
            failure = error
        finally:
            network.die()
    if failure is not None:
        raise failure


async def _hold_nursery(task_status: Any) -> None:
    # Shielded, so that the host's tasks end when it dies and not a moment before: its peers start tasks there.
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()
