"""Who gets in: pinned certificates both ways, strangers, garbage, and the engine's orderly end. SPEC D1."""

import contextlib
import gc
import os
import socket
import ssl
import threading
from typing import Any

import pytest
from cryptography import x509

from intellectd.daemon.bulk import dial
from intellectd.daemon.bulk.certificate import Identity, claimed_by
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.errors import BulkAddressInUse, BulkError, LinkLost
from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.limits import HANDSHAKES_MAX, TRUSTED_MAX
from intellectd.daemon.bulk.sockets import join_address, split_address
from intellectd.daemon.bulk.wire import ChannelRequest, encode_request
from intellectd.daemon.p2p.interfaces import interface_hosts
from tests.daemon.bulk_swarm import (
    EVENT_S,
    Case,
    Events,
    Outsider,
    closed,
    fetch_job,
    swarm,
    trust_all,
)

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not get in gives up, and does not try again for as long as a transfer may stall."""
    monkeypatch.setattr(dial, "DIAL_BACKOFF_FIRST_S", 1e9)


def serves_still(engines: dict[str, Engine], asker: str, donor: str) -> bool:
    engines[donor].serve(lambda _peer, _name: memoryview(b"still here"))
    into, events = bytearray(10), Events()
    engines[asker].start_fetch(fetch_job(donor, "still", into), events)
    events.done()
    return into == b"still here"


def test_a_certificate_that_is_not_pinned_gets_no_answer() -> None:
    with swarm("a", "b") as engines, Outsider("stranger") as stranger:
        request = encode_request(ChannelRequest())
        with pytest.raises(OSError):  # the alert, or the reset behind it
            connection = stranger.dial(engines["a"].endpoint, request)
            assert connection.recv(1) == b"", "a stranger got an answer"
            raise ConnectionError("closed without a word")
        assert serves_still(engines, "b", "a")


@pytest.mark.usefixtures("one_attempt")
def test_a_server_whose_certificate_is_not_the_pinned_one_gets_no_request() -> None:
    with swarm("a") as engines, Outsider("b") as impostor, Outsider("b") as real:
        trust_all(engines, b=Endpoint(impostor.endpoint.address, real.endpoint.certificate))
        events = Events()
        engines["a"].start_fetch(fetch_job("b", "secret", bytearray(1)), events)
        with pytest.raises(ssl.SSLError):
            impostor.accept(engines["a"].endpoint)
        end = events.failed()
    assert (end.suspect, end.silent) == ("b", False)
    assert "CERTIFICATE_VERIFY_FAILED" in end.reason


@pytest.mark.usefixtures("one_attempt")
def test_a_trusted_peer_cannot_stand_in_for_another() -> None:
    with swarm("a", "b", "c") as engines:
        table = {peer: engine.endpoint for peer, engine in engines.items()}
        table["b"] = Endpoint(engines["c"].endpoint.address, engines["b"].endpoint.certificate)
        engines["a"].trust(table)
        events = Events()
        engines["a"].start_fetch(fetch_job("b", "secret", bytearray(1)), events)
        assert "not the one it announced" in events.failed().reason


@pytest.mark.usefixtures("one_attempt")
def test_a_peer_that_announces_anothers_certificate_harms_only_itself() -> None:
    with swarm("a", "b") as engines:
        thief = Endpoint("127.0.0.1:1", engines["b"].endpoint.certificate)
        junk = Endpoint("127.0.0.1:1", b"no certificate")
        trust_all(engines, thief=thief, junk=junk, long=Endpoint("127.0.0.1:1", b"x" * 5000))
        assert serves_still(engines, "b", "a") and serves_still(engines, "a", "b")
        for peer, words in (("thief", "made by 'b'"), ("junk", "unusable"), ("long", "5000 bytes")):
            events = Events()
            engines["a"].start_fetch(fetch_job(peer, peer, bytearray(1)), events)
            assert words in events.failed().reason


def test_a_peer_taken_off_the_table_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with swarm("a", "b") as engines:
        assert serves_still(engines, "b", "a")
        engines["a"].trust({})
        with monkeypatch.context() as patched:
            patched.setattr(dial, "DIAL_BACKOFF_FIRST_S", 1e9)
            events = Events()
            engines["b"].start_fetch(fetch_job("a", "still", bytearray(10)), events)
            end = events.failed()
        assert (end.suspect, end.silent) == ("a", False)
        attempt, turned_away = dial.Dialler._attempt, threading.Event()

        def counted(*words: Any) -> Any:
            try:
                return attempt(*words)
            except LinkLost:
                turned_away.set()
                raise

        monkeypatch.setattr(dial.Dialler, "_attempt", counted)
        again = Events()
        engines["b"].start_fetch(fetch_job("a", "still", bytearray(10)), again)
        assert turned_away.wait(EVENT_S)
        trust_all(engines)  # it asks again, and is let in
        again.done()


def test_a_peer_that_learns_of_us_while_we_dial_is_reached() -> None:
    with swarm("a", "b") as engines:
        engines["b"].trust({})
        case = Case(("a", "b"), elements=256)
        events = case.start(engines["a"], "a"), case.start(engines["b"], "b")
        trust_all(engines)
        events[0].done(), events[1].done()


def test_the_table_is_bounded() -> None:
    with swarm("a") as engines, pytest.raises(ValueError, match="at most 1024"):
        engines["a"].trust({f"peer{i}": Endpoint("127.0.0.1:1", b"") for i in range(TRUSTED_MAX + 1)})


def test_certificates_name_their_peer_and_need_no_clock() -> None:
    identity = Identity("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
    assert claimed_by(identity.certificate) == "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    identity.close()


@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 70000])
def test_garbage_on_the_port_is_hung_up_on(garbage: bytes) -> None:
    with swarm("a", "b") as engines:
        with socket.create_connection(split_address(engines["a"].endpoint.address), timeout=EVENT_S) as stranger:
            with contextlib.suppress(OSError):  # it may have been hung up on before it has said it all
                stranger.sendall(garbage)
                stranger.shutdown(socket.SHUT_WR)
            assert closed(stranger)
        assert serves_still(engines, "b", "a")


@pytest.mark.parametrize("request_bytes", [b"\xff\xff", b"\0\0", b"\0\x05hello", b"\x04\0" + b"\xc1" * 1024])
def test_requests_that_are_too_long_or_senseless_are_hung_up_on(request_bytes: bytes) -> None:
    with swarm("a", "b") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        assert closed(outsider.dial(engines["a"].endpoint, request_bytes))
        assert serves_still(engines, "b", "a")


def test_slow_strangers_keep_nobody_out() -> None:
    with swarm("a", "b") as engines:
        address = split_address(engines["a"].endpoint.address)
        strangers = [socket.create_connection(address, timeout=EVENT_S) for _ in range(HANDSHAKES_MAX + 1)]
        assert closed(strangers[0])  # the oldest had to go
        assert serves_still(engines, "b", "a")
        for stranger in strangers:
            stranger.close()


def test_an_address_in_use_is_named() -> None:
    with swarm("a") as engines:
        address = engines["a"].endpoint.address
        with pytest.raises(BulkAddressInUse, match=address):
            Engine("b", address)


@pytest.mark.parametrize("address", ["4002", "host:", ":4002", "host:99999", "host:-1"])
def test_a_senseless_listen_address_says_what_one_looks_like(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        Engine("a", address)


def test_a_listen_address_of_another_host_says_so() -> None:
    with pytest.raises(BulkError, match=r"cannot listen on 192\.0\.2\.1"):
        Engine("a", "192.0.2.1:0")


def test_the_endpoint_is_the_announced_address_or_one_that_can_be_dialled() -> None:
    for listen, announce in (("0.0.0.0:0", ""), ("127.0.0.1:0", "bulk.example.org:4002")):
        engine = Engine("a", listen, announce)
        host, port = split_address(engine.endpoint.address)
        engine.close()
        assert host != "0.0.0.0" and port > 0
        # Not by the host's name, which is 127.0.1.1 on every Debian: no ring of two hosts could form.
        assert host in (interface_hosts("ip4") or interface_hosts("ip6") or ["127.0.0.1"]) or "0.0.0.0" not in listen
        assert not announce or engine.endpoint.address == announce
    assert split_address(join_address("::1", 7)) == ("::1", 7)


def test_a_host_whose_clock_begins_in_1970_finds_a_certificate_valid_and_one_of_9999_too() -> None:
    """TLS holds the dates in it against the wall's clock, whatever is pinned."""
    identity = Identity("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
    dates = x509.load_der_x509_certificate(identity.certificate)
    identity.close()
    assert dates.not_valid_before_utc.timestamp() <= 0 and dates.not_valid_after_utc.year == 9999


def test_close_leaves_no_thread_and_no_file() -> None:
    gc.collect()  # what earlier tests left to it must not be counted as open before and closed after
    before, files = threading.enumerate(), len(os.listdir("/proc/self/fd"))
    with swarm("a", "b") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        stranger = socket.create_connection(split_address(engines["a"].endpoint.address))  # in its handshake
        parked = outsider.dial(engines["a"].endpoint, encode_request(ChannelRequest()))
        engines["b"].serve(lambda _peer, _name: memoryview(bytes(2**26)))
        unread = outsider.dial(engines["b"].endpoint)  # has not said what it wants
        running = Case(("a", "b", "x")).start(engines["a"], "a")
        fetching = Events()
        engines["a"].start_fetch(fetch_job("x", "never", bytearray(1)), fetching)
        for engine in engines.values():
            engine.close()
            engine.close()
        assert "closed" in running.failed().reason and "closed" in fetching.failed().reason
        with pytest.raises(BulkError, match="closed"):
            engines["a"].start_fetch(fetch_job("b", "late", bytearray(1)), Events())
        stranger.close(), parked.close(), unread.close()
    gc.collect()
    assert threading.enumerate() == before
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.usefixtures("one_attempt")
def test_a_name_is_dialled_at_whichever_of_its_addresses_answers() -> None:
    with swarm("a", "b") as engines:
        _host, port = split_address(engines["a"].endpoint.address)  # IPv4 alone; the name may have ::1 too
        table = {"a": Endpoint(f"localhost:{port}", engines["a"].endpoint.certificate)}
        engines["b"].trust(table)
        assert serves_still(engines, "b", "a")
        engines["b"].trust({"a": Endpoint("no such host", table["a"].certificate)})
        events = Events()
        engines["b"].start_fetch(fetch_job("a", "it", bytearray(1)), events)
        assert "'no such host' cannot be used" in events.failed().reason
