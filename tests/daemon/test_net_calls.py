"""Calls and posts between two hosts: what arrives, in which order, and which error says what went wrong."""

from collections import Counter

import pytest
import trio
import trio.testing

from intellectd.daemon.net import (
    MESSAGE_BYTES_MAX,
    CallTimeout,
    NetworkError,
    PeerUnreachable,
    RemoteFailure,
    WireVersionMismatch,
)
from intellectd.daemon.p2p.limits import CALLS_IN_FLIGHT_MAX, OUTBOX_MESSAGES_MAX
from intellectd.daemon.p2p.wire import Preamble
from tests.daemon.net_world import PATIENCE_S, World, connect, dead_address, echo, eventually, world_of


async def test_a_call_tells_the_handler_who_called_and_the_caller_what_it_said(kind: str, clock: object) -> None:
    async def greet(peer: str, body: bytes) -> bytes:
        return peer.encode() + b" said " + body

    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        there.on_call("greet", greet)
        await connect(here, there)
        assert await here.call(there.peer_id, "greet", b"hi", PATIENCE_S) == here.peer_id.encode() + b" said hi"
        assert here.connected() == [there.peer_id]
        await eventually(lambda: list(there.came()) == [here.peer_id])
        assert here.came() == {}, "it dialled, and nobody dialled it"


async def test_calls_in_flight_are_answered_in_any_order(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        doors = {b"1": trio.Event(), b"2": trio.Event(), b"3": trio.Event()}
        answered: list[bytes] = []

        async def wait_for_door(peer: str, body: bytes) -> bytes:
            await doors[body].wait()
            return b"opened " + body

        async def ask(body: bytes) -> None:
            answered.append(await here.call(there.peer_id, "door", body, PATIENCE_S))

        there.on_call("door", wait_for_door)
        await connect(here, there)
        async with trio.open_nursery() as nursery:
            for body in doors:
                nursery.start_soon(ask, body)
            for count, body in enumerate([b"3", b"1", b"2"]):
                doors[body].set()
                await eventually(lambda count=count: len(answered) == count + 1)  # type: ignore[misc]
        assert answered == [b"opened 3", b"opened 1", b"opened 2"]


async def test_a_late_answer_costs_its_own_call_only(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        asked, door = trio.Event(), trio.Event()

        async def slow(peer: str, body: bytes) -> bytes:
            asked.set()
            await door.wait()
            return b"too late"

        there.on_call("slow", slow)
        there.on_call("echo", echo)
        await connect(here, there)
        with pytest.raises(CallTimeout, match=r"did not answer within 1\.5 s"):
            await here.call(there.peer_id, "slow", b"", 1.5)
        assert asked.is_set()
        assert await here.call(there.peer_id, "echo", b"still here", PATIENCE_S) == b"still here"
        door.set()  # its answer arrives now, and is nobody's
        assert await here.call(there.peer_id, "echo", b"and now", PATIENCE_S) == b"and now"


async def test_more_calls_than_may_be_in_flight_wait_their_turn(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        running, most = 0, 0

        async def count(peer: str, body: bytes) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await trio.testing.wait_all_tasks_blocked()
            running -= 1
            return body

        there.on_call("count", count)
        await connect(here, there)
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await here.call(there.peer_id, "count", b"%d" % number, PATIENCE_S))

        async with trio.open_nursery() as nursery:
            for number in range(3 * CALLS_IN_FLIGHT_MAX):
                nursery.start_soon(ask, number)
        assert sorted(answers) == sorted(b"%d" % n for n in range(3 * CALLS_IN_FLIGHT_MAX))
        assert 1 < most <= CALLS_IN_FLIGHT_MAX


async def test_a_failing_handler_is_an_answer_to_its_caller_and_a_line_in_the_log(
    kind: str, clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def boom(peer: str, body: bytes) -> bytes:
        raise ValueError("no such round")

    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        there.on_call("boom", boom)
        there.on_call("echo", echo)
        await connect(here, there)
        with pytest.raises(RemoteFailure, match="boom: no such round"):
            await here.call(there.peer_id, "boom", b"", PATIENCE_S)
        with pytest.raises(RemoteFailure, match="no method 'missing'"):
            await here.call(there.peer_id, "missing", b"", PATIENCE_S)
        assert f"the handler of 'boom' failed for {here.peer_id}" in caplog.text
        assert await here.call(there.peer_id, "echo", b"alive", PATIENCE_S) == b"alive"


async def test_the_largest_message_passes_and_a_larger_one_is_refused(kind: str, clock: object) -> None:
    async def swell(peer: str, body: bytes) -> bytes:
        return bytes(MESSAGE_BYTES_MAX + 1)

    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        there.on_call("echo", echo)
        there.on_call("swell", swell)
        await connect(here, there)
        largest = bytes(MESSAGE_BYTES_MAX)
        assert await here.call(there.peer_id, "echo", largest, PATIENCE_S) == largest
        with pytest.raises(ValueError, match="use the bulk plane"):
            await here.call(there.peer_id, "echo", largest + b"!", PATIENCE_S)
        with pytest.raises(ValueError, match="use the bulk plane"):
            here.post(there.peer_id, largest + b"!")
        with pytest.raises(RemoteFailure, match="the limit is"):
            await here.call(there.peer_id, "swell", b"", PATIENCE_S)


async def test_posts_arrive_in_order_and_a_failing_handler_keeps_nobody_from_the_next(
    kind: str, clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        got: list[bytes] = []

        def receive(peer: str, body: bytes) -> None:
            assert peer == here.peer_id
            got.append(body)
            if body == b"7":
                raise ValueError("seven is unlucky")

        there.on_post(receive)
        here.learn(there.peer_id, there.addresses())
        assert all(here.post(there.peer_id, b"%d" % number) for number in range(500))
        await eventually(lambda: len(got) == 500)
        assert got == [b"%d" % number for number in range(500)]
        assert "seven is unlucky" in caplog.text


async def test_a_full_outbox_hangs_up(kind: str, clock: object, caplog: pytest.LogCaptureFixture) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        await connect(here, there)
        gone: list[str] = []
        here.on_disconnect(gone.append)
        accepted = 0
        while here.post(there.peer_id, b"x"):
            accepted += 1
        assert accepted == OUTBOX_MESSAGES_MAX
        await eventually(lambda: gone == [there.peer_id])
        assert f"hung up on {there.peer_id}: {OUTBOX_MESSAGES_MAX} messages" in caplog.text


async def test_large_posts_fill_the_outbox_by_their_bytes(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        await connect(here, there)
        body = bytes(MESSAGE_BYTES_MAX)
        accepted = 0
        while here.post(there.peer_id, body):
            accepted += 1
        assert 10 <= accepted < 20


async def test_nobody_there_is_told_apart_from_nobody_known(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, stranger = await world.open(), await world.open()
        with pytest.raises(PeerUnreachable, match=f"no address of {stranger.peer_id} is known"):
            await here.call(stranger.peer_id, "echo", b"", PATIENCE_S)
        with pytest.raises(PeerUnreachable, match="Connection refused"):
            await here.dial(dead_address(), PATIENCE_S)
        # An address where somebody else answers is not this peer's.
        other = await world.open()
        wrong = other.addresses()[0].replace(other.peer_id, stranger.peer_id)
        with pytest.raises(PeerUnreachable, match="belongs to another peer"):
            await here.dial(wrong, PATIENCE_S)


@pytest.mark.parametrize("newer_dials", [True, False])
async def test_two_wire_versions_part_with_both_named(
    kind: str, clock: object, newer_dials: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with world_of(kind) as world:
        old = await world.open(preamble=Preamble(1, "intellectd/0.1.0"))
        new = await world.open(preamble=Preamble(2, "intellectd/0.9.0"))
        dialler, listener = (new, old) if newer_dials else (old, new)
        older = "this host" if dialler is old else old.peer_id
        with pytest.raises(WireVersionMismatch) as caught:
            await dialler.dial(listener.addresses()[0], PATIENCE_S)
        assert "wire version 1" in str(caught.value) or "speaks 1" in str(caught.value)
        assert "wire version 2" in str(caught.value) or "speaks 2" in str(caught.value)
        assert str(caught.value).endswith(f"upgrade {older}")
        with pytest.raises(NetworkError):
            await dialler.call(listener.peer_id, "echo", b"", PATIENCE_S)
        await eventually(lambda: not dialler.connected() and not listener.connected())
        assert f"refused {dialler.peer_id} (intellectd/0." in caplog.text


async def test_another_wire_version_is_told_once_and_counted_each_time(
    kind: str, clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """They go on trying, as either may be upgraded; the log says it once, with what to do."""
    refused: Counter[str] = Counter()
    async with world_of(kind) as world:
        old = await world.open(preamble=Preamble(1, "intellectd/0.1.0"))
        new = await world.open(preamble=Preamble(2, "intellectd/0.9.0"))
        old.on_mismatch(lambda: refused.update(["old"]))
        new.on_mismatch(lambda: refused.update(["new"]))
        for times in (1, 2, 3):
            with pytest.raises(WireVersionMismatch):
                await old.dial(new.addresses()[0], PATIENCE_S)
            await eventually(lambda: not old.connected() and not new.connected())
            assert refused["old"] == times
        assert refused["new"] >= 1  # it hears as much of what the other dials as comes before the end
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([text for text in said if f"refused {new.peer_id}" in text and "upgrade this host" in text]) == 1
    assert len([text for text in said if f"refused {old.peer_id}" in text]) == 1
    assert not any("hung up" in text for text in said)


async def test_a_text_that_is_no_peer_id_reaches_nobody_and_harms_nobody(kind: str, clock: object) -> None:
    """Peer ids come out of messages, too."""
    async with world_of(kind) as world:
        here = await world.open()
        for text in ("", "garbage", "0OIl" * 13, "Qm" * 40, "12D3Koo\n"):
            assert here.post(text, b"") is False
            with pytest.raises(PeerUnreachable, match="is no peer id"):
                await here.call(text, "echo", b"", PATIENCE_S)
            here.learn(text, ["/ip4/127.0.0.1/tcp/1"])
            await here.evict(text)


async def test_both_dial_at_once_and_both_can_call(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        for host in (here, there):
            host.on_call("echo", echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, here, there)
            nursery.start_soon(connect, there, here)
        assert await here.call(there.peer_id, "echo", b"a", PATIENCE_S) == b"a"
        assert await there.call(here.peer_id, "echo", b"b", PATIENCE_S) == b"b"
        assert here.connected() == [there.peer_id]
        assert there.connected() == [here.peer_id]


async def test_a_closed_host_says_so(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, there = await world.open(), await world.open()
        await connect(here, there)
        await world.close(here)
        assert here.post(there.peer_id, b"") is False
        with pytest.raises(PeerUnreachable, match="shutting down"):
            await here.call(there.peer_id, "echo", b"", PATIENCE_S)


async def test_an_error_of_the_caller_leaves_the_network_as_it_is(kind: str, clock: object) -> None:
    """Not wrapped in groups of the nurseries inside."""
    world = World(kind, None)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="mine"):
        async with world._opener(bytes(32), ["/ip4/127.0.0.1/tcp/0"], [], []):
            raise KeyError("mine")
