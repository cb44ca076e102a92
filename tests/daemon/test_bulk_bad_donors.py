"""Donors that trickle, go all at once, or never answer: a fetch from others goes on, and none holds its end up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from intellectd.daemon.bulk import fetch
from intellectd.daemon.bulk.interface import Endpoint, TransferDone, TransferFailed
from intellectd.daemon.bulk.wire import (
    REQUEST_PREFIX,
    GetRequest,
    Header,
    Kind,
    decode_request,
    encode_header,
    request_length,
)
from intellectd.protocol.pieces import PATIENCE_S
from tests.daemon.bulk_swarm import Events, Outsider, fetch_job, read_exactly, swarm, trust_all
from tests.daemon.channel_hosts import eventually
from tests.daemon.test_bulk_pieces import HASHES, OBJECT, Asker, Donor

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

TRICKLE_S = 0.05  # between two bytes: twenty a second are as useless as one


@contextmanager
def trickling(outsider: Outsider, *trusted: Endpoint) -> Iterator[list[GetRequest]]:
    """It answers each request as it should, and then a byte now and then. What it was asked for."""
    asked: list[GetRequest] = []
    over = threading.Event()

    def serve() -> None:
        connection = outsider.accept(*trusted)
        length = read_exactly(connection, REQUEST_PREFIX.size)
        request = decode_request(read_exactly(connection, request_length(length)))
        assert isinstance(request, GetRequest)
        connection.sendall(encode_header(Header(Kind.OBJECT, length=request.length)))
        asked.append(request)
        try:
            while not over.wait(TRICKLE_S):
                connection.sendall(b"\0")
        except OSError:
            pass  # it was hung up on

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def test_a_donor_of_a_byte_now_and_then_holds_nobody_up() -> None:
    """Long before it is given up: what it was asked for comes from another."""
    asker = Asker(("good", "slow"))
    with swarm("asker", "good") as engines, Outsider("slow") as slow:
        trust_all(engines, slow=slow.endpoint)
        gate = threading.Event()

        def serve(peer: str, name: str) -> memoryview | None:
            gate.wait(20)
            return memoryview(OBJECT) if name == "it" else None

        engines["good"].serve(serve)
        with trickling(slow, engines["asker"].endpoint) as asked:
            asker.start(engines["asker"])
            eventually(lambda: bool(asked))
            gate.set()
            end, lost = asker.end()
    assert isinstance(end, TransferDone) and bytes(asker.into) == OBJECT and not lost
    assert len(asked) == 1 and end.seconds < PATIENCE_S / 2
    assert sorted(asker.came) == list(range(len(HASHES)))


def test_a_whole_object_by_a_byte_now_and_then_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is in time; the object would be a year on its way."""
    monkeypatch.setattr(fetch, "PATIENCE_S", 4 * TRICKLE_S)
    with swarm("asker") as engines, Outsider("slow") as slow:
        trust_all(engines, slow=slow.endpoint)
        with trickling(slow, engines["asker"].endpoint) as asked:
            events = Events()
            engines["asker"].start_fetch(fetch_job("slow", "it", bytearray(len(OBJECT))), events)
            failed = events.failed()
        assert asked and failed.silent and failed.suspect == "slow" and "bytes came in" in failed.reason


def test_all_donors_but_one_go_at_once() -> None:
    """The one that is left brings what they were asked for, and nothing that was here is asked again."""
    donors, gone, asked = {name: Donor() for name in "abcd"}, threading.Event(), threading.Event()
    asker = Asker(tuple(donors))
    with swarm("asker", *donors) as engines:

        def dying(name: str) -> None:
            def serve(peer: str, object_name: str) -> memoryview | None:
                found = donors[name].serve(peer, object_name)
                asked.wait(20)  # or they might have brought all before the last was dialled
                if len(asker.came) >= 3:
                    gone.wait(20)
                return found

            engines[name].serve(serve)

        for name in "bcd":
            dying(name)

        def last(peer: str, object_name: str) -> memoryview | None:
            asked.set()
            gone.wait(20)
            return donors["a"].serve(peer, object_name)

        engines["a"].serve(last)
        asker.start(engines["asker"])
        eventually(lambda: len(asker.came) >= 3)
        before = list(asker.came)
        gone.set()
        for name in "bcd":
            engines[name].close()
        end, lost = asker.end()
    assert isinstance(end, TransferDone) and bytes(asker.into) == OBJECT and not lost
    assert sorted(asker.came) == list(range(len(HASHES))) and set(before) < set(asker.came)


def test_with_no_donor_left_it_says_what_became_of_each() -> None:
    asker = Asker(("a", "b"))
    with swarm("asker", "a", "b") as engines:
        engines["a"].close()
        engines["b"].close()
        asker.start(engines["asker"])
        end, _lost = asker.end()
    assert isinstance(end, TransferFailed)
    assert "a: it refused the connection" in end.reason and "b: it refused the connection" in end.reason
