"""TrainerLink against a trainer made of raw frames: who may say what when, and what garbage costs."""

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from intellectd.daemon.arena import arena_tensor, create_arena, map_arena
from intellectd.daemon.attach import LOG_INTERVAL_S_MIN, OUTBOX_FRAMES_MAX, TrainerLink
from intellectd.daemon.attach_events import (
    TrainerAttached,
    TrainerDetached,
    TrainerEvaluated,
    TrainerEvent,
    TrainerInitial,
    TrainerLog,
    TrainerReady,
)
from intellectd.daemon.attach_request import AttachRequest, check_tensors, read_request
from intellectd.daemon.control import ControlError, recv_frame, send_frame
from intellectd.daemon.frames import decode_body, decode_length
from intellectd.kernels.layout import Layout, TensorSpec

FRAME = {
    "op": "attach",
    "version": 1,
    "run": "",
    "tensors": [["a", [3, 2], "float32"], ["b", [], "bfloat16"]],
    "training_round": None,
    "pid": 7,
}
READY = {"op": "round_ready", "round": 1, "tokens": 10, "steps": 2, "loss": 1.5, "seconds": 0.1}
ENCODED = {"codec": "int8", "norm": "3f800000", "refused": None}
LOG = {"op": "log", "round": 1, "step": 1, "loss": None, "tokens": 5, "tokens_per_s": 2.5, "mfu": 0.5}


class Attached:
    """Both ends of one attachment."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.events: list[TrainerEvent] = []
        self.heard = trio.Event()
        self.link = TrainerLink(self._on_event)

    def _on_event(self, event: TrainerEvent) -> None:
        self.events.append(event)
        self.heard.set()
        self.heard = trio.Event()

    async def say(self, frame: dict[str, Any]) -> None:
        await send_frame(self.sock, frame)

    async def until(self, kind: type) -> Any:
        with trio.fail_after(30):
            while not any(isinstance(event, kind) for event in self.events):
                await self.heard.wait()
        return next(event for event in self.events if isinstance(event, kind))

    def give_round(self, number: int = 1) -> None:
        self.link.start_round(number, 2, [(number, 0)], tokens_total=0, state_round=number - 1)


@asynccontextmanager
async def attached(
    want: str = "round", resume: bool = False, training_round: int | None = None
) -> AsyncIterator[Attached]:
    """The welcome is already read from the trainer's end."""
    request = read_request({**FRAME, "training_round": training_round})
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        a = Attached(theirs)
        arena = create_arena(request.layout.elements)
        reply = {"elements": request.layout.elements, "want": want, "resume": resume}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.link.accept, ours, request, reply, arena)
            await a.until(TrainerAttached)
            os.close(arena)
            assert (await recv_frame(theirs))["want"] == want
            yield a
            nursery.cancel_scope.cancel()


async def test_the_arena_rides_on_the_answer() -> None:
    request = read_request(FRAME)
    assert request.layout.elements == 512
    link = TrainerLink(lambda event: None)
    ours, theirs = socket.socketpair()
    descriptor = create_arena(512)
    before = arena_tensor(map_arena(descriptor, 512))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.accept, trio.socket.from_stdlib_socket(ours), request, {"want": "round"}, descriptor)
        await trio.testing.wait_all_tasks_blocked()
        header, descriptors, _, _ = socket.recv_fds(theirs, 4, 4)
        assert decode_body(theirs.recv(decode_length(header))) == {"ok": True, "want": "round"}
        nursery.cancel_scope.cancel()
    assert len(descriptors) == 1
    arena_tensor(map_arena(descriptors[0], 512)).fill_(3.0)
    assert before.sum().item() == 3.0 * 512
    for each in (descriptor, *descriptors):
        os.close(each)
    ours.close()
    theirs.close()


async def test_a_round_goes_back_and_forth() -> None:
    async with attached(want="initial") as a:
        assert a.link.attached and not a.link.arena_is_free, "the trainer writes its first parameters"
        await a.say({"op": "initial"})
        assert await a.until(TrainerInitial) == TrainerInitial()
        assert a.link.arena_is_free
        a.give_round()
        assert not a.link.arena_is_free
        assert await recv_frame(a.sock) == {
            "op": "round",
            "round": 1,
            "steps": 2,
            "streams": [[1, 0]],
            "tokens_total": 0,
            "state_round": 0,
            "carried_over": False,
            "carry": False,
        }
        await a.say(LOG)
        assert await a.until(TrainerLog) == TrainerLog(1, 1, None, 5, 2.5, None, 0.5)
        await a.say(READY)
        assert await a.until(TrainerReady) == TrainerReady(1, 10, 2, 1.5, 0.1)
        assert a.link.arena_is_free
        a.link.finish("done", 1)
        assert await recv_frame(a.sock) == {"op": "finish", "reason": "done", "state_round": 1}
        await a.say({"op": "evaluated", "state_round": 1, "loss": 2})
        assert await a.until(TrainerEvaluated) == TrainerEvaluated(1, 2.0)
        a.sock.shutdown(socket.SHUT_WR)
        assert await a.until(TrainerDetached) == TrainerDetached("it has finished")
    assert not a.link.attached and not a.link.arena_is_free


async def test_a_resumed_round_is_delivered_without_being_given_again() -> None:
    async with attached(resume=True, training_round=1) as a:
        assert not a.link.arena_is_free
        await a.say(READY)
        assert (await a.until(TrainerReady)).round == 1


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"op": "attach"},
        {"op": ["round_ready"]},
        {"op": "initial"},
        {**READY, "round": 2},
        {**READY, "round": "1"},
        {**READY, "tokens": -1},
        {**READY, "tokens": 2**63},
        {**READY, "steps": True},
        {**READY, "loss": float("nan")},
        {**READY, "loss": "low"},
        {**READY, "loss": float("inf")},
        {**READY, "seconds": None},
        {**READY, "seconds": -0.5},
        {**READY, "encoded": "int8"},
        {**READY, "encoded": {**ENCODED, "codec": "mp3"}},
        {**READY, "encoded": {**ENCODED, "norm": 1.0}},
        {**READY, "encoded": {**ENCODED, "norm": "7fc00000"}},
        {**READY, "encoded": {**ENCODED, "norm": "bf800000"}},
        {**READY, "encoded": {**ENCODED, "refused": -1}},
        {**READY, "encoded": ENCODED},  # sound, but this trainer was not asked for it
        {**READY, "seconds": 1e300},
        {**LOG, "tokens_per_s": -1.0},
        {**LOG, "step": 1.5},
        {"op": "evaluated", "loss": 1.0},
    ],
)
async def test_garbage_detaches_the_trainer_and_says_why(frame: dict[str, Any]) -> None:
    async with attached() as a:
        a.give_round()
        await a.say(frame)
        reason = (await a.until(TrainerDetached)).reason
    assert reason.startswith("it sent garbage: ")
    assert len(reason) < 200
    assert not any(isinstance(event, TrainerReady | TrainerLog | TrainerEvaluated) for event in a.events)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x00"])
async def test_bytes_that_are_no_frame_detach_it_too(data: bytes) -> None:
    async with attached() as a:
        await a.sock.send(data)
        assert (await a.until(TrainerDetached)).reason.startswith("it sent garbage: ")


async def test_a_frame_that_never_ends_detaches_it(autojump_clock: trio.testing.MockClock) -> None:
    async with attached() as a:
        await a.sock.send(b"\x00\x00\x01\x00half")
        with trio.fail_after(60):
            while a.link.attached:
                await a.heard.wait()
    assert "not complete" in a.events[-1].reason  # type: ignore[union-attr]


async def test_a_delivery_counts_once() -> None:
    async with attached() as a:
        a.give_round()
        await a.say(READY)
        await a.say(READY)
        assert "which it was not given" in (await a.until(TrainerDetached)).reason
    assert len([event for event in a.events if isinstance(event, TrainerReady)]) == 1


async def test_the_application_may_not_give_what_the_trainer_owns() -> None:
    async with attached() as a:
        a.give_round()
        with pytest.raises(AssertionError, match="owns the arena"):
            a.give_round(2)
        with pytest.raises(AssertionError, match="in the trainer's arena"):
            a.link.finish("done", 1)
        a.link.finish("left", None)
        assert a.link.attached


async def test_a_trainer_that_does_not_read_is_detached() -> None:
    async with attached() as a:
        for number in range(OUTBOX_FRAMES_MAX + 2):
            a.give_round(number)
            a.link._connection.trainer_writes = False  # type: ignore[union-attr]
        assert (await a.until(TrainerDetached)).reason == f"it has left {OUTBOX_FRAMES_MAX} frames unread"


async def test_a_flood_of_log_lines_is_thinned(autojump_clock: trio.testing.MockClock) -> None:
    async with attached() as a:
        a.give_round()
        for step in range(100):
            await a.say({**LOG, "step": step})
        await a.say(READY)
        await a.until(TrainerReady)
        assert [event.step for event in a.events if isinstance(event, TrainerLog)] == [0]
        await trio.sleep(LOG_INTERVAL_S_MIN)
        await a.say({**LOG, "step": 100})
        await a.say({"op": "evaluated", "state_round": 0, "loss": 1.0})
        await a.until(TrainerEvaluated)
        assert [event.step for event in a.events if isinstance(event, TrainerLog)] == [0, 100]


async def test_a_trainer_that_never_ends_after_the_finish_is_detached(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with attached() as a:
        a.link.finish("done", 0)
        with trio.fail_after(3600):
            while a.link.attached:
                await a.heard.wait()
    assert a.events[-1] == TrainerDetached("it did not end within 600 s of the finish")


async def test_hanging_up_and_a_second_trainer() -> None:
    async with attached() as a:
        with pytest.raises(ControlError) as caught:
            await a.link.accept(a.sock, read_request(FRAME), {}, -1)
        assert caught.value.code == "trainer_attached"
        assert a.link.attached
        a.link.detach("the state was replaced")
        assert await a.until(TrainerDetached) == TrainerDetached("the state was replaced")
    a.give_round()  # nobody there: nothing happens
    a.link.finish("done", 1)


# -- the first frame -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": 3},
        {"run": "x" * 257},
        {"tensors": None},
        {"tensors": []},
        {"tensors": [["a", [3]]]},
        {"tensors": [["a", [0], "float32"]]},
        {"tensors": [["a", [2**41], "float32"]]},
        {"tensors": [["a", [-1], "float32"]]},
        {"tensors": [["a", ["3"], "float32"]]},
        {"tensors": [["a", [3], "int64"]]},
        {"tensors": [["a", [3], "float32"]] * 2},
        {"training_round": -1},
        {"pid": None},
    ],
)
def test_an_unusable_first_frame_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ControlError) as caught:
        read_request({**FRAME, **wrong})
    assert caught.value.code == "bad_attach"


def test_a_first_frame_is_read() -> None:
    specs = (TensorSpec("a", (3, 2)), TensorSpec("b", (), "bfloat16"))
    assert read_request({**FRAME, "training_round": 4}) == AttachRequest("", specs, Layout(specs), 4, 7)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a": (3, 2), "b": ()}, None),
        ({"a": (2, 3), "b": ()}, "tensor 1 of the trainer is 'a' [3, 2], of the run 'a' [2, 3]"),
        ({"module._orig_mod.a": (3, 2), "b._checkpoint_wrapped_module": ()}, None),
        ({"a": (3, 2)}, "tensor 2 of the trainer is 'b' [], of the run missing"),
        ({"a": (3, 2), "c": (), "b": ()}, "tensor 2 of the trainer is 'b' [], of the run 'c' []"),
        ({"a": (3, 2), "b": (), "c": (1,)}, "tensor 3 of the trainer is missing, of the run 'c' [1]"),
    ],
)
def test_the_first_tensor_that_differs_is_named(shapes: dict[str, tuple[int, ...]], message: str | None) -> None:
    expected = Layout([TensorSpec(name, shape) for name, shape in shapes.items()])
    check: Callable[[], None] = lambda: check_tensors(expected, read_request(FRAME))  # noqa: E731
    if message is None:
        check()
    else:
        with pytest.raises(ControlError) as caught:
            check()
        assert (caught.value.code, caught.value.message) == ("tensor_mismatch", message)
