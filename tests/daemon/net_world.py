"""Hosts of one test, over libp2p and real sockets or in memory, behind one way to open and close them."""

import functools
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio

from intellectd.daemon.memory_net import MemoryHub, open_memory_network
from intellectd.daemon.p2p.host import open_network
from intellectd.daemon.p2p.network import RpcNetwork
from intellectd.daemon.p2p.streams import ByteStream

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
PATIENCE_S = 60.0  # for anything that should happen; nothing waits this long unless the test fails
NOBODY = "12D3KooWGRUrbUcLyGE9xKdMmKjDsHmKDqUvDcBkGQBz9rm8vFrE"
Opener = Callable[..., AbstractAsyncContextManager[RpcNetwork]]


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real hosts of one process share its one thread, and that with a busy machine: what ends a stranger's connection
    in seconds must not end theirs."""
    for module, *names in (
        ("dialer", "DIAL_SECONDS_MAX"),
        ("host", "DIAL_SECONDS_MAX", "STREAM_OPEN_SECONDS_MAX"),
        ("connections", "STREAM_OPEN_SECONDS_MAX"),
        ("link", "PREAMBLE_SECONDS_MAX"),
        ("serve", "PREAMBLE_SECONDS_MAX"),
    ):
        for name in names:
            monkeypatch.setattr(f"intellectd.daemon.p2p.{module}.{name}", PATIENCE_S / 2)


class World:
    """Each host lives in a task of its own, so that a test closes them in any order."""

    def __init__(self, kind: str, nursery: trio.Nursery) -> None:
        self.kind = kind
        self.hub = MemoryHub()
        self._nursery = nursery
        self._numbers = itertools.count()
        self._scopes: dict[str, trio.CancelScope] = {}
        self._closed: dict[str, trio.Event] = {}
        memory: Opener = functools.partial(open_memory_network, self.hub)
        self._opener: Opener = memory if kind == "memory" else open_network

    async def open(
        self,
        bootstrap: list[str] | None = None,
        listen: list[str] | None = None,
        announce: list[str] | None = None,
        seed: bytes | None = None,
        preamble: Any = None,
    ) -> RpcNetwork:
        seed = seed or hashlib.sha256(b"host %d" % next(self._numbers)).digest()
        context = self._opener(seed, listen or [LOOPBACK], announce or [], bootstrap or [], preamble=preamble)
        network: RpcNetwork = await self._nursery.start(self._hold, context)
        return network

    async def close(self, network: RpcNetwork) -> None:
        self._scopes[network.peer_id].cancel()
        await self._closed[network.peer_id].wait()

    async def open_all(self, count: int, bootstrap: list[str]) -> list[RpcNetwork]:
        opened: list[RpcNetwork] = []

        async def open_one() -> None:
            opened.append(await self.open(bootstrap=bootstrap))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(open_one)
        return opened

    async def _hold(
        self, context: AbstractAsyncContextManager[RpcNetwork], task_status: trio.TaskStatus[RpcNetwork]
    ) -> None:
        started = False
        peer = ""
        try:
            with trio.CancelScope() as scope:
                async with context as network:
                    peer = network.peer_id
                    self._scopes[peer], self._closed[peer] = scope, trio.Event()
                    started = True
                    task_status.started(network)
                    await trio.sleep_forever()
        finally:
            if started:
                self._closed[peer].set()


@asynccontextmanager
async def world_of(kind: str) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(kind, nursery)
        nursery.cancel_scope.cancel()


async def connect(here: RpcNetwork, there: RpcNetwork) -> None:
    assert await here.dial(there.addresses()[0], PATIENCE_S) == there.peer_id


async def raw_stream(here: RpcNetwork, there: RpcNetwork) -> ByteStream:
    """A stream on which the test writes what it likes, where a well-behaved host would run its rpc."""
    here.learn(there.peer_id, there.addresses())
    return await here._rpc._transport.open_stream(there.peer_id)


async def eventually(happened: Callable[[], bool]) -> None:
    """Wait for a condition that has no event of its own."""
    with trio.fail_after(PATIENCE_S):
        while not happened():
            await trio.sleep(0.005)


def dead_address(port: int = 9) -> str:
    """An address where nobody listens (9 is the discard service, which no test machine runs)."""
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{NOBODY}"


async def echo(peer: str, body: bytes) -> bytes:
    return body
