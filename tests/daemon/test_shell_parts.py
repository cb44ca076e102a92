"""Parts of the shell by themselves, in the races that whole daemons meet once a year."""

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import trio
import trio.testing

from intellectd.daemon.attach_events import TrainerEvent
from intellectd.daemon.attach_request import AttachRequest
from intellectd.daemon.bulk.interface import TransferDone, TransferProgress
from intellectd.daemon.control import ControlError, recv_frame, send_frame
from intellectd.daemon.frames import FrameClosed
from intellectd.daemon.runs import known_peers
from intellectd.daemon.runs.compute import Compute, Stopped, inline
from intellectd.daemon.runs.inbox import REPORTS_WAITING_MAX, Inbox
from intellectd.daemon.runs.known_peers import ADDRESSES_MAX, PEERS_REMEMBERED_MAX, SAVE_S, KnownPeers, load_peers
from intellectd.daemon.runs.outer_state import Frozen, OuterState
from intellectd.daemon.runs.seat import Seat
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from tests.daemon.ram import ram_path
from tests.daemon.shell_trainer import LAYOUT, TENSORS, _welcome
from tests.daemon.shell_world import shell

__all__ = ["ram_path"]
Clock = trio.testing.MockClock
N = LAYOUT.elements


# ---- the compute queue


async def test_the_queue_keeps_its_order_and_hands_over_what_work_raises(autojump_clock: Clock) -> None:
    compute, seen = Compute(inline), []

    def fails() -> None:
        raise ValueError("no")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute.run)
        for number in range(5):
            compute.submit(lambda number=number: number, seen.append)  # type: ignore[misc]
        assert await compute.do(lambda: "after them") == "after them"
        assert seen == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="no"):
            await compute.do(fails)
        nursery.cancel_scope.cancel()
    compute.submit(fails, seen.append)  # the run is over: nobody cares, and nothing breaks
    with pytest.raises(Stopped):
        await compute.do(lambda: 1)


async def test_who_waits_in_the_queue_when_the_run_ends_does_not_wait_for_ever(autojump_clock: Clock) -> None:
    compute, outcomes = Compute(lambda work: trio.sleep_forever()), []

    async def wait() -> None:
        try:
            await compute.do(lambda: 1)
        except Stopped:
            outcomes.append("stopped")

    async with trio.open_nursery() as waiting, trio.open_nursery() as run:
        run.start_soon(compute.run)
        waiting.start_soon(wait)
        waiting.start_soon(wait)
        await trio.sleep(1)
        run.cancel_scope.cancel()
    assert outcomes == ["stopped", "stopped"]


# ---- the inbox


async def test_events_cross_from_threads_in_order_and_none_after_the_end(autojump_clock: Clock) -> None:
    inbox, seen = Inbox(), []
    post = inbox.marshal(seen.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.run)
        events = [TransferProgress(b"t", number, 100) for number in range(50)]
        await trio.to_thread.run_sync(lambda: [post(event) for event in events])
        with trio.fail_after(5):
            while len(seen) < 50:
                await trio.sleep(0.01)
        assert seen == events
        nursery.cancel_scope.cancel()
    post(events[0])
    await trio.sleep(0.1)
    assert len(seen) == 50


async def test_a_flood_of_reports_never_crowds_out_an_end(autojump_clock: Clock) -> None:
    inbox, seen = Inbox(), []
    for number in range(REPORTS_WAITING_MAX + 1000):
        inbox._put(seen.append, TransferProgress(b"t", number, 10**6))
    inbox._put(seen.append, TransferDone(b"t", 1, 1, 1.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(seen) == REPORTS_WAITING_MAX + 1 and isinstance(seen[-1], TransferDone)


# ---- the trainer's seat


class Sitter:
    """The trainer's end of one attachment."""

    def __init__(self, ours: trio.socket.SocketType) -> None:
        self.sock = ours
        self.flat = torch.empty(0)
        self.frames: list[dict[str, Any]] = []

    async def welcome(self) -> None:
        _, flat = await _welcome(self.sock)
        assert flat is not None
        self.flat = flat

    async def hear(self) -> dict[str, Any]:
        frame = await recv_frame(self.sock)
        self.frames.append(frame)
        return frame


class SeatWorld:
    """A seat with a compute queue that runs when told to, and a node that hears its events when told to."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.state = OuterState(LAYOUT)
        self.state.install(torch.full((N,), 0.5), torch.zeros(N))
        self.gate = trio.Event()
        self.events: list[ev.Event] = []
        self.said: list[TrainerEvent] = []
        self.compute = Compute(self._gated)
        self.seat = Seat(self.state, self.compute, inline, self.said.append)
        self.seat.post = self.events.append
        nursery.start_soon(self.compute.run)

    async def _gated(self, work: Callable[[], Any]) -> Any:
        await self.gate.wait()
        return work()

    async def attach(self, training_round: int | None = None, resumes: bool = False) -> Sitter:
        here, there = socket.socketpair()
        sitter = Sitter(trio.socket.from_stdlib_socket(there))
        request = AttachRequest("", TENSORS, LAYOUT, training_round, 1)
        reply = lambda: {"want": "round", "elements": N}  # noqa: E731

        async def serve() -> None:
            sock = trio.socket.from_stdlib_socket(here)
            with sock:
                await self.seat.attach(sock, request, reply, lambda: resumes)

        self.nursery.start_soon(serve)
        await sitter.welcome()
        await trio.testing.wait_all_tasks_blocked()
        return sitter

    def node_hears(self) -> None:
        events, self.events = self.events, []
        self.seat.post = self.events.append
        for event in events:
            self.seat.before(event)

    def order(self, round_: int) -> None:
        self.seat.start_training(ef.StartTraining(round_, 4, ((round_, 0),), 0, round_ - 1, True), lambda: None)


@asynccontextmanager
async def seat_world() -> AsyncIterator[SeatWorld]:
    async with trio.open_nursery() as nursery:
        yield SeatWorld(nursery)
        nursery.cancel_scope.cancel()


async def test_an_order_for_one_trainer_is_not_given_to_the_next(autojump_clock: Clock) -> None:
    """The queue is busy; the trainer dies and another one sits down before the order's turn comes."""
    async with seat_world() as world:
        first = await world.attach()
        world.node_hears()
        world.order(1)
        first.sock.close()
        await trio.testing.wait_all_tasks_blocked()
        second = await world.attach()
        world.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert float(second.flat.abs().max()) == 0.0  # nobody has written to its memory yet
        world.node_hears()  # gone, and the next one is here: now it orders anew
        world.order(1)
        assert (await second.hear())["round"] == 1
        assert float(second.flat.min()) == 0.5
        assert len(second.frames) == 1


async def test_an_order_that_comes_before_the_news_of_a_change_is_dropped(autojump_clock: Clock) -> None:
    async with seat_world() as world:
        world.gate.set()
        first = await world.attach()
        world.node_hears()
        first.sock.close()
        await trio.testing.wait_all_tasks_blocked()
        second = await world.attach()
        world.order(3)  # the node still believes in the first one
        await trio.testing.wait_all_tasks_blocked()
        world.node_hears()
        world.order(4)
        assert (await second.hear())["round"] == 4


async def test_an_order_for_one_that_is_gone_does_not_hang_up_on_one_that_came_back(autojump_clock: Clock) -> None:
    async with seat_world() as world:
        world.gate.set()
        first = await world.attach()
        world.node_hears()
        first.sock.close()
        await trio.testing.wait_all_tasks_blocked()
        second = await world.attach(training_round=3, resumes=True)  # it goes on with its round, in its own memory
        world.order(3)  # meant for the first: the node hears of neither change before this
        await trio.testing.wait_all_tasks_blocked()
        assert world.seat.link.attached and second.frames == []
        assert [type(event) for event in world.events] == [ev.TrainerDetached, ev.TrainerAttached]


async def test_a_trainer_whose_round_was_decided_as_it_came_back_is_told_to_ask_again(autojump_clock: Clock) -> None:
    async with seat_world() as world:
        world.gate.set()
        back = await world.attach(training_round=3, resumes=True)
        world.node_hears()
        world.order(4)  # round 3 is history already, and the memory is the trainer's
        with pytest.raises(FrameClosed):
            await back.hear()
        await trio.testing.wait_all_tasks_blocked()
        assert [type(event) for event in world.events] == [ev.TrainerDetached]
        assert float(back.flat.abs().max()) == 0.0


async def test_a_second_trainer_never_touches_the_first_ones_memory(autojump_clock: Clock) -> None:
    async with seat_world() as world:
        world.gate.set()
        first = await world.attach()
        world.node_hears()
        world.order(1)
        await first.hear()
        here, _there = socket.socketpair()
        with pytest.raises(ControlError, match="another trainer is attached"):
            await world.seat.attach(
                trio.socket.from_stdlib_socket(here), AttachRequest("", TENSORS, LAYOUT, None, 2), dict, lambda: False
            )
        first.flat += 1.0
        await send_frame(
            first.sock, {"op": "round_ready", "round": 1, "tokens": 5, "steps": 4, "loss": None, "seconds": 1.0}
        )
        await trio.testing.wait_all_tasks_blocked()
        frozen = world.state.freeze("fp32")
        assert isinstance(frozen, Frozen)
        assert frozen.encoded.view(torch.float32).eq(-1.0).all()


async def test_finishing_is_meant_for_the_trainer_that_the_node_knows(autojump_clock: Clock) -> None:
    async with seat_world() as world:
        world.gate.set()
        first = await world.attach()
        world.seat.finish(ef.FinishTraining("over", 9))  # the node has not heard of anybody
        world.node_hears()
        world.seat.finish(ef.FinishTraining("over", 9))
        assert (await first.hear()) == {"op": "finish", "reason": "over", "state_round": 9}
        assert float(first.flat.min()) == 0.5


# ---- the table of transfers


async def test_a_transfer_asked_for_again_while_it_is_aborted_is_begun_again(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a")
        await host.init(start_peers=5)
        service = world.service(host)
        performer, posted = service.performer, []
        performer._transfers._post = posted.append
        performer._transfers.frozen = Frozen(torch.zeros(N + N // 64, dtype=torch.uint8), "00000000", bytes(32))
        start = ef.StartTransfer(bytes(32), (host.peer,), (1,), "int8", 4.0, 60.0)
        world.bulk.stall(host.peer)
        await performer(start)
        await performer(start)  # a double order is one
        await trio.sleep(1)
        await performer(ef.AbortTransfer(start.transfer))
        await performer(start)
        world.bulk.stall(host.peer, False)
        await trio.sleep(5)
        ends = [event for event in posted if not isinstance(event, ev.TransferMoved)]
        assert [type(event) for event in ends] == [ev.TransferEnded]
        assert service.store.updates.holds(ends[0].root)
        assert performer._transfers._incoming == {}


async def test_a_transfer_that_was_aborted_reports_its_end_and_leaves_no_file(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a")
        await host.init(start_peers=5)
        service = world.service(host)
        performer, posted = service.performer, []
        performer._transfers._post = posted.append
        performer._transfers.frozen = Frozen(torch.zeros(N + N // 64, dtype=torch.uint8), "00000000", bytes(32))
        world.bulk.stall(host.peer)
        await performer(ef.StartTransfer(bytes(32), (host.peer,), (1,), "int8", 4.0, 60.0))
        await trio.sleep(1)
        assert len(list(service.store.updates.path.glob(".*"))) == 1
        await performer(ef.AbortTransfer(bytes(32)))
        await trio.sleep(1)
        assert [type(event) for event in posted] == [ev.TransferBroke]
        assert list(service.store.updates.path.iterdir()) == []


# ---- known peers

PEER = "12D3KooWGRUrbUcLyGE9xKdMmKjDsHmKDqUvDcBkGQBz9rm8vFrE"


async def test_an_older_list_of_peers_never_lands_on_a_newer_one(autojump_clock: Clock, ram_path: Path) -> None:
    """The disk is slow; news comes while it writes."""
    writing: list[int] = []

    async def slowly(work: Callable[[], Any]) -> Any:
        assert not writing, "two writers at once"
        writing.append(1)
        with trio.CancelScope(shield=True):  # as a thread, which is not abandoned
            await trio.sleep(30)
        writing.clear()
        return work()

    known = KnownPeers(ram_path, slowly)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.save_always)
        for port in range(1, 40):
            known.remember(PEER, (f"/ip4/10.0.0.1/tcp/{port}/p2p/{PEER}",))
            await trio.sleep(1)
        await trio.sleep(100)
        assert json.loads((ram_path / "peers.json").read_text()) == {PEER: [f"/ip4/10.0.0.1/tcp/39/p2p/{PEER}"]}
        known.remember(PEER, (f"/ip4/10.0.0.1/tcp/77/p2p/{PEER}",))
        nursery.cancel_scope.cancel()  # the daemon stops before the next save is due
    assert load_peers(ram_path) == {PEER: [f"/ip4/10.0.0.1/tcp/77/p2p/{PEER}"]}


async def test_the_first_peer_is_on_disk_at_once_and_the_next_together(autojump_clock: Clock, ram_path: Path) -> None:
    """Who is killed a moment after it joined finds the others again."""
    saves: list[float] = []

    async def seen(work: Callable[[], Any]) -> Any:
        saves.append(trio.current_time())
        return work()

    known, began = KnownPeers(ram_path, seen), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.save_always)
        for port in range(1, 10):
            known.remember(PEER, (f"/ip4/10.0.0.1/tcp/{port}/p2p/{PEER}",))
            await trio.sleep(SAVE_S / 10)
        await trio.sleep(SAVE_S)
        nursery.cancel_scope.cancel()
    assert [at - began for at in saves] == [0.0, SAVE_S]


async def test_what_is_remembered_is_bounded_and_fits_the_file_it_is_read_from(
    autojump_clock: Clock, ram_path: Path
) -> None:
    from intellectd.daemon.identity import Key

    known = KnownPeers(ram_path, inline)
    long_name = ".".join(["x" * 60] * 4)
    peers = [Key.from_seed(number.to_bytes(32, "big")).peer_id for number in range(PEERS_REMEMBERED_MAX + 20)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.save_always)
        for peer in peers:
            known.remember(peer, tuple(f"/dns4/{long_name}/tcp/{port}" for port in range(1, 17)))
        await trio.sleep(2 * SAVE_S)
        nursery.cancel_scope.cancel()
    assert (ram_path / "peers.json").stat().st_size < known_peers.FILE_BYTES_MAX
    loaded = load_peers(ram_path)
    assert list(loaded) == peers[-PEERS_REMEMBERED_MAX:]
    assert all(len(addresses) == ADDRESSES_MAX for addresses in loaded.values())


async def test_peers_that_cannot_be_saved_are_a_warning(
    autojump_clock: Clock, ram_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = KnownPeers(ram_path / "gone", inline)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.save_always)
        known.remember(PEER, (f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}",))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == ["known peers not saved"]
