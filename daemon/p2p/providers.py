"""Whom this host's part of the directory tells of, where more announce a key than it keeps.

Owns that choice: by where each announced from, so that whoever makes up names takes room from its own neighbourhood
alone. Refuses to believe what a provider says of its addresses. Stock, the first 20 that come are kept for as long as
they come again: those of one stranger keep everybody else out.
"""

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Any

from libp2p.kad_dht.common import BUCKET_SIZE, SUBNET_PREFIX_LEN_V4, SUBNET_PREFIX_LEN_V6
from libp2p.peer.id import ID

SUBNET_BITS = {4: SUBNET_PREFIX_LEN_V4, 6: SUBNET_PREFIX_LEN_V6}  # what one tenant is commonly given


def make_room_fairly(store: Any, own: ID, neighbourhood: Callable[[ID], str]) -> None:
    """Give `store`, libp2p's ProviderStore, that choice. This host's own word always has its place."""
    add = store.add_provider

    def add_fairly(key: bytes, provider: Any) -> None:
        store.get_providers(key)  # it drops those that have expired
        place, name = neighbourhood(provider.peer_id), str(provider.peer_id)
        told = store.providers.get(key, {})
        if name not in told and len(told) >= BUCKET_SIZE:
            _make_room(told, place, str(own), is_own=provider.peer_id == own)
        add(key, provider)
        if record := store.providers.get(key, {}).get(name):
            record.place = place

    store.add_provider = add_fairly


def _make_room(told: dict[str, Any], place: str, own: str, is_own: bool) -> None:
    """The one that was heard longest ago, of where most come from, if these are more than those of `place` will be."""
    counts = Counter(record.place for name, record in told.items() if name != own)
    crowd = max(counts, key=lambda other: counts[other])
    if is_own or counts[crowd] > counts[place] + 1:
        del told[min((n for n in told if n != own and told[n].place == crowd), key=lambda n: told[n].timestamp)]


def neighbourhood_in(swarm: Any) -> Callable[[ID], str]:
    """Of a peer that is connected: the network that it speaks from."""

    def neighbourhood(peer: ID) -> str:
        for connection in swarm.get_connections(peer):
            with contextlib.suppress(Exception):  # it may be about to end, and libp2p says that in several ways
                ip = ipaddress.ip_address(connection.muxed_conn.get_remote_address()[0].partition("%")[0])
                ip = getattr(ip, "ipv4_mapped", None) or ip
                return str(ipaddress.ip_network(f"{ip}/{SUBNET_BITS[ip.version]}", strict=False))
        return ""

    return neighbourhood
