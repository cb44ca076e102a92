"""One regression test for each fault of libp2p 0.8.1 that the adapter repairs, over real sockets.

Each fails when its repair in `daemon.p2p.patches` or `daemon.p2p.dialer` is taken out.
"""

import logging
import socket
from typing import Any

import libp2p
import pytest
import trio
from libp2p.io.exceptions import IOException
from libp2p.kad_dht import kad_dht, peer_routing, provider_store
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.records.utils import InvalidRecordType
from multiaddr import Multiaddr

from intellectd.daemon.net import CallTimeout, PeerUnreachable
from intellectd.daemon.p2p import limits, patches
from intellectd.daemon.p2p.addresses import parse_dialable
from intellectd.daemon.p2p.host import Libp2pNetwork
from intellectd.daemon.p2p.lookup import get_providers
from intellectd.daemon.peer_id import peer_id_of_public_key
from tests.daemon.net_world import NOBODY, PATIENCE_S, connect, echo, eventually, patient, world_of

KEY = "/intellectd/0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)


def test_only_the_version_whose_faults_are_known_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p, "__version__", "0.8.2")
    with pytest.raises(RuntimeError, match=r"0\.8\.2 is installed, this daemon repairs 0\.8\.1"):
        patches.apply.__wrapped__()


def test_constants_imported_by_name_are_set_in_every_module() -> None:
    patches.apply()
    for module in (kad_dht, peer_routing, provider_store):
        assert module.PROTOCOL_ID == patches.KAD_PROTOCOL
        assert module.QUERY_TIMEOUT == limits.QUERY_SECONDS_MAX
    assert provider_store.PROVIDER_RECORD_EXPIRATION_INTERVAL == limits.PROVIDER_SECONDS
    assert kad_dht.ROUTING_TABLE_REFRESH_INTERVAL == limits.REFRESH_SECONDS


async def test_an_inbound_slot_is_given_back_when_its_connection_goes() -> None:
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        slots = _swarm(host)._inbound_limiter
        await _churn(host, friend, 20)
        await eventually(lambda: slots.borrowed_tokens == 0)


@pytest.mark.parametrize("family", ["dns", "dns4"])
async def test_a_name_of_etc_hosts_can_be_dialled(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """libp2p asks name servers alone, and a cluster often has none for its own hosts."""
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **named: Any) -> Any:
        if host == "nowhere.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        there = parse_dialable(host.addresses()[0])
        assert await friend.dial(f"/{family}/localhost/tcp/{there.port}/p2p/{there.peer}", PATIENCE_S) == host.peer_id
        with pytest.raises(
            PeerUnreachable, match=f"/{family}/nowhere.test/tcp/1 is a name without an address here: Name"
        ):
            await friend.dial(f"/{family}/nowhere.test/tcp/1/p2p/{NOBODY}", PATIENCE_S)


@pytest.mark.slow
async def test_a_host_hears_its_300th_inbound_connection() -> None:
    """Stock, it is deaf after 250, for ever."""
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        host.on_call("echo", echo)
        await _churn(host, friend, 300)
        await connect(friend, host)
        assert await friend.call(host.peer_id, "echo", b"still", PATIENCE_S) == b"still"


async def test_half_open_connections_do_not_take_the_place_of_others() -> None:
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        port = parse_dialable(host.addresses()[0]).port
        async with trio.open_nursery() as nursery:
            for _ in range(280):  # more than the stock limit of inbound connections
                nursery.start_soon(_say_nothing, port)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await connect(friend, host)
            nursery.cancel_scope.cancel()


async def test_a_failing_stream_handler_ends_its_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        host.on_call("echo", echo)

        async def fail(stream: object) -> None:
            await stream.read(1)  # type: ignore[attr-defined]
            raise RuntimeError("a fault in somebody's handler")

        host._host.set_stream_handler("/test/fail", fail)  # type: ignore[attr-defined]
        await connect(friend, host)
        stream = await friend._host.new_stream(_id(host), ["/test/fail"])  # type: ignore[attr-defined]
        await stream.write(b"x")
        with pytest.raises(IOException):
            await stream.read(1)
        assert "a fault in somebody's handler" in caplog.text
        assert not stream.swarm_conn.is_closed
        assert await friend.call(host.peer_id, "echo", b"alive", PATIENCE_S) == b"alive"


async def test_a_protocol_name_that_is_no_utf8_ends_its_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    async with world_of("libp2p") as world:
        host, villain = await world.open(), await world.open()
        host.on_call("echo", echo)
        await connect(villain, host)
        stream = await _swarm(villain).new_stream(_id(host))
        await MultiselectClient().handshake(MultiselectCommunicator(stream))
        await stream.write(b"\x05/\xff\xfe\xfd\n")
        await eventually(lambda: "UnicodeDecodeError" in caplog.text)
        assert not stream.swarm_conn.is_closed
        assert await villain.call(host.peer_id, "echo", b"alive", PATIENCE_S) == b"alive"


async def test_a_fault_in_a_connections_own_task_ends_that_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world_of("libp2p") as world:
        host, victim, friend = [await world.open() for _ in range(3)]
        host.on_call("echo", echo)
        await connect(friend, host)
        await connect(victim, host)

        connection = _swarm(host).get_connections(_id(victim))[0]
        close = connection.close

        async def broken() -> None:
            await close()
            raise RuntimeError("a fault deep inside")

        connection.close = broken
        await victim.evict(host.peer_id)
        await eventually(lambda: "a fault deep inside" in caplog.text)
        assert await friend.call(host.peer_id, "echo", b"alive", PATIENCE_S) == b"alive"


async def test_too_many_streams_of_one_connection_are_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patches, "STREAMS_PER_CONNECTION_MAX", 4)
    async with world_of("libp2p") as world:
        host, villain = await world.open(), await world.open()
        host.on_call("echo", echo)
        await connect(villain, host)
        streams = [await _swarm(villain).new_stream(_id(host)) for _ in range(20)]
        for stream in streams[4:]:
            with pytest.raises(IOException):
                await _read_past_the_greeting(stream)
        assert await villain.call(host.peer_id, "echo", b"alive", PATIENCE_S) == b"alive"
        assert caplog.text.count("opened more than 4 streams") == 1


async def test_bytes_beyond_the_window_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Stock, they pile up in memory: flow control is announced and not enforced."""
    async with world_of("libp2p") as world:
        host, villain = await world.open(), await world.open()
        await connect(villain, host)

        async def ignore(stream: object) -> None:
            await trio.sleep_forever()

        host._host.set_stream_handler("/test/ignore", ignore)  # type: ignore[attr-defined]
        flood = await villain._host.new_stream(_id(host), ["/test/ignore"])  # type: ignore[attr-defined]
        with pytest.raises(IOException), trio.fail_after(PATIENCE_S):
            for _ in range(limits.BUFFERED_BYTES_MAX // 60_000 + 2):
                flood.muxed_stream.send_window = 1 << 20  # the window it was given does not impress it
                await flood.write(bytes(60_000))
            await flood.read(1)
        await eventually(lambda: not host.connected())
        assert "beyond its window" in caplog.text


async def test_many_known_peers_do_not_evict_our_own_key() -> None:
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        store = host._host.get_peerstore()  # type: ignore[attr-defined]
        for number in range(1100):
            peer = ID.from_string(peer_id_of_public_key(number.to_bytes(32, "big")))
            store.add_addrs(peer, [Multiaddr("/ip4/127.0.0.1/tcp/1")], 60)
        assert len(store.peer_ids()) <= store.max_peers + 1
        assert host._host.get_private_key() is not None  # type: ignore[attr-defined]
        await connect(friend, host)


async def test_known_peers_are_not_dialled_for_company() -> None:
    """Stock, known peers are dialled until 200 are connected, whatever the configuration says."""
    async with world_of("libp2p") as world:
        hosts = [await world.open() for _ in range(3)]
        for host in hosts[1:]:
            _swarm(hosts[0]).peerstore.add_addrs(_id(host), [Multiaddr(host.addresses()[0])], 60)
        await _swarm(hosts[0]).auto_connector.maybe_connect()
        assert hosts[0].connected() == []


async def test_a_refused_peer_is_dialled_again_at_once_when_it_is_there() -> None:
    """Stock, a peer that refused is not dialled for a minute, also by the DHT."""
    async with world_of("libp2p") as world:
        here, there = await world.open(), await world.open(seed=b"s" * 32)
        address = there.addresses()[0]
        await world.close(there)
        with pytest.raises(PeerUnreachable, match="Connection refused"):
            await here.dial(address, PATIENCE_S)
        await world.open(seed=b"s" * 32, listen=[address.rsplit("/p2p/")[0]])
        await here.dial(address, PATIENCE_S)


async def test_a_stopped_host_leaves_no_listener_behind() -> None:
    """Stock and cancelled, its listeners go on: they run as tasks of the system."""
    async with world_of("libp2p") as world:
        host = await world.open()
        port = parse_dialable(host.addresses()[0]).port
        await world.close(host)
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_no_value_is_valid_here() -> None:
    """Stock, strangers store 50,000 values of up to 1 MB each."""
    async with world_of("libp2p") as world:
        host, villain = await world.open(), await world.open()
        await connect(villain, host)
        dht = host._directory._dht  # type: ignore[attr-defined]
        for name in ("/pk/x", "/ipns/x", "/intellectd/x", "x"):
            with pytest.raises(InvalidRecordType):
                dht.validator.validate(name, b"value")
            store = villain._directory._dht.value_store  # type: ignore[attr-defined]
            assert not await store._store_at_peer(_id(host), name.encode(), b"value")
        assert dht.value_store.size() == 0


async def test_more_queries_at_once_than_stock_serves_are_all_answered() -> None:
    """Stock, a node serves 12 and resets the rest: hosts that start together stay alone for ten minutes."""
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        await connect(friend, host)
        answered: list[object] = []

        async def ask() -> None:
            answered.append(await get_providers(friend._host, _id(host), KEY.encode()))  # type: ignore[attr-defined]

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(ask)
        assert len(answered) == 16


async def test_nobody_else_can_join_our_port() -> None:
    """Stock, whoever asks for SO_REUSEPORT gets half of our connections."""
    async with world_of("libp2p") as world:
        host = await world.open()
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="already in use"):
                thief.bind(("127.0.0.1", parse_dialable(host.addresses()[0]).port))


async def test_a_path_that_is_gone_is_noticed_on_both_sides() -> None:
    """Stock, a host whose address changed is cut off for a quarter of an hour: nobody tells TCP, and nobody redials."""
    async with world_of("libp2p") as world:
        here, there = await world.open(), await world.open()
        await connect(here, there)
        await eventually(lambda: there.connected() == [here.peer_id])
        for one, other in ((here, there), (there, here)):
            (connection,) = _swarm(one).get_connections(_id(other))
            pipe = connection.muxed_conn.secured_conn.conn.read_writer.read_write_closer.stream.stream
            patience_ms = pipe.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert patience_ms == 1000 * limits.UNACKNOWLEDGED_SECONDS_MAX


async def test_a_frozen_host_costs_a_call_its_deadline_and_nobody_else() -> None:
    """Connected, and its kernel takes the bytes, but nothing comes back."""
    async with world_of("libp2p") as world:
        here, frozen, there = [await world.open() for _ in range(3)]
        there.on_call("echo", echo)
        await connect(here, frozen)
        await connect(here, there)
        _freeze(frozen)
        given_up = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call_in_vain, here, frozen, given_up)
            assert await here.call(there.peer_id, "echo", b"alive", PATIENCE_S) == b"alive"
            assert not given_up.is_set()
        with trio.fail_after(limits.WRITE_SECONDS_MAX / 2):
            await here.evict(frozen.peer_id)
        assert here.connected() == [there.peer_id]


async def test_the_log_is_quiet_about_what_libp2p_thinks_of_strangers(caplog: pytest.LogCaptureFixture) -> None:
    async with world_of("libp2p") as world:
        host, friend = await world.open(), await world.open()
        await connect(friend, host)
        await host.announce(KEY)
        assert list(await friend.find(KEY)) == [host.peer_id]
        await world.close(friend)
        await eventually(lambda: not host.connected())
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def _churn(host: object, friend: object, count: int) -> None:
    """Connect and hang up, one connection after the other, without the pauses of a polite goodbye."""
    address = Multiaddr(host.addresses()[0])  # type: ignore[attr-defined]
    for _ in range(count):
        await _swarm(friend)._dial_addr_single_attempt(address, _id(host))  # type: ignore[attr-defined]
        friend._connections.abort_all()  # type: ignore[attr-defined]
        await eventually(lambda: len(host._dialer.live(friend.peer_id)) < 4)  # type: ignore[attr-defined]
    await eventually(lambda: not friend._dialer.live(host.peer_id))  # type: ignore[attr-defined]


async def _say_nothing(port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port):
        await trio.sleep_forever()


async def _call_in_vain(here: Libp2pNetwork, frozen: Libp2pNetwork, given_up: trio.Event) -> None:
    with pytest.raises(CallTimeout):
        await here.call(frozen.peer_id, "echo", b"", 2.0)
    given_up.set()


async def _read_past_the_greeting(stream: object) -> None:
    with trio.fail_after(PATIENCE_S):
        for _ in range(64):
            await stream.read(64)  # type: ignore[attr-defined]


def _freeze(host: object) -> None:
    """What it receives is not looked at any more, as of a process that was stopped."""

    async def ponder(conn: object, size: int) -> bytes:
        await trio.sleep_forever()
        return b""

    for connection in _swarm(host).get_connections():
        connection.muxed_conn._read_data_body = ponder.__get__(connection.muxed_conn)


def _swarm(host: object) -> object:
    return host._host.get_network()  # type: ignore[attr-defined]


def _id(host: object) -> ID:
    return ID.from_string(host.peer_id)  # type: ignore[attr-defined]
