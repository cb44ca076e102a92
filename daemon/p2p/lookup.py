"""One walk through the DHT towards a key: who serves it, and which nodes are closest to it.

Owns GET_PROVIDERS queries and their order. Unlike libp2p's `find_providers` it never answers from the local
cache alone (up to 48 h stale) and asks nodes independently, so that a frozen one costs its own query's
timeout and delays no other. What nodes answer is hostile: bounded, and only ever addresses to try.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.utils import maybe_consume_signed_record, sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.peer.peerstore import env_to_send_in_RPC
from libp2p.utils.varint import encode_uvarint, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from intellectd.daemon.p2p.limits import (
    ADDRESSES_PER_PEER_MAX,
    CLOSEST_MAX,
    LOOKUP_PARALLEL,
    LOOKUP_QUERIES_MAX,
    LOOKUP_SECONDS_MAX,
    PROVIDERS_PER_REPLY_MAX,
    QUERY_SECONDS_MAX,
    REPLY_BYTES_MAX,
)
from intellectd.daemon.p2p.patches import KAD_PROTOCOL
from intellectd.daemon.peer_id import public_key_of_peer_id

ADDRESS_SECONDS = 3600  # how long the peerstore keeps an address from the DHT, as libp2p's own lookups do
log = logging.getLogger("intellectd.p2p")
Found = list[tuple[ID, list[Multiaddr]]]


@dataclass
class Lookup:
    """State of one walk. `providers`, `answered` and `failed` are its result."""

    host: Any
    key: bytes
    providers: dict[str, list[str]] = field(default_factory=dict)
    answered: list[ID] = field(default_factory=list)
    failed: dict[ID, None] = field(default_factory=dict)
    _known: list[ID] = field(default_factory=list)
    _asked: dict[ID, None] = field(default_factory=dict)
    _running: int = 0

    async def run(self, seeds: list[ID]) -> None:
        self._note(seeds)
        with trio.move_on_after(LOOKUP_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                self._ask_more(nursery)

    def closest(self) -> list[ID]:
        """The nodes that should hold records of the key, of those that answered."""
        return sort_peer_ids_by_distance(self.key, list(self.answered))[:CLOSEST_MAX]  # type: ignore[no-any-return]

    def _note(self, peers: list[ID]) -> None:
        own = self.host.get_id()
        fresh = [peer for peer in dict.fromkeys(peers) if peer != own and peer not in self._known]
        self._known = sort_peer_ids_by_distance(self.key, self._known + fresh)

    def _ask_more(self, nursery: trio.Nursery) -> None:
        """Keep asking the k closest that have not failed; the walk ends when all of those have answered."""
        targets = [peer for peer in self._known if peer not in self.failed][:CLOSEST_MAX]
        for peer in targets:
            room = self._running < LOOKUP_PARALLEL and len(self._asked) < LOOKUP_QUERIES_MAX
            if room and peer not in self._asked:
                self._asked[peer] = None
                self._running += 1
                nursery.start_soon(self._ask, peer, nursery)

    async def _ask(self, peer: ID, nursery: trio.Nursery) -> None:
        try:
            with trio.fail_after(QUERY_SECONDS_MAX):
                providers, closer = await get_providers(self.host, peer, self.key)
        except Exception as error:  # refused, silent, or not what a node of the DHT answers
            log.debug("lookup: %s failed: %r", peer, error)
            self.failed[peer] = None
        else:
            self._take(peer, providers, closer)
        finally:
            self._running -= 1
        self._ask_more(nursery)

    def _take(self, peer: ID, providers: Found, closer: Found) -> None:
        self.answered.append(peer)
        for provider, addresses in providers:
            known = self.providers.setdefault(str(provider), [])
            known += [text for text in map(str, addresses) if text not in known]
        for node, addresses in closer:
            if addresses:
                self.host.get_peerstore().add_addrs(node, addresses, ADDRESS_SECONDS)
        self._note([node for node, _ in closer])


async def get_providers(host: Any, peer: ID, key: bytes) -> tuple[Found, Found]:
    """Ask one node: providers it knows of, and nodes closer to the key. Raises whatever goes wrong."""
    message = Message(type=Message.MessageType.GET_PROVIDERS, key=key)
    message.senderRecord = env_to_send_in_RPC(host)[0]  # so that it can take us into its table
    stream = await host.new_stream(peer, [KAD_PROTOCOL])
    try:
        request = message.SerializeToString()
        await stream.write(encode_uvarint(len(request)) + request)
        reply = Message()
        reply.ParseFromString(await read_varint_prefixed_bytes_limited(stream, REPLY_BYTES_MAX))
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await stream.reset()
    if not maybe_consume_signed_record(reply, host, peer):
        raise ValueError("its signed record is not its own")
    return _peers(reply.providerPeers), _peers(reply.closerPeers)


def _peers(entries: Any) -> Found:
    return [found for entry in entries[:PROVIDERS_PER_REPLY_MAX] if (found := _peer(entry)) is not None]


def _peer(entry: Any) -> tuple[ID, list[Multiaddr]] | None:
    peer = ID(entry.id)
    addresses: list[Multiaddr] = []
    try:
        public_key_of_peer_id(str(peer))
        for raw in entry.addrs[:ADDRESSES_PER_PEER_MAX]:
            addresses.append(Multiaddr(raw))
            str(addresses[-1])  # some bytes only fail here
    except Exception as error:
        log.debug("a node told of a peer that cannot be: %r", error)
        return None
    return peer, addresses
