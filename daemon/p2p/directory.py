"""Announcing keys to the DHT, and finding who announced one.

Owns keeping announcements fresh and the node's place in the routing table. Refuses to be believed: what it
finds are peers to ask, never members of anything.
"""

import logging
import random
from typing import Any

import trio
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator

from intellectd.daemon.p2p import patches
from intellectd.daemon.p2p.book import usable
from intellectd.daemon.p2p.keys import Announced, key_bytes
from intellectd.daemon.p2p.limits import (
    ANNOUNCE_SECONDS,
    ANNOUNCE_SECONDS_MIN,
    INBOUND_QUERIES_MAX,
    NEWS_SETTLE_SECONDS,
    QUERY_SECONDS_MAX,
)
from intellectd.daemon.p2p.lookup import Lookup
from intellectd.daemon.p2p.providers import make_room_fairly, neighbourhood_in

log = logging.getLogger("intellectd.p2p")


def make_dht(host: Any) -> Any:
    """A server that stores provider records and nothing else."""
    dht = KadDHT(
        host,
        DHTMode.SERVER,
        # No namespace is valid: values are not used, and 50,000 of 1 MB each could be stored here otherwise.
        validator=NamespacedValidator({}, strict_validation=True),
        validator_changed=True,
        strict_validation=True,
        max_peers_per_subnet=0,  # a cluster is one /24, and the default takes two peers of it
    )
    dht._inbound_limiter.total_tokens = INBOUND_QUERIES_MAX
    patches.bound_queries(host, dht)
    make_room_fairly(dht.provider_store, host.get_id(), neighbourhood_in(host.get_network()))
    return dht


class Directory:
    def __init__(self, host: Any, dht: Any) -> None:
        self._host = host
        self._dht = dht
        self._own = host.get_id()
        self._announced = Announced()
        self._news = trio.Event()

    async def announce(self, key: str) -> None:
        self._announced.add(key)
        await self._publish(key_bytes(key))

    def withdraw(self, key: str) -> None:
        """Nodes that were told forget it within three minutes; we do at once."""
        self._announced.discard(key)
        self._dht.provider_store.providers.get(key_bytes(key), {}).pop(str(self._own), None)

    async def find(self, key: str) -> dict[str, list[str]]:
        raw = key_bytes(key)
        lookup = await self._walk(raw)
        found = dict(lookup.providers)
        for info in self._dht.provider_store.get_providers(raw):
            known = found.setdefault(str(info.peer_id), [])
            known += [text for text in map(str, info.addrs) if text not in known]
        found.pop(str(self._own), None)
        return {peer: [str(a) for a in usable(peer, texts)] for peer, texts in found.items()}

    async def met(self, peer: str) -> None:
        """The peer answers as one of ours: it belongs in the routing table, and may not know our keys."""
        # Every one of ours is a server of the DHT; the stock check waits for `identify` to have said so.
        if await self._dht.routing_table.add_peer(ID.from_string(peer), skip_server_mode_check=True):
            self._news.set()

    async def look_around(self) -> None:
        """Walk towards ourselves: it fills our table, and puts us into the tables on the way."""
        lookup = await self._walk(self._own.to_bytes())
        for peer in lookup.answered:
            await self.met(str(peer))

    def size(self) -> int:
        count: int = self._dht.routing_table.size()
        return count

    def forget(self, peer: str) -> None:
        self._dht.routing_table.remove_peer(ID.from_string(peer))

    async def keep_fresh(self) -> None:
        """Publish again before records expire, and soon after new nodes turned up."""
        while True:
            with trio.move_on_after(ANNOUNCE_SECONDS * random.uniform(0.5, 1.0)):
                await self._news.wait()
                # Nodes turn up in groups: one publication for all of them.
                await trio.sleep(NEWS_SETTLE_SECONDS * random.uniform(0.5, 1.0))
            self._news = trio.Event()
            for key in self._announced.all():
                try:
                    await self._publish(key_bytes(key))
                except Exception:  # of libp2p's insides; the next turn may go better
                    log.exception("could not announce %s again", key)
            await trio.sleep(ANNOUNCE_SECONDS_MIN)

    async def _walk(self, key: bytes) -> Lookup:
        """Who is not there leaves the table: in months it would be full of the dead, and each walk lost among them."""
        lookup = Lookup(self._host, key)
        await lookup.run(self._seeds(key))
        if lookup.answered:  # else it may be our own network that is down
            for peer in lookup.failed:
                if not self._host.get_network().get_connections(peer):
                    self._dht.routing_table.remove_peer(peer)
        return lookup

    def _seeds(self, key: bytes) -> list[ID]:
        table = self._dht.routing_table.find_local_closest_peers(key)
        return list(dict.fromkeys([*table, *self._host.get_connected_peers()]))

    async def _publish(self, key: bytes) -> None:
        """Here and at the closest nodes. Alone, only here: whoever comes asks us."""
        store = self._dht.provider_store
        store.add_provider(key, PeerInfo(self._own, self._host.get_addrs()))
        lookup = await self._walk(key)
        async with trio.open_nursery() as nursery:
            for peer in lookup.closest():
                nursery.start_soon(self._tell, peer, key)

    async def _tell(self, peer: ID, key: bytes) -> None:
        with trio.move_on_after(QUERY_SECONDS_MAX):
            try:
                await self._dht.provider_store._send_add_provider(peer, key)
            except Exception as error:
                log.debug("could not announce to %s: %r", peer, error)
