"""What is wrong with libp2p 0.8.1 for a daemon, and the repair of each fault.

Owns every reach into libp2p's insides but dialling (`daemon.p2p.dialer`). Refuses to run with any other
version: each repair names attributes that the next release may rename. `apply` repairs modules once per
process, `harden` repairs one host; both before the host runs.
"""

import contextlib
import functools
import logging
import os
import socket
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import libp2p
import trio
from libp2p.exceptions import ParseError
from libp2p.host import basic_host, ping
from libp2p.identity import update
from libp2p.identity.identify_push import identify_push
from libp2p.io import msgio
from libp2p.io.exceptions import IncompleteReadError
from libp2p.kad_dht import common, kad_dht, peer_routing, provider_store, routing_table, utils, value_store
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer import peerdata
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp import tcp
from libp2p.utils import varint
from multiaddr import Multiaddr

from intellectd.daemon.p2p.limits import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_PER_PEER_MAX,
    ANNOUNCE_SECONDS,
    BUFFERED_BYTES_MAX,
    CONNECTIONS_PER_PEER_MAX,
    HALF_OPEN_MAX,
    IDENTIFY_BYTES_MAX,
    NEGOTIATION_BYTES_MAX,
    PROVIDER_SECONDS,
    QUERIES_PER_PEER_MAX,
    QUERY_BYTES_MAX,
    QUERY_SECONDS_MAX,
    QUERY_STREAM_SECONDS_MAX,
    REFRESH_SECONDS,
    REPLY_BYTES_MAX,
    SIGNED_RECORD_BYTES_MAX,
    STREAMS_PER_CONNECTION_MAX,
    UNACKNOWLEDGED_SECONDS_MAX,
    WINDOW_BYTES_MAX,
)

VERSION = "0.8.1"
KAD_PROTOCOL = "/intellectd/kad/1.0.0"
log = logging.getLogger("intellectd.p2p")


@functools.cache
def apply() -> None:
    """Repair libp2p's modules. Once; later calls do nothing."""
    if libp2p.__version__ != VERSION:
        raise RuntimeError(f"libp2p {libp2p.__version__} is installed, this daemon repairs {VERSION}: reinstall it")
    _set_dht_constants()
    _keep_steady_time()
    _keep_ports_to_ourselves()
    _notice_dead_paths()
    _contain_connections()
    _bound_buffers()
    _read_whole_messages()
    _bound_claims()
    _quieten()


def harden(host: Any) -> None:
    """Repair one host, before it runs."""
    swarm = host.get_network()
    _contain_handlers(host, swarm)
    _release_inbound_slots(swarm)
    # It dials known peers until 200 are connected, every 30 s and at every disconnect; no setting stops it.
    swarm.auto_connector.maybe_connect = _nothing
    # Its counters leak a slot per torn upgrade, its circuit breaker goes deaf for a minute after 5 refusals
    # and it refuses more than 256 inbound. Bounds that hold are in the connection config and here.
    swarm.set_resource_manager(None)


def bound_queries(host: Any, dht: Any) -> None:
    """A stream is read until its peer ends it: 256 silent ones of one stranger, and a node answers nobody."""
    served: Counter[ID] = Counter()

    async def bounded(stream: Any) -> None:
        peer = stream.muxed_conn.peer_id
        served[peer] += 1
        try:
            if served[peer] <= QUERIES_PER_PEER_MAX:
                with trio.move_on_after(QUERY_STREAM_SECONDS_MAX):
                    await dht.handle_stream(stream)
        finally:
            served[peer] -= 1
            if not served[peer]:
                del served[peer]
            await _in_any_case(stream.reset)

    host.set_stream_handler(KAD_PROTOCOL, bounded)


class KeepingPeerStore(PeerStore):  # type: ignore[misc]
    """Past 1,000 peers the stock store evicts those without an address first: our own entry, with our key. And it
    keeps all addresses that anybody ever told of a peer, each compared with all others; and raises when it is asked for
    a record that has expired, so that a node with one such peer in its table answers nobody. And it takes a record that
    is older than the one before for an offence: a host whose clock was set back had no place in the directory."""

    def __init__(self, own: ID) -> None:
        super().__init__()
        self._own = own

    def _enforce_peer_limit(self) -> None:
        entry = self.peer_data_map.pop(self._own, None)
        super()._enforce_peer_limit()
        if entry is not None:
            self.peer_data_map[self._own] = entry

    def maybe_delete_peer_record(self, peer_id: ID) -> None:
        data = self.peer_data_map.get(peer_id)
        if data is None or data.is_expired() or not data.get_addrs():
            self.peer_record_map.pop(peer_id, None)

    def consume_peer_record(self, envelope: Any, ttl: int) -> bool:
        """True for an old one, too: it is genuine, and of no use."""
        record = envelope.record()
        before = self.peer_record_map.get(record.peer_id)
        is_old = before is not None and before.seq > record.seq
        is_its_own = ID.from_pubkey(envelope.public_key) == record.peer_id
        return bool(is_old and is_its_own) or bool(super().consume_peer_record(envelope, ttl))

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        """The newest few of each peer."""
        data = self.peer_data_map.get(peer_id)
        kept = _few([*_few(addrs), *(data.get_addrs() if data else ())])
        if data:
            data.clear_addrs()
        super().add_addrs(peer_id, kept, ttl)


def _few(addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
    usable = filter(_has_text, addresses[: 2 * ADDRESSES_PER_PEER_MAX])
    return list(dict.fromkeys(usable))[:ADDRESSES_PER_PEER_MAX]


def _has_text(address: Multiaddr) -> bool:
    """Any bytes make a Multiaddr; those that are none raise when somebody wants to read them."""
    try:
        return len(address.to_bytes()) <= ADDRESS_BYTES_MAX and len(str(address)) > 0
    except Exception as error:
        log.debug("somebody told of an address that is none: %r", error)
        return False


def _set_dht_constants() -> None:
    # They are imported by name, so every importing module has a copy of its own.
    for module in (common, kad_dht, peer_routing, provider_store, value_store):
        wanted = {
            "PROTOCOL_ID": KAD_PROTOCOL,  # the argument for it is ignored, and we are no part of IPFS
            "QUERY_TIMEOUT": QUERY_SECONDS_MAX,  # 10 s: what one frozen peer costs each lookup
            "MAX_DHT_MESSAGE_SIZE": REPLY_BYTES_MAX,  # 4 MiB of addresses in one provider record
        }
        for name, value in wanted.items():
            if hasattr(module, name):
                setattr(module, name, value)
    # 48 h: dead peers linger. Republishing is ours (daemon.p2p.directory): theirs is never due.
    provider_store.PROVIDER_RECORD_EXPIRATION_INTERVAL = PROVIDER_SECONDS
    provider_store.PROVIDER_RECORD_REPUBLISH_INTERVAL = ANNOUNCE_SECONDS
    kad_dht.ROUTING_TABLE_REFRESH_INTERVAL = REFRESH_SECONDS  # 600 s: who bootstraps badly stays alone that long


def _keep_steady_time() -> None:
    """The clock of the host may be set. Back, nobody's announcements are taken and the dead stay until it is there
    again; forward, all that the directory knows has expired."""
    for module in (kad_dht, peerdata, provider_store, routing_table):
        module.time = SimpleNamespace(time=time.monotonic)


def _keep_ports_to_ourselves() -> None:
    """SO_REUSEPORT lets two daemons share a port, each getting half of the connections, and no error at all."""

    def reuse_address_only(sock: Any) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            # Without it `::` takes the IPv4 port too, and `0.0.0.0` beside it fails.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

    tcp._set_reuse_flags = reuse_address_only


def _notice_dead_paths() -> None:
    """A path that is gone says nothing, as when a host's address changes or a router forgets: TCP goes on for a quarter
    of an hour, and nobody dials anew who believes to be connected."""
    stream_over = tcp.TrioTCPStream

    def watched(stream: trio.SocketStream) -> Any:
        with contextlib.suppress(OSError):  # closed already; whoever reads it will see
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * UNACKNOWLEDGED_SECONDS_MAX))
        return stream_over(stream)

    tcp.TrioTCPStream = watched


def _contain_connections() -> None:
    """Connections run as tasks of the host's service: what one raises ends them all. It ends that one alone."""
    for kind in (SwarmConn, Yamux):
        kind.start = _contained(kind.start)


def _bound_buffers() -> None:
    """A window grows to 16 MB a stream, and nobody checks that the sender keeps to it."""
    yamux.MAX_WINDOW_SIZE = WINDOW_BYTES_MAX
    read_body = Yamux._read_data_body

    async def bounded(self: Any, length: int) -> bytes:
        buffered = sum(len(buffer) for buffer in self.stream_buffers.values())
        if buffered + length > BUFFERED_BYTES_MAX:
            log.warning("%s sent %d bytes that nobody read, beyond its window", self.peer_id, buffered)
            raise trio.TooSlowError  # the one exception for which the caller closes the connection
        body: bytes = await read_body(self, length)
        return body

    Yamux._read_data_body = bounded


def _read_whole_messages() -> None:
    """A message that comes in more than a hundred pieces ends its connection, so over a path with small packets none of
    64 KiB arrives. And a line of the negotiation may have any length: whoever connects makes us read gigabytes."""
    for module in (msgio, yamux, varint, ping):
        module.read_exactly = _read_exactly
    multiselect_communicator.read_delim = _read_line


async def _read_exactly(reader: Any, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await reader.read(count - len(data))
        if not part:
            text = f"it ended after {len(data)} of {count} bytes"
            raise IncompleteReadError(text, expected_bytes=count, received_bytes=len(data))
        data += part
    return bytes(data)


async def _read_line(reader: Any) -> bytes:
    length = await varint.decode_uvarint_from_stream(reader)
    if not 0 < length <= NEGOTIATION_BYTES_MAX:
        raise ParseError(f"a line of {length} bytes")
    line = await _read_exactly(reader, length)
    if not line.endswith(b"\n"):
        raise ParseError("a line without an end")
    return line[:-1]


def _bound_claims() -> None:
    """What a peer says of itself is parsed and kept at any length. A signed record of 80,000 addresses, which fits one
    message of `identify`, takes the one thread minutes; a provider's thousands make every answer that names it larger
    than anybody reads."""
    kad_dht.MAX_DHT_MESSAGE_SIZE = QUERY_BYTES_MAX  # of what is asked of us: answers are larger
    for module in (utils, update):
        module.consume_envelope = _refusing(module.consume_envelope)
    take = update.update_peerstore_from_identify

    async def take_few(store: Any, peer: ID, message: Any) -> None:
        if message.ByteSize() > IDENTIFY_BYTES_MAX:
            raise ValueError(f"{peer} says {message.ByteSize()} bytes of itself")
        await take(store, peer, message)

    for module in (basic_host, identify_push):
        module.update_peerstore_from_identify = take_few
    add = provider_store.ProviderStore.add_provider

    def add_short(self: Any, key: bytes, provider: Any) -> None:
        add(self, key, PeerInfo(provider.peer_id, _few(provider.addrs)))

    provider_store.ProviderStore.add_provider = add_short


def _refusing(consume: Any) -> Any:
    def refusing(data: bytes, domain: str) -> Any:
        if len(data) > SIGNED_RECORD_BYTES_MAX:
            raise ValueError(f"a signed record of {len(data)} bytes")
        return consume(data, domain)

    return refusing


def _contained(start: Any) -> Any:
    async def contained(self: Any) -> None:
        try:
            await start(self)
        except Exception as error:
            log.warning("dropped a connection, its %s failed: %r", type(self).__name__, error)
            await _in_any_case(self.close)

    return contained


def _contain_handlers(host: Any, swarm: Any) -> None:
    """Any exception of a stream handler ends the host, and a protocol name that is no UTF-8 raises one."""
    negotiate_and_handle = host._swarm_stream_handler
    told: weakref.WeakSet[Any] = weakref.WeakSet()  # connections of which a line stands in the log

    def say(conn: Any, text: str, *arguments: object) -> None:
        """Once of each: a stranger opens thousands of streams a second."""
        log.log(logging.DEBUG if conn in told else logging.WARNING, text, *arguments)
        told.add(conn)

    async def guarded(stream: Any) -> None:
        try:
            if len(stream.swarm_conn.streams) <= STREAMS_PER_CONNECTION_MAX:
                await negotiate_and_handle(stream)
                return
            peer = stream.muxed_conn.peer_id
            say(stream.swarm_conn, "%s opened more than %d streams", peer, STREAMS_PER_CONNECTION_MAX)
        except Exception as error:
            say(stream.swarm_conn, "a stream of %s failed: %r", stream.muxed_conn.peer_id, error)
        await _in_any_case(stream.reset)

    swarm.set_stream_handler(guarded)


def _release_inbound_slots(swarm: Any) -> None:
    """An inbound slot is kept until the host ends, so that after 250 connections it is deaf for ever. Handshakes have
    places of their own: stock, so many silent sockets leave none to anybody."""
    half_open: dict[str, dict[trio.CancelScope, None]] = {}
    swarm._inbound_limiter.total_tokens += HALF_OPEN_MAX

    async def upgraded(raw: Any, listened_on: Any) -> Any:
        came_from = str((raw.get_remote_address() or ("",))[0])
        with trio.CancelScope() as scope:
            half_open.setdefault(came_from, {})[scope] = None
            if sum(map(len, half_open.values())) > HALF_OPEN_MAX:
                most = max(half_open, key=lambda address: len(half_open[address]))
                next(iter(half_open[most])).cancel()  # the oldest, of where most come from
            try:
                return await swarm.upgrade_inbound_raw_conn(raw, listened_on)
            finally:
                del half_open[came_from][scope]
                if not half_open[came_from]:
                    del half_open[came_from]
        raise ConnectionError(f"too many handshakes at once, most of them from {came_from}")

    async def inbound(pipe: Any, listened_on: Any, failure: Any) -> None:
        del failure  # an event for metrics that nobody reads
        raw = RawConnection(pipe, False)
        try:
            muxed = await upgraded(raw, listened_on)
            if len(swarm.get_connections(muxed.peer_id)) <= CONNECTIONS_PER_PEER_MAX:
                await muxed.event_closed.wait()
            else:
                log.warning("%s opened more than %d connections", muxed.peer_id, CONNECTIONS_PER_PEER_MAX)
                await muxed.close()
        except Exception as error:
            log.debug("an inbound connection failed: %r", error)
            await _in_any_case(raw.close)

    swarm._do_handle_inbound_connection = inbound


def _quieten() -> None:
    """Every refused dial is an ERROR there, every query served a WARNING. What matters we log ourselves."""
    if not os.environ.get("LIBP2P_DEBUG"):
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
        logging.getLogger("multiaddr").setLevel(logging.WARNING)  # at DEBUG, ten lines per address parsed
    # It calls the functions of `logging` itself: they install a handler on the root logger, to stderr.
    swarm_connection.logging = logging.getLogger("libp2p.network.connection")


async def _in_any_case(clean_up: Any) -> None:
    """Within a second, cancelled or not, and whatever it raises: there is nobody left to tell."""
    with trio.CancelScope(shield=True), trio.move_on_after(1):
        try:
            await clean_up()
        except Exception as error:
            log.debug("cleaning up: %r", error)


async def _nothing() -> None:
    return None
