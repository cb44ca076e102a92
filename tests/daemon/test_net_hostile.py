"""Bytes that no well-behaved peer sends: the peer is dropped with a reason, the host serves the others."""

import contextlib
from collections.abc import Awaitable, Callable

import msgpack
import pytest
import trio

from intellectd.daemon.net import WIRE_VERSION, PeerUnreachable
from intellectd.daemon.p2p import limits, wire
from intellectd.daemon.p2p.network import RpcNetwork
from intellectd.daemon.p2p.streams import ByteStream, FrameReader, StreamEnded
from tests.daemon.net_world import PATIENCE_S, connect, echo, eventually, raw_stream, world_of

PREAMBLE = wire.encode_preamble(wire.Preamble())


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a frame claims 1195725856 bytes"),
        (framed(b"\xc1garbage"), "not msgpack"),
        (framed(msgpack.packb({"hello": "world"})), "no preamble"),
        (PREAMBLE + b"\xff\xff\xff\xff", "a frame claims 4294967295 bytes"),
        (PREAMBLE + (wire.FRAME_BYTES_MAX + 1).to_bytes(4, "big"), "the limit is"),
        (PREAMBLE + framed(msgpack.packb([9, 1, "m", b""])), "unknown kind"),
        (PREAMBLE + framed(msgpack.packb([wire.CALL, "1", "m", b""])), "no 63-bit number"),
        (PREAMBLE + wire.encode(wire.Frame(wire.ANSWER, 1, "", b"")), "an answer came"),
        (PREAMBLE + framed(b"\xdd\xff\xff\xff\xff"), "not msgpack"),
    ],
)
async def test_garbage_drops_its_peer_with_a_reason(
    kind: str, clock: object, sent: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world_of(kind) as world:
        host, friend, villain = [await world.open() for _ in range(3)]
        host.on_call("echo", echo)
        await connect(friend, host)
        stream = await raw_stream(villain, host)
        await eventually(lambda: villain.peer_id in host.connected())
        await stream.write(sent)
        await eventually(lambda: host.connected() == [friend.peer_id])
        assert f"hung up on {villain.peer_id}: " in caplog.text
        assert reason in caplog.text
        assert await friend.call(host.peer_id, "echo", b"alive", PATIENCE_S) == b"alive"


async def test_a_listener_that_answers_garbage_is_unreachable(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        host, villain = await world.open(), await world.open()
        _serve_instead(villain, _answer_garbage)
        with pytest.raises(PeerUnreachable, match=r"hung up on .*: a frame claims 4294967295 bytes"):
            await host.dial(villain.addresses()[0], PATIENCE_S)
        await eventually(lambda: host.connected() == [])


async def test_calls_beyond_the_limit_are_refused_and_the_rest_goes_on(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        host, villain = await world.open(), await world.open()
        door = trio.Event()

        async def wait(peer: str, body: bytes) -> bytes:
            await door.wait()
            return body

        host.on_call("wait", wait)
        stream = await raw_stream(villain, host)
        count = limits.CALLS_IN_FLIGHT_MAX + 5
        calls = [wire.encode(wire.Frame(wire.CALL, n, "wait", b"%d" % n)) for n in range(count)]
        await stream.write(PREAMBLE + b"".join(calls))
        reader = FrameReader(stream)
        await reader.next(limits.PREAMBLE_BYTES_MAX)
        with trio.fail_after(PATIENCE_S):
            refused = [wire.decode(await reader.next(wire.FRAME_BYTES_MAX)) for _ in range(5)]
            door.set()
            served = [wire.decode(await reader.next(wire.FRAME_BYTES_MAX)) for _ in range(count - 5)]
        assert [frame.id for frame in refused] == list(range(limits.CALLS_IN_FLIGHT_MAX, count))
        assert all(frame.kind == wire.ERROR and frame.body.startswith(b"busy") for frame in refused)
        assert sorted(frame.id for frame in served) == list(range(limits.CALLS_IN_FLIGHT_MAX))
        assert all(frame.body == b"%d" % frame.id for frame in served)


async def test_an_answer_nobody_asked_for_is_nobodys(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        host, peer = await world.open(), await world.open()
        _serve_instead(peer, _answer_twice)
        await connect(host, peer)
        assert await host.call(peer.peer_id, "anything", b"once", PATIENCE_S) == b"once"
        assert await host.call(peer.peer_id, "anything", b"again", PATIENCE_S) == b"again"


async def test_a_second_stream_of_a_peer_replaces_its_first(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        host, peer = await world.open(), await world.open()
        host.on_call("echo", echo)
        first = await raw_stream(peer, host)
        await first.write(PREAMBLE)
        reader = FrameReader(first)
        await reader.next(limits.PREAMBLE_BYTES_MAX)
        await connect(peer, host)
        with trio.fail_after(PATIENCE_S), pytest.raises(StreamEnded):
            await reader.next(wire.FRAME_BYTES_MAX)
        assert await peer.call(host.peer_id, "echo", b"second", PATIENCE_S) == b"second"


async def test_who_is_refused_again_and_again_does_not_fill_the_log(
    kind: str, clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with world_of(kind) as world:
        host, villain = await world.open(), await world.open()
        for _ in range(5):
            stream = await raw_stream(villain, host)
            await stream.write(wire.encode_preamble(wire.Preamble(wire=WIRE_VERSION + 1)))
            await FrameReader(stream).next(limits.PREAMBLE_BYTES_MAX)
        assert caplog.text.count("refused ") == 1


async def test_who_says_nothing_is_dropped(
    kind: str, clock: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "libp2p":
        monkeypatch.setattr("intellectd.daemon.p2p.serve.PREAMBLE_SECONDS_MAX", 0.5)
    async with world_of(kind) as world:
        host, villain = await world.open(), await world.open()
        await raw_stream(villain, host)
        await eventually(lambda: villain.peer_id in host.connected())
        await eventually(lambda: host.connected() == [])
        assert "no compatible preamble in time" in caplog.text


async def test_who_does_not_read_is_hung_up_on(
    kind: str, clock: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The window of its stream fills, the writer is stuck, and the outbox must not grow for ever."""
    if kind == "libp2p":
        monkeypatch.setattr("intellectd.daemon.p2p.streams.WRITE_SECONDS_MAX", 0.3)
    async with world_of(kind) as world:
        host, villain = await world.open(), await world.open()
        _serve_instead(villain, _greet_and_stop_reading)
        await connect(host, villain)
        gone: list[str] = []
        host.on_disconnect(gone.append)
        with trio.fail_after(3 * limits.WRITE_SECONDS_MAX):
            while not gone:
                # yamux opens its window to up to 16 MB; more than the outbox holds must not wait here.
                if _waiting(host, villain) < 4:
                    assert host.post(villain.peer_id, bytes(256 * 1024))
                await trio.sleep(0.005)
        assert gone == [villain.peer_id]
        assert f"hung up on {villain.peer_id}: nothing could be written" in caplog.text


def _waiting(host: RpcNetwork, peer: RpcNetwork) -> int:
    return len(host._rpc._links[peer.peer_id]._outbox)


async def _answer_garbage(stream: ByteStream) -> None:
    await stream.write(b"\xff\xff\xff\xff")
    await trio.sleep_forever()


async def _answer_twice(stream: ByteStream) -> None:
    reader = FrameReader(stream)
    await reader.next(limits.PREAMBLE_BYTES_MAX)
    await stream.write(PREAMBLE)
    while True:
        frame = wire.decode(await reader.next(wire.FRAME_BYTES_MAX))
        answer = wire.encode(wire.Frame(wire.ANSWER, frame.id, "", frame.body))
        await stream.write(answer + answer)


async def _greet_and_stop_reading(stream: ByteStream) -> None:
    await FrameReader(stream).next(limits.PREAMBLE_BYTES_MAX)
    await stream.write(PREAMBLE)
    await trio.sleep_forever()


def _serve_instead(host: RpcNetwork, behave: Callable[[ByteStream], Awaitable[None]]) -> None:
    async def serve(peer: str, stream: ByteStream) -> None:
        with contextlib.suppress(StreamEnded):
            await behave(stream)

    host._rpc.serve = serve  # type: ignore[method-assign]
