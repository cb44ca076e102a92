"""What a stranger may claim, hold and keep others from: over real sockets, against the repaired libp2p."""

import contextlib

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host import basic_host
from libp2p.host.exceptions import StreamFailure
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.exceptions import IOException
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.utils import maybe_consume_signed_record
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import create_signed_peer_record
from multiaddr import Multiaddr

from intellectd.daemon.p2p import limits, patches
from intellectd.daemon.p2p.host import Libp2pNetwork
from intellectd.daemon.p2p.lookup import get_providers
from intellectd.daemon.peer_id import peer_id_of_public_key
from tests.daemon.net_world import PATIENCE_S, connect, patient, world_of

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


async def _query(here: object, there: Libp2pNetwork) -> object:
    return await here._host.new_stream(ID.from_string(there.peer_id), [patches.KAD_PROTOCOL])  # type: ignore[attr-defined]


def _dht(host: object) -> object:
    return host._directory._dht  # type: ignore[attr-defined]
