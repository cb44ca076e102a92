"""Names that are never found and connections that are never taken hold up neither an abort nor anybody else's end."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from intellectd.daemon.bulk import resolve
from intellectd.daemon.bulk.certificate import Identity
from intellectd.daemon.bulk.interface import Endpoint, TransferDone, TransferFailed
from tests.daemon.bulk_swarm import Events, fetch_job, swarm, transfer_id, trust_all
from tests.daemon.channel_hosts import eventually
from tests.daemon.test_bulk_pieces import OBJECT, Asker, Donor

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

NAME = "never-found.invalid"


def endpoint_of(peer: str, address: str = f"{NAME}:4002") -> Endpoint:
    identity = Identity(peer)
    identity.close()
    return Endpoint(address, identity.certificate)


class Resolver:
    """Looks a name up until it is let go."""

    def __init__(self) -> None:
        self.over, self.asked = threading.Event(), threading.Event()
        self._real = socket.getaddrinfo

    def __call__(self, host: str, *rest: Any, **named: Any) -> Any:
        if host != NAME or named.get("flags"):
            return self._real(host, *rest, **named)
        self.asked.set()
        self.over.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.over.set()


def test_an_abort_does_not_wait_for_a_name(hung: Resolver) -> None:
    asker = Asker(("named",))
    with swarm("asker") as engines:
        trust_all(engines, named=endpoint_of("named"))
        asker.start(engines["asker"])
        assert hung.asked.wait(20)
        engines["asker"].abort(transfer_id("it"))
        end, _lost = asker.end()
        assert isinstance(end, TransferFailed) and end.reason == "it was aborted here"
    assert not hung.over.is_set(), "the engine was closed meanwhile, too"


def test_a_fetch_of_one_object_does_not_either(hung: Resolver) -> None:
    events = Events()
    with swarm("asker") as engines:
        trust_all(engines, named=endpoint_of("named"))
        engines["asker"].start_fetch(fetch_job("named", "it", bytearray(9)), events)
        assert hung.asked.wait(20)
        engines["asker"].abort(transfer_id("it"))
        assert events.failed().reason == "it was aborted here"


def test_what_others_bring_is_not_held_up_by_a_name(hung: Resolver) -> None:
    asker = Asker(("named", "good"))
    with swarm("asker", "good") as engines:
        trust_all(engines, named=endpoint_of("named"))
        gate = threading.Event()

        def serve(peer: str, name: str) -> memoryview | None:
            gate.wait(20)
            return Donor().serve(peer, name)

        engines["good"].serve(serve)
        asker.start(engines["asker"])
        assert hung.asked.wait(20)
        gate.set()
        end, _lost = asker.end()
    assert isinstance(end, TransferDone) and bytes(asker.into) == OBJECT
    assert not hung.over.is_set()


def test_a_name_that_is_not_found_in_time_is_said_and_lookups_are_bounded(
    hung: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "_under_way", threading.BoundedSemaphore(1))
    asker = Asker(("first", "second"), stall_s=0.3)
    with swarm("asker") as engines:
        trust_all(engines, first=endpoint_of("first"), second=endpoint_of("second"))
        asker.start(engines["asker"])
        end, _lost = asker.end()
    assert isinstance(end, TransferFailed)
    assert "was not found in time" in end.reason and "names are being looked up already" in end.reason


def test_an_abort_does_not_wait_for_a_connection_that_nobody_takes() -> None:
    """Its queue is full: the kernel answers nothing."""
    asker, filling = Asker(("deaf",)), list[socket.socket]()
    with socket.socket() as deaf, swarm("asker") as engines:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        where = deaf.getsockname()
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(where)
            filling.append(filler)
        trust_all(engines, deaf=endpoint_of("deaf", f"127.0.0.1:{where[1]}"))
        asker.start(engines["asker"])
        eventually(lambda: any("bulk-donor" in thread.name for thread in threading.enumerate()))
        engines["asker"].abort(transfer_id("it"))
        end, _lost = asker.end()
        for filler in filling:
            filler.close()
    assert isinstance(end, TransferFailed) and end.reason == "it was aborted here"
