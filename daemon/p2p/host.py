"""The way into the control plane: a libp2p host, its DHT and our rpc, opened and closed as one.

Owns their order of birth and death, and the Network interface over them. Refuses to know runs. libp2p stays
inside this package.
"""

import errno
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from intellectd.daemon.net import (
    AddressInUse,
    BadAddress,
)
from intellectd.daemon.p2p import patches
from intellectd.daemon.p2p.addresses import (
    Address,
    advertised,
    not_dialable,
    parse,
    parse_announce,
    parse_listen,
)
from intellectd.daemon.p2p.book import AddressBook
from intellectd.daemon.p2p.connections import RPC_PROTOCOL, Connections, Libp2pStream
from intellectd.daemon.p2p.dialer import Dialer
from intellectd.daemon.p2p.directory import Directory, make_dht
from intellectd.daemon.p2p.limits import (
    ADDRESSES_PER_PEER_MAX,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_PEER_MAX,
    DIAL_SECONDS_MAX,
    STREAM_OPEN_SECONDS_MAX,
)
from intellectd.daemon.p2p.network import RpcNetwork
from intellectd.daemon.p2p.wire import Preamble

SEED_BYTES = 32
CLOSE_SECONDS_MAX = 2.0  # nothing waits for a peer there; the bound is for the day that changes
log = logging.getLogger("intellectd.p2p")


class Libp2pNetwork(RpcNetwork):
    """`daemon.net.Network` over libp2p. Made by `open_network`."""

    def __init__(self, host: Any, dht: Any, nursery: trio.Nursery, preamble: Preamble | None) -> None:
        book = AddressBook()
        self._host = host
        self._dialer = Dialer(host.get_network(), book)
        self._connections = Connections(host, self._dialer, nursery)
        self._directory = Directory(host, dht)
        super().__init__(str(host.get_id()), self._connections, book, nursery, preamble)
        self._connections.is_guest = lambda peer: not self._is_wanted(peer)
        self._connections.on_up = self._came
        self._connections.on_inbound = self._came_in
        self._connections.on_down = self._went
        host.set_stream_handler(RPC_PROTOCOL, self._serve)
        nursery.start_soon(self._directory.keep_fresh)

    def addresses(self) -> list[str]:
        return [str(address) for address in self._host.get_addrs()]

    def connected(self) -> list[str]:
        return self._connections.peers()

    def directory_peers(self) -> int:
        return self._directory.size()

    async def announce(self, key: str) -> None:
        await self._directory.announce(key)

    def withdraw(self, key: str) -> None:
        self._directory.withdraw(key)

    async def find(self, key: str) -> dict[str, list[str]]:
        return await self._directory.find(key)

    def close(self) -> None:
        self._rpc.close()
        self._connections.abort_all()

    async def _reach(self, target: Address, named: bool = True) -> None:
        if not self._dialer.live(target.peer):
            await self._dialer.race(target.peer, [target], named)

    async def _drop(self, peer: str) -> None:
        self._directory.forget(peer)
        await self._connections.drop(peer)

    async def _met(self, peer: str) -> None:
        await self._directory.met(peer)

    async def _meet(self, target: Address) -> None:
        """No rpc: any node of the DHT will do, whatever wire version it speaks."""
        await self._reach(target, named=False)  # addresses that are remembered are often of the dead
        # The routing table takes in only peers that the peerstore has an address of.
        self._host.get_peerstore().add_addrs(ID.from_string(target.peer), [Multiaddr(str(target))], 0)
        await self._directory.met(target.peer)
        await self._directory.look_around()

    async def _serve(self, stream: Any) -> None:
        peer = str(stream.muxed_conn.peer_id)
        self._nursery.start_soon(self._directory.met, peer)
        await self._rpc.serve(peer, Libp2pStream(stream))


@asynccontextmanager
async def open_network(
    private_key_bytes: bytes,
    listen: list[str],
    announce: list[str],
    bootstrap: list[str],
    *,
    preamble: Preamble | None = None,
) -> AsyncIterator[Libp2pNetwork]:
    """Listen, join the DHT, and close everything at the end. Raises AddressInUse and BadAddress.

    `private_key_bytes` is the 32-byte Ed25519 seed. `preamble` is for tests of version mismatches.
    """
    patches.apply()
    wanted = [parse_listen(text) for text in listen]
    for address in wanted:
        _claim(address)
    host = _make_host(private_key_bytes, announce)
    failure: Exception | None = None
    async with host.run(listen_addrs=[Multiaddr(str(address)) for address in wanted]):
        dht = make_dht(host)
        async with background_trio_service(dht), trio.open_nursery() as nursery:
            network = Libp2pNetwork(host, dht, nursery, preamble)
            try:
                _check_listening(host, wanted)
                await network.bootstrap(bootstrap)
                yield network
            except Exception as error:
                failure = error  # raised outside: the nurseries here would wrap it in groups of groups
            finally:
                network.close()
                await _stop_listening(host)
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _make_host(seed: bytes, announce: list[str]) -> Any:
    if len(seed) != SEED_BYTES:
        raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, got {len(seed)}")
    keys = create_new_key_pair(seed)
    own = ID.from_pubkey(keys.public_key)
    fixed = [_announced(text, str(own)) for text in announce][:ADDRESSES_PER_PEER_MAX]  # nobody keeps more

    def advertise(bound: list[Any]) -> list[Any]:
        # Asked anew each time: an interface may come up after the daemon.
        return fixed or [Multiaddr(text) for text in advertised([parse(str(a)) for a in bound], str(own))]

    host = new_host(
        key_pair=keys,
        sec_opt={NOISE: Noise(keys, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt={YAMUX: Yamux},
        peerstore_opt=patches.KeepingPeerStore(own),
        addrs_factory=advertise,
        disable_identify_address_discovery=True,  # what peers say of our address is not ours to repeat
        connection_config=ConnectionConfig(
            max_connections=CONNECTIONS_MAX,
            min_connections=0,
            low_watermark=0,
            high_watermark=CONNECTIONS_MAX,
            max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
            inbound_upgrade_timeout=DIAL_SECONDS_MAX,
            outbound_upgrade_timeout=DIAL_SECONDS_MAX,
            inbound_stream_protocol_negotiation_timeout=STREAM_OPEN_SECONDS_MAX,
            outbound_stream_protocol_negotiation_timeout=STREAM_OPEN_SECONDS_MAX,
        ),
    )
    patches.harden(host)
    return host


def _announced(text: str, own: str) -> Multiaddr:
    address = parse_announce(text, own)
    try:
        return Multiaddr(str(address))
    except ValueError as error:  # a domain name that is none, such as xn--a
        raise not_dialable(text) from error


def _claim(address: Address) -> None:
    """Bind and let go: libp2p swallows the reason why it cannot listen."""
    family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address.host, address.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _in_use(address) from error
        raise BadAddress(f"cannot listen on {address}: {error.strerror}; see [network] listen") from error


def _check_listening(host: Any, wanted: list[Address]) -> None:
    listening = host.get_network().listeners
    for address in wanted:
        if str(Multiaddr(str(address))) not in listening:  # libp2p writes IPv6 in its shortest form
            raise _in_use(address)


async def _stop_listening(host: Any) -> None:
    """Cancelled, libp2p leaves its listeners open: they run as tasks of the system, outside every nursery."""
    with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS_MAX):
        for listener in list(host.get_network().listeners.values()):
            await listener.close()


def _in_use(address: Address) -> AddressInUse:
    return AddressInUse(f"{address} is in use by another program: stop it, or choose another port in [network] listen")
