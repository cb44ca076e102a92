"""A transfer that is asked for anew while its end is under way: one file, one transfer, and an abort that counts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trio
import trio.testing

from intellectd.daemon.memory_bulk import MemoryBulkHub
from intellectd.daemon.runs.compute import Compute, inline
from intellectd.daemon.runs.inbox import Inbox
from intellectd.daemon.runs.outer_state import Frozen
from intellectd.daemon.runs.transfers import ABORTED, Transfers
from intellectd.daemon.store.updates import Updates
from intellectd.kernels.codec import GROUP
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from tests.daemon.bulk_swarm import Case, transfer_id

START = ef.StartTransfer(transfer_id("round"), ("a", "b"), (1, 1), "fp32", 10.0, 60.0)
DISK_S = 1.0  # that making a file takes, once `slow` is set


@dataclass
class Disk:
    """compute.RunsWork: work is done, and its answer comes late."""

    slow: bool = False
    at_work: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, work: Callable[[], Any]) -> Any:
        found = work()
        if self.slow and found is not None:
            self.at_work.set()
            await trio.sleep(DISK_S)
        await trio.lowlevel.checkpoint()
        return found


@dataclass
class Host:
    transfers: Transfers
    hub: MemoryBulkHub
    disk: Disk
    posted: list[ev.Event]
    files: Path

    async def restarts(self) -> None:
        """An attempt was aborted, another one asked for, and its file is being made."""
        await self.transfers.start_collective(START)
        self.transfers.abort(START.transfer)
        await self.transfers.start_collective(START)
        self.disk.slow = True
        with trio.fail_after(60):
            await self.disk.at_work.wait()


def host(nursery: trio.Nursery, folder: Path) -> Host:
    case, posted, disk = Case(("a", "b"), "fp32", 2 * GROUP), list[ev.Event](), Disk()
    hub, inbox, updates = MemoryBulkHub(nursery), Inbox(), Updates(folder, 0)
    journal = SimpleNamespace(transfer_started=lambda _n: None, transfer_failed=lambda _event, aborted: None)
    transfers = Transfers(
        b"run",
        SimpleNamespace(updates=updates, length=0),  # type: ignore[arg-type]
        case.elements,
        Compute(inline),
        hub.engine("a"),
        journal,  # type: ignore[arg-type]
        inbox,
        disk,
        10.0,
        posted.append,
    )
    transfers.nursery = nursery
    transfers.frozen = Frozen(torch.frombuffer(case.deltas[0], dtype=torch.uint8), "00000000", bytes(32))
    nursery.start_soon(inbox.run)
    return Host(transfers, hub, disk, posted, folder)


async def test_an_abort_counts_while_the_file_of_another_attempt_is_being_made(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        a = host(nursery, tmp_path)
        await a.restarts()
        a.transfers.abort(START.transfer)
        await trio.sleep(10 * DISK_S)
        assert a.posted == [ev.TransferBroke(START.transfer, None, False, ABORTED)]
        assert a.hub.engines["a"]._running == {} and list(tmp_path.iterdir()) == []
        nursery.cancel_scope.cancel()


async def test_what_is_asked_for_twice_while_its_file_is_being_made_is_one_transfer(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    """A second file would be the first one, cut to nothing under it."""
    async with trio.open_nursery() as nursery:
        a = host(nursery, tmp_path)
        await a.restarts()
        a.disk.slow = False
        await a.transfers.start_collective(START)
        await trio.sleep(5 * DISK_S)
        assert a.posted == [] and list(a.hub.engines["a"]._running) == [START.transfer]
        assert len(list(tmp_path.iterdir())) == 1
        nursery.cancel_scope.cancel()
