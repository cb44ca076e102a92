"""A host that has no file or no thread left for one thing more: it costs that thing, and is over when there is one."""

import errno
import os
import socket
import threading
from typing import Any

import pytest

from intellectd.daemon.bulk import dial, resolve
from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.errors import BulkError
from tests.daemon.bulk_swarm import Case, Events, closed, fetch_job, swarm
from tests.daemon.channel_hosts import STALL_S, WAIT_S, hosts

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

NO_SUCH_FAMILY = 12345


class Scarce:
    """Something of the system's that is refused so many times."""

    def __init__(self, real: Any, error: Exception, times: int) -> None:
        self.real, self.error, self.left = real, error, times

    def __call__(self, *words: Any, **more: Any) -> Any:
        if self.left:
            self.left -= 1
            raise self.error
        return self.real(*words, **more)


def no_file(times: int = 1) -> Scarce:
    return Scarce(os.eventfd, OSError(errno.EMFILE, "Too many open files"), times)


def is_fetched(events: Events) -> bool:
    return events.done().received_bytes > 0


def test_who_listens_goes_on_when_a_connection_takes_the_last_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.listener.ACCEPT_PAUSE_S", 0.0)
    with swarm("a", "b") as engines:
        engines["a"].serve(lambda _peer, _name: memoryview(b"it"))
        address = engines["a"].endpoint.address.rpartition(":")
        with monkeypatch.context() as short:
            files = no_file()
            short.setattr(os, "eventfd", files)
            with socket.create_connection((address[0], int(address[2])), WAIT_S) as stranger:
                assert closed(stranger)
            assert not files.left
        events = Events()
        engines["b"].start_fetch(fetch_job("a", "it", bytearray(2)), events)
        assert is_fetched(events)


def test_a_look_up_without_a_file_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "_under_way", threading.BoundedSemaphore(1))
    stop = Stop()
    monkeypatch.setattr(os, "eventfd", no_file(2))
    for _again in range(2):
        with pytest.raises(OSError, match="Too many open files"):
            resolve.resolve("localhost", 1, stop, now_s() + WAIT_S)
    assert resolve.resolve("localhost", 1, stop, now_s() + WAIT_S)


def test_a_name_with_an_address_of_a_family_that_this_host_lacks_is_dialled_at_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the kernel was booted without IPv6: there is no socket for it at all."""
    real = resolve.resolve

    def both(*words: Any) -> list[tuple[Any, ...]]:
        return [(NO_SUCH_FAMILY, socket.SOCK_STREAM, 0, "", ("::1", 1, 0, 0)), *real(*words)]

    monkeypatch.setattr(dial, "resolve", both)
    with swarm("a", "b") as engines:
        engines["a"].serve(lambda _peer, _name: memoryview(b"it"))
        events = Events()
        engines["b"].start_fetch(fetch_job("a", "it", bytearray(2)), events)
        assert is_fetched(events)


@pytest.mark.parametrize("what", ["file", "thread"])
def test_a_transfer_that_cannot_begin_for_want_of_something_says_so(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """BulkError: the app goes on without it."""
    with swarm("a", "b") as engines:
        case = Case(("a", "b"))
        with monkeypatch.context() as short:
            if what == "file":
                short.setattr(os, "eventfd", no_file())
            else:
                none = Scarce(threading.Thread.start, RuntimeError("can't start new thread"), 1)

                def start(thread: threading.Thread) -> None:
                    none(thread)

                short.setattr(threading.Thread, "start", start)
            with pytest.raises(BulkError, match=f"the system has no {what} left"):
                case.start(engines["a"], "a")
        started = [case.start(engine, member) for member, engine in engines.items()]
        assert all(events.done().sent_bytes for events in started)


def test_a_channel_that_cannot_be_dialled_for_want_of_a_file_can_be_released(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosts("a", "b") as (a, b):
        with monkeypatch.context() as short:
            short.setattr(os, "eventfd", no_file())
            channel = a.channels.need("b", STALL_S)
        assert a.diary.next("lost")[2] == "this host cannot dial: Too many open files"
        a.channels.release("b")
        assert not channel.is_needed
        a.channels.need("b", STALL_S)
        assert (a.diary.next("found"), b.diary.next("found")) == (("found", "b"), ("found", "a"))
        a.channels.release("b")
