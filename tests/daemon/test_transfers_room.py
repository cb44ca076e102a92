"""Where a disk takes minutes to make room for an update, as one that can reserve none does: the run goes on."""

import mmap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import torch
import trio
from trio.testing import MockClock

from intellectd.daemon.bulk.interface import CollectiveJob, FetchJob
from intellectd.daemon.runs.compute import Compute
from intellectd.daemon.runs.inbox import Inbox
from intellectd.daemon.runs.outer_state import Frozen
from intellectd.daemon.runs.transfers import ABORTED, Transfers
from intellectd.kernels.codec import codec_by_name, update_codec
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev

ROOM_S = 100.0
ELEMENTS = 512
SIZE = update_codec(codec_by_name("int8")).encoded_bytes(ELEMENTS)
COLLECTIVE = ef.StartTransfer(b"t" * 32, ("a", "b"), (1, 1), "int8", 10.0, 100.0)
FETCH = ef.FetchUpdate(b"r" * 32, SIZE, "donor")


class Updates:
    """Of the files, those that lie there."""

    def __init__(self) -> None:
        self.there: set[bytes] = set()

    def new(self, name: bytes, length: int) -> mmap.mmap:
        assert name not in self.there, "two memories over one file"
        self.there.add(name)
        return mmap.mmap(-1, length)

    def drop(self, name: bytes) -> None:
        self.there.discard(name)


class Bulk:
    def __init__(self) -> None:
        self.began: list[tuple[float, bytes]] = []
        self.aborted: list[bytes] = []

    def start_collective(self, job: CollectiveJob, on_event: object) -> None:
        self.began.append((trio.current_time(), job.transfer_id))

    def start_fetch(self, job: FetchJob, on_event: object) -> None:
        self.began.append((trio.current_time(), job.peer.encode()))

    def abort(self, name: bytes) -> None:
        self.aborted.append(name)


class Place:
    def __init__(self) -> None:
        self.updates, self.bulk, self.said = Updates(), Bulk(), list[ev.Event]()

    async def slowly(self, work: Callable[[], Any]) -> Any:
        await trio.sleep(ROOM_S)
        return work()

    @property
    def began(self) -> list[tuple[float, bytes]]:
        return self.bulk.began


@asynccontextmanager
async def transfers_on(place: Place) -> AsyncIterator[Transfers]:
    store: Any = SimpleNamespace(updates=place.updates)
    journal: Any = SimpleNamespace(codec="int8", transfer_started=lambda members: None)
    bulk: Any = place.bulk
    made = Transfers(b"run", store, ELEMENTS, Compute(), bulk, journal, Inbox(), place.slowly, 10.0, place.said.append)
    made.frozen = Frozen(torch.zeros(SIZE, dtype=torch.uint8), "00000000", b"d" * 32)
    async with trio.open_nursery() as nursery:
        made.nursery = nursery
        yield made
        nursery.cancel_scope.cancel()


async def test_nobody_waits_for_room_on_a_disk(autojump_clock: MockClock) -> None:
    """The driver did: no beacon was sent meanwhile, no message heard."""
    place = Place()
    async with transfers_on(place) as transfers:
        began_at = trio.current_time()
        await transfers.start_collective(COLLECTIVE)
        await transfers.fetch(FETCH)
        assert trio.current_time() == began_at
        await transfers.start_collective(COLLECTIVE)  # planned again: it is on its way
        await trio.sleep(1.5 * ROOM_S)
        assert sorted(place.began) == [(began_at + ROOM_S, b"donor"), (began_at + ROOM_S, COLLECTIVE.transfer)]
    assert place.said == []


async def test_what_is_given_up_before_there_is_room_ends_when_there_is(autojump_clock: MockClock) -> None:
    place = Place()
    async with transfers_on(place) as transfers:
        await transfers.start_collective(COLLECTIVE)
        await trio.sleep(1.0)
        transfers.abort(COLLECTIVE.transfer)
        await trio.sleep(3 * ROOM_S)
        assert place.said == [ev.TransferBroke(COLLECTIVE.transfer, None, False, ABORTED)]
        assert not place.began and not place.updates.there and not transfers._incoming


async def test_what_is_asked_for_anew_before_there_is_room_begins_anew(autojump_clock: MockClock) -> None:
    place = Place()
    async with transfers_on(place) as transfers:
        await transfers.start_collective(COLLECTIVE)
        await transfers.fetch(FETCH)
        await trio.sleep(1.0)
        transfers.abort(COLLECTIVE.transfer)
        await transfers.start_collective(COLLECTIVE)
        await transfers.fetch(ef.FetchUpdate(FETCH.root, SIZE, "another"))
        await trio.sleep(4 * ROOM_S)
        assert sorted(name for _, name in place.began) == [b"another", COLLECTIVE.transfer]
    assert place.said == []
