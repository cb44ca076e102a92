"""GETs: what is asked for arrives, what cannot be had is said clearly, and nobody waits for a donor that is gone."""

import mmap
import socket
import ssl
import threading
from collections.abc import Callable

import msgpack
import pytest

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import FetchJob, TransferFailed
from intellectd.daemon.bulk.limits import SERVES_PER_PEER_MAX
from intellectd.daemon.bulk.wire import (
    HEADER_BYTES,
    REQUEST_PREFIX,
    GetRequest,
    Header,
    Kind,
    decode_header,
    encode_header,
    encode_request,
)
from tests.daemon.bulk_swarm import (
    EVENT_S,
    Case,
    Events,
    Outsider,
    closed,
    fetch_job,
    read_exactly,
    reset,
    swarm,
    transfer_id,
    trust_all,
)

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

PASSES_S = 1.5  # of a time that has to pass: enough for what comes before it, on a busy machine
OBJECT = bytes(range(256)) * 5000  # 1.3 MB: several bursts


def provide(engine: Engine, **objects: bytes) -> None:
    engine.serve(lambda _peer, name: memoryview(objects[name]) if name in objects else None)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, len(OBJECT)), (1000, 300_000), (len(OBJECT) - 1, 1), (0, 0), (len(OBJECT), 0)]
)
def test_a_range_arrives(offset: int, length: int) -> None:
    with swarm("asker", "donor") as engines:
        provide(engines["donor"], it=OBJECT)
        into, events = bytearray(length), Events()
        engines["asker"].start_fetch(fetch_job("donor", "it", into, offset), events)
        end = events.done()
    assert into == OBJECT[offset : offset + length]
    assert length <= end.received_bytes <= length + 2 * HEADER_BYTES and end.sent_bytes < 100
    assert [report.done_bytes for report in events.progress][-1:] == ([length] if length else [])


def test_the_provider_hears_who_asks() -> None:
    asked = []
    with swarm("asker", "donor") as engines:
        engines["donor"].serve(lambda peer, name: asked.append((peer, name)))
        events = Events()
        engines["asker"].start_fetch(fetch_job("donor", "snapshot/7/theta", bytearray(1)), events)
        end = events.failed()
    assert asked == [("asker", "snapshot/7/theta")]
    assert (end.suspect, end.silent) == (None, False)  # an honest no is nobody's fault
    assert "donor: it has no snapshot/7/theta" in end.reason


def test_a_range_outside_the_object_is_said_to_be_one() -> None:
    with swarm("asker", "donor") as engines:
        provide(engines["donor"], it=OBJECT)
        for offset, length in ((len(OBJECT) - 9, 10), (len(OBJECT) + 1, 0), (2**62, 1)):
            events = Events()
            engines["asker"].start_fetch(fetch_job("donor", "it", bytearray(length), offset), events)
            assert f"has no {length} bytes at {offset}" in events.failed().reason


@pytest.mark.parametrize("offset", [-1, 2**63, 2**64 - 1])
def test_hostile_ranges_are_hung_up_on(offset: int) -> None:
    body = msgpack.packb({"v": 1, "op": "get", "object": "it", "offset": offset, "length": 1})
    with swarm("donor") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        provide(engines["donor"], it=OBJECT)
        assert closed(outsider.dial(engines["donor"].endpoint, REQUEST_PREFIX.pack(len(body)) + body))


def donor_says(
    speak: Callable[[ssl.SSLSocket], None], stall_s: float = EVENT_S, deadline_s: float = 60.0
) -> TransferFailed:
    """How a fetch ends whose donor, once asked, does as `speak` says."""
    with swarm("asker") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        events = Events()
        job = FetchJob(transfer_id("it"), "x", "it", 0, memoryview(bytearray(1000)), stall_s, deadline_s)
        engines["asker"].start_fetch(job, events)
        connection = outsider.accept(engines["asker"].endpoint)
        read_exactly(connection, len(encode_request(GetRequest("it", 0, 1000))))
        speak(connection)
        return events.failed()


def test_a_donor_that_dies_is_the_suspect() -> None:
    def speak(connection: ssl.SSLSocket) -> None:
        connection.sendall(encode_header(Header(Kind.OBJECT, length=1000)) + b"x" * 500)
        reset(connection)

    end = donor_says(speak)
    assert (end.suspect, end.silent) == ("x", False)


def test_a_donor_that_ends_early_is_the_suspect_even_if_all_bytes_came() -> None:
    def speak(connection: ssl.SSLSocket) -> None:
        connection.sendall(encode_header(Header(Kind.OBJECT, length=1000)) + b"x" * 1000)
        connection.shutdown(socket.SHUT_WR)

    end = donor_says(speak)
    assert (end.suspect, end.reason) == ("x", "x: it closed the connection")


def test_a_donor_that_falls_silent_is_the_suspect() -> None:
    def speak(connection: ssl.SSLSocket) -> None:
        connection.sendall(encode_header(Header(Kind.OBJECT, length=1000)) + b"x" * 500)

    end = donor_says(speak, stall_s=PASSES_S)
    assert (end.suspect, end.silent) == ("x", True)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (encode_header(Header(Kind.OBJECT, length=1001)), "OBJECT of 1001 bytes"),
        (encode_header(Header(Kind.OBJECT, length=2**63)), "asked for 1000"),
        (encode_header(Header(Kind.GO)), "GO of 0 bytes"),
        (encode_header(Header(Kind.OBJECT, length=1000)) + bytes(1000) + encode_header(Header(Kind.GO)), "GO where"),
        (b"\0" * HEADER_BYTES, "unknown kind 0"),
    ],
)
def test_a_donor_that_breaks_the_protocol_is_the_suspect(frame: bytes, words: str) -> None:
    end = donor_says(lambda connection: connection.sendall(frame))
    assert (end.suspect, end.silent) == ("x", False)
    assert words in end.reason


def test_a_refusal_that_this_version_does_not_know_is_still_a_refusal() -> None:
    end = donor_says(lambda connection: connection.sendall(encode_header(Header(Kind.REFUSED, flag=99))))
    assert end.suspect is None and "reason 99" in end.reason


def test_an_abort_ends_a_fetch() -> None:
    with swarm("asker") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        events = Events()
        engines["asker"].start_fetch(fetch_job("x", "it", bytearray(1)), events)
        outsider.accept(engines["asker"].endpoint)
        engines["asker"].abort(transfer_id("it"))
        assert events.failed() == TransferFailed(transfer_id("it"), None, "it was aborted here", silent=False)


def test_the_deadline_ends_a_fetch_that_moves() -> None:
    def speak(connection: ssl.SSLSocket) -> None:
        connection.sendall(encode_header(Header(Kind.OBJECT, length=1000)))
        connection.settimeout(0.02)
        while True:  # a byte now and then, until the asker has had enough
            try:
                connection.sendall(b"x")
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    end = donor_says(speak, deadline_s=PASSES_S)
    assert end.suspect is None and "deadline" in end.reason


def test_jobs_that_cannot_be_are_refused_at_once() -> None:
    with swarm("a") as engines:
        with pytest.raises(ValueError, match="read-only"):
            job = FetchJob(transfer_id("x"), "b", "x", 0, memoryview(b"abc"), 1.0, 1.0)
            engines["a"].start_fetch(job, Events())
        with pytest.raises(ValueError, match="an object's name"):
            engines["a"].start_fetch(fetch_job("b", "", bytearray(1)), Events())
        engines["a"].start_fetch(fetch_job("b", "twice", bytearray(1)), Events())
        with pytest.raises(ValueError, match="already running"):
            engines["a"].start_fetch(fetch_job("b", "twice", bytearray(1)), Events())


def test_a_reader_that_stops_reading_is_dropped() -> None:
    memory = mmap.mmap(-1, 2**26)  # more than the kernel holds between two sockets
    donor = Engine("donor", "127.0.0.1:0", serve_stall_s=0.2)
    with Outsider("x") as outsider:
        donor.trust({"x": outsider.endpoint})
        serving: list[threading.Thread] = []

        def provider(_peer: str, _name: str) -> memoryview:
            serving.append(threading.current_thread())
            return memoryview(memory)

        donor.serve(provider)
        sleepy = outsider.dial(donor.endpoint, encode_request(GetRequest("big", 0, len(memory))))
        assert decode_header(read_exactly(sleepy, HEADER_BYTES)).kind == Kind.OBJECT
        # Nothing is read for as long as the donor gives, and then what the kernel took before: not all of it.
        (thread,) = serving
        thread.join(EVENT_S)
        assert not thread.is_alive()
        assert closed(sleepy)
        del thread, serving[:]
        memory.close()  # BufferError if the donor still looked at it
    donor.close()


def test_a_reader_that_drips_its_next_request_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.serve.REQUEST_S", 0.2)
    donor, pause = Engine("donor", "127.0.0.1:0"), threading.Event()
    with Outsider("x") as outsider:
        donor.trust({"x": outsider.endpoint})
        donor.serve(lambda _peer, _name: memoryview(b"x"))
        request = encode_request(GetRequest("o" * 500, 0, 1))
        reader = outsider.dial(donor.endpoint, request)
        read_exactly(reader, HEADER_BYTES + 1 + HEADER_BYTES)
        with pytest.raises(OSError):
            for byte in request:
                reader.sendall(bytes([byte]))
                pause.wait(0.02)
        assert donor._server._readers._places == []
    donor.close()


def test_a_peer_gets_a_few_connections_and_is_told_when_there_are_no_more() -> None:
    release, entered = threading.Event(), threading.Semaphore(0)

    def provider(_peer: str, _name: str) -> memoryview:
        entered.release()
        assert release.wait(EVENT_S)
        return memoryview(b"x")

    with swarm("asker", "other", "donor") as engines:
        engines["donor"].serve(provider)
        waiting = [Events() for _ in range(SERVES_PER_PEER_MAX)]
        for number, events in enumerate(waiting):
            engines["asker"].start_fetch(fetch_job("donor", f"{number}", bytearray(1)), events)
            assert entered.acquire(timeout=EVENT_S)
        more, others = Events(), Events()
        engines["asker"].start_fetch(fetch_job("donor", "more", bytearray(1)), more)
        end = more.failed()
        assert end.suspect is None and "serves as many as it can" in end.reason
        engines["other"].start_fetch(fetch_job("donor", "others", bytearray(1)), others)
        assert entered.acquire(timeout=EVENT_S)
        release.set()
        for events in [*waiting, others]:
            events.done()


def test_serving_goes_on_while_a_collective_runs() -> None:
    with swarm("a", "b") as engines:
        provide(engines["a"], it=OBJECT)
        Case(("a", "b")).start(engines["a"], "a")  # b does not start it
        into, events = bytearray(16 * 1024), Events()
        engines["b"].start_fetch(fetch_job("a", "it", into), events)
        assert events.done().seconds > 0.05 and into == OBJECT[: len(into)]  # slower, on purpose
