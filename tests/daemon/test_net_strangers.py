"""What a stranger may claim, hold and keep others from: over real sockets, against the repaired libp2p."""

import contextlib

import pytest
import trio
from libp2p.crypto import secp256k1
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host import basic_host
from libp2p.host.exceptions import StreamFailure
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io import msgio
from libp2p.io.exceptions import IncompleteReadError, IOException
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.utils import maybe_consume_signed_record
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import create_signed_peer_record
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr

from intellectd.daemon.p2p import limits, patches
from intellectd.daemon.p2p.addresses import parse_dialable
from intellectd.daemon.p2p.book import AddressBook
from intellectd.daemon.p2p.dialer import Dialer
from intellectd.daemon.p2p.host import Libp2pNetwork
from intellectd.daemon.p2p.lookup import get_providers
from intellectd.daemon.p2p.rpc import is_peer_id
from intellectd.daemon.peer_id import peer_id_of_public_key
from tests.daemon.net_world import PATIENCE_S, connect, echo, eventually, patient, world_of

KEY = b"/intellectd/0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)


def many(count: int) -> list[Multiaddr]:
    return [Multiaddr(f"/ip4/10.0.{n >> 8}.{n & 255}/tcp/4001") for n in range(count)]


def stranger(number: int) -> ID:
    return ID.from_string(peer_id_of_public_key(number.to_bytes(32, "big")))


class OnlyStore:
    """As much of a host as the reader of signed records asks for."""

    def __init__(self) -> None:
        self.store = patches.KeepingPeerStore(stranger(0))

    def get_peerstore(self) -> patches.KeepingPeerStore:
        return self.store


@pytest.mark.parametrize(("count", "taken"), [(limits.ADDRESSES_PER_PEER_MAX, True), (400, False)])
def test_a_signed_record_is_as_long_as_a_host_needs(count: int, taken: bool) -> None:
    """Stock, each of its addresses is parsed and compared with all others: 80,000 take minutes of the one thread."""
    patches.apply()
    keys, host = create_new_key_pair(b"s" * 32), OnlyStore()
    peer = ID.from_pubkey(keys.public_key)
    record = create_signed_peer_record(peer, many(count), keys.private_key).marshal_envelope()
    assert maybe_consume_signed_record(Message(senderRecord=record), host, peer) is taken
    assert host.store.has_peer(peer) is taken


def test_of_a_peers_addresses_the_newest_few_are_kept() -> None:
    store, peer, told = patches.KeepingPeerStore(stranger(0)), stranger(1), many(100)
    store.add_addrs(peer, told[:4], 60)
    for address in told[4:]:
        store.add_addr(peer, address, 60)
    assert store.addrs(peer) == told[: -limits.ADDRESSES_PER_PEER_MAX - 1 : -1]
    long = Multiaddr("/ip4/10.0.0.1/tcp/1" * 50)
    store.add_addrs(peer, [long, *told[:8]], 60)
    assert store.addrs(peer) == told[:8]


def test_a_peer_id_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand connections that die together ask half a million times whose is alive, at 27 µs each."""

    class Swarm:
        def get_connections(self, peer: ID | None = None) -> list[object]:
            return []

    decoded: list[str] = []
    decode = ID.from_string

    def counted(text: str) -> ID:
        decoded.append(text)
        return decode(text)

    monkeypatch.setattr(ID, "from_string", counted)
    dialer = Dialer(Swarm(), AddressBook())
    peer = peer_id_of_public_key(b"decoded once".ljust(32))
    for _ in range(3):
        assert dialer.live(peer) == []
    assert decoded == [peer]


class Pieces:
    """What is read of it comes so many bytes at a time; then it ends."""

    def __init__(self, data: bytes, size: int) -> None:
        self.left, self.size = data, size

    async def read(self, count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        part, self.left = self.left[: min(self.size, count)], self.left[min(self.size, count) :]
        return part


async def test_a_message_in_many_pieces_arrives() -> None:
    """Stock, no more than a hundred: over packets of 500 bytes, none of 64 KiB."""
    patches.apply()
    message = bytes(range(256)) * 256
    assert await msgio.read_exactly(Pieces(message, 500), len(message)) == message
    with pytest.raises(IncompleteReadError) as raised:
        await msgio.read_exactly(Pieces(message[:1000], 500), len(message))
    assert raised.value.received_bytes == 1000


@pytest.mark.parametrize("length", [limits.NEGOTIATION_BYTES_MAX + 1, 1 << 30])
async def test_a_line_of_the_negotiation_has_an_end(length: int) -> None:
    """Stock, whoever connects has us read as much as it can send in five seconds."""
    patches.apply()
    line = encode_uvarint(length) + b"/" * (length - 1 if length < 1 << 20 else 1 << 20) + b"\n"
    pieces = Pieces(line, 1 << 16)
    with pytest.raises(MultiselectCommunicatorError):
        await MultiselectCommunicator(pieces).read()
    assert len(pieces.left) > len(line) - 10
    short = Pieces(encode_uvarint(12) + b"/some/proto\n", 3)
    assert await MultiselectCommunicator(short).read() == "/some/proto"


async def test_who_says_too_much_of_itself_is_not_listened_to() -> None:
    patches.apply()
    said = Identify(listen_addrs=[address.to_bytes() for address in many(2)])
    store = patches.KeepingPeerStore(stranger(0))
    await basic_host.update_peerstore_from_identify(store, stranger(1), said)
    assert store.addrs(stranger(1)) != []
    said.protocols.extend(["/protocol/of/many"] * 1000)
    with pytest.raises(ValueError, match="bytes of itself"):
        await basic_host.update_peerstore_from_identify(store, stranger(1), said)


async def test_what_a_provider_claims_leaves_room_for_the_others_in_an_answer() -> None:
    """Stock, twenty of them with some thousand addresses each make an answer that nobody reads."""
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        await connect(friend, host)
        claims = many(1500)
        for number in range(20):
            _dht(host).provider_store.add_provider(KEY, PeerInfo(stranger(number), claims))
        providers, _ = await get_providers(friend._host, ID.from_string(host.peer_id), KEY)  # type: ignore[attr-defined]
        assert [peer for peer, _ in providers] == [stranger(number) for number in range(20)]


async def test_an_address_that_is_none_is_found_by_nobody() -> None:
    """Stock, it is kept, and raises in whoever looks for the run: one message of a stranger ended the daemon."""
    async with world_of("libp2p") as world:
        host, villain = await world.open(), await world.open()
        await connect(villain, host)
        claim = Message(type=Message.MessageType.ADD_PROVIDER, key=KEY)
        good, junk = villain.addresses()[0], b"\x36\x04\xff\xfe\xfd\xfc"
        claim.providerPeers.add(id=ID.from_string(villain.peer_id).to_bytes(), addrs=[junk, Multiaddr(good).to_bytes()])
        stream, said = await _query(villain, host), claim.SerializeToString()
        await stream.write(encode_uvarint(len(said)) + said)  # type: ignore[attr-defined]
        await eventually(lambda: KEY in _dht(host).provider_store.providers)  # type: ignore[attr-defined]
        assert await host.find(KEY.decode()) == {villain.peer_id: [good]}


async def test_a_node_answers_also_when_it_has_not_heard_of_another_for_hours() -> None:
    """Stock, one peer in the table whose signed record is older than two hours keeps a node from answering anybody."""
    async with world_of("libp2p") as world:
        host, quiet, friend = [await world.open() for _ in range(3)]
        for other in (quiet, friend):
            await connect(other, host)
        store, quiet_id = host._host.get_peerstore(), ID.from_string(quiet.peer_id)  # type: ignore[attr-defined]
        await get_providers(quiet._host, ID.from_string(host.peer_id), KEY)  # type: ignore[attr-defined]
        assert store.get_peer_record(quiet_id) is not None
        await world.close(quiet)
        store.peer_data_map[quiet_id].last_identified -= 24 * 3600
        await get_providers(friend._host, ID.from_string(host.peer_id), KEY)  # type: ignore[attr-defined]


async def test_silent_queries_of_one_peer_do_not_keep_the_directory_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patches, "QUERIES_PER_PEER_MAX", 4)
    async with world_of("libp2p") as world:
        host, villain, friend = [await world.open() for _ in range(3)]
        await connect(villain, host)
        await connect(friend, host)
        _dht(host)._inbound_limiter.total_tokens = 8
        for _ in range(12):
            with contextlib.suppress(StreamFailure):  # those beyond the limit
                await _query(villain, host)
        assert _dht(host)._inbound_limiter.borrowed_tokens <= 4
        await get_providers(friend._host, ID.from_string(host.peer_id), KEY)  # type: ignore[attr-defined]


async def test_a_stream_on_which_nothing_is_asked_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock, it is kept as long as the connection lives."""
    monkeypatch.setattr(patches, "QUERY_STREAM_SECONDS_MAX", 0.05)
    async with world_of("libp2p") as world:
        host, villain = await world.open(), await world.open()
        await connect(villain, host)
        stream = await _query(villain, host)
        with trio.fail_after(PATIENCE_S), pytest.raises(IOException):
            await stream.read(1)  # type: ignore[attr-defined]


async def test_strangers_that_only_listen_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock and at the limit, everybody else is refused, and so is each address that this host dials."""
    async with world_of("libp2p") as world:
        friend, villain, late = [await world.open() for _ in range(3)]
        for module in ("host", "connections"):
            monkeypatch.setattr(f"intellectd.daemon.p2p.{module}.CONNECTIONS_MAX", 8)
        monkeypatch.setattr("intellectd.daemon.p2p.connections.FREE_CONNECTIONS_MIN", 4)
        host = await world.open()
        host.on_call("echo", echo)
        gone: list[str] = []
        host.on_disconnect(gone.append)
        await connect(friend, host)
        assert host.post(friend.peer_id, b"one of ours")
        for _ in range(8):
            with contextlib.suppress(SwarmException):  # while those before it part
                await _dial_once_more(villain, host)
        await eventually(lambda: len(host._host.get_network().get_connections()) <= 4)  # type: ignore[attr-defined]
        await connect(late, host)
        assert await late.call(host.peer_id, "echo", b"late", PATIENCE_S) == b"late"
        assert friend.peer_id not in gone


async def test_names_that_were_announced_make_room_like_any_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host greets whoever the directory names as one of its run's: a hundred made-up names, each with the connections
    that one peer may have, shut it off from everybody."""
    async with world_of("libp2p") as world:
        friend, villain, late = [await world.open() for _ in range(3)]
        for module in ("host", "connections"):
            monkeypatch.setattr(f"intellectd.daemon.p2p.{module}.CONNECTIONS_MAX", 8)
        monkeypatch.setattr("intellectd.daemon.p2p.connections.FREE_CONNECTIONS_MIN", 4)
        host = await world.open()
        host.on_call("echo", echo)
        gone: list[str] = []
        host.on_disconnect(gone.append)
        await connect(friend, host)
        host.keep(lambda peer: peer == friend.peer_id)
        host.learn(villain.peer_id, villain.addresses())
        assert host.post(villain.peer_id, b"are you one of ours?")
        for _ in range(8):
            with contextlib.suppress(SwarmException):  # while those before it part
                await _dial_once_more(villain, host)
        await eventually(lambda: len(host._host.get_network().get_connections()) <= 4)  # type: ignore[attr-defined]
        await connect(late, host)
        assert await late.call(host.peer_id, "echo", b"late", PATIENCE_S) == b"late"
        assert friend.peer_id not in gone


async def test_a_stranger_with_another_kind_of_key_is_hung_up_on_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Noise takes it, and no host of ours has one: after a fault it was kept, as its name is none that we dial."""
    async with world_of("libp2p") as world:
        host = await world.open()
        host.on_call("echo", echo)
        monkeypatch.setattr("intellectd.daemon.p2p.host.create_new_key_pair", secp256k1.create_new_key_pair)
        villain = await world.open()
        await connect(villain, host)
        assert await villain.call(host.peer_id, "echo", b"", PATIENCE_S) == b""
        assert host.connected() == [villain.peer_id] and not is_peer_id(villain.peer_id)
        await host.evict(villain.peer_id)
        await host.evict("no peer at all")
        assert host.connected() == []


async def test_whose_end_has_begun_takes_no_room_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted while it is still in the swarm's table, it cost who had just come."""
    async with world_of("libp2p") as world:
        host, villain, late = [await world.open() for _ in range(3)]
        connections = host._connections  # type: ignore[attr-defined]
        for _ in range(3):
            await _dial_once_more(villain, host)
        await eventually(lambda: len(connections._inbound) == 3)
        ending = list(connections._inbound)
        await connect(late, host)
        for connection in ending:
            connection.muxed_conn.event_shutting_down.set()
        await eventually(lambda: not set(ending) & set(connections._inbound))
        monkeypatch.setattr("intellectd.daemon.p2p.connections.CONNECTIONS_MAX", 2)
        monkeypatch.setattr("intellectd.daemon.p2p.connections.FREE_CONNECTIONS_MIN", 1)
        connections._make_room()
        assert late.peer_id in connections._inbound.values() and not connections._parting


async def test_of_too_many_handshakes_those_go_of_where_most_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "HALF_OPEN_MAX", 8)
    monkeypatch.setattr("intellectd.daemon.p2p.host.CONNECTIONS_MAX", 4)
    async with world_of("libp2p") as world, trio.open_nursery() as nursery:
        host, friend = await world.open(), await world.open()
        port = parse_dialable(host.addresses()[0]).port
        ended: list[str] = []
        for source in ["127.0.0.2", *["127.0.0.3"] * 12]:
            await nursery.start(_say_nothing_from, source, port, ended)
        await eventually(lambda: len(ended) == 5)
        assert set(ended) == {"127.0.0.3"}
        await connect(friend, host)
        nursery.cancel_scope.cancel()


async def _say_nothing_from(source: str, port: int, ended: list[str], task_status: trio.TaskStatus[None]) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port, local_address=source) as stream:
        task_status.started()
        async for _ in stream:
            pass
        ended.append(source)


async def _dial_once_more(here: object, there: Libp2pNetwork) -> None:
    swarm = here._host.get_network()  # type: ignore[attr-defined]
    await swarm._dial_addr_single_attempt(Multiaddr(there.addresses()[0]), ID.from_string(there.peer_id))


async def _query(here: object, there: Libp2pNetwork) -> object:
    return await here._host.new_stream(ID.from_string(there.peer_id), [patches.KAD_PROTOCOL])  # type: ignore[attr-defined]


def _dht(host: object) -> object:
    return host._directory._dht  # type: ignore[attr-defined]
