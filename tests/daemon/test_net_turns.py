"""Whom black-holed addresses keep from being dialled, on a clock that jumps."""

import socket
import threading
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from trio.testing import MockClock, wait_all_tasks_blocked

from intellectd.daemon.net import PeerUnreachable
from intellectd.daemon.p2p.addresses import parse_dialable
from intellectd.daemon.p2p.book import AddressBook
from intellectd.daemon.p2p.dialer import Dialer
from intellectd.daemon.p2p.limits import (
    ADDRESSES_PER_PEER_MAX,
    DIAL_SECONDS_MAX,
    DIALS_MAX,
    DOUBTFUL_DIALS_MAX,
    LOOKUPS_MAX,
)
from intellectd.daemon.p2p.turns import Turns
from intellectd.daemon.peer_id import peer_id_of_public_key
from tests.daemon.net_world import PATIENCE_S


def name(number: int) -> str:
    return peer_id_of_public_key(number.to_bytes(32, "big"))


class Connection:
    is_closed = False

    def __init__(self) -> None:
        self.muxed_conn = self
        self.event_shutting_down = trio.Event()


class Swarm:
    """Some hosts answer; of all others nothing is ever heard."""

    def __init__(self) -> None:
        self.answers: set[str] = set()
        self.live: dict[ID, list[Connection]] = {}
        self.dialling = self.most = 0
        self.peerstore = self

    def addrs(self, peer: ID) -> list[Multiaddr]:
        return []

    def get_connections(self, peer: ID | None = None) -> list[Connection]:
        return self.live.get(peer, []) if peer is not None else []

    async def _dial_addr_single_attempt(self, address: Multiaddr, peer: ID) -> None:
        self.dialling += 1
        self.most = max(self.most, self.dialling)
        try:
            await trio.lowlevel.checkpoint()
            if str(peer) not in self.answers:
                await trio.sleep_forever()
            self.live[peer] = [Connection()]
        finally:
            self.dialling -= 1


class Dialling:
    def __init__(self) -> None:
        self.swarm, self.book = Swarm(), AddressBook()
        self.dialer = Dialer(self.swarm, self.book)

    def learn(self, peer: str, count: int = ADDRESSES_PER_PEER_MAX, host: str = "/ip4/10.0.0.1") -> None:
        self.book.learn(peer, [f"{host}/tcp/{port}/p2p/{peer}" for port in range(1, count + 1)])

    def hang_up(self, peer: str) -> None:
        for connection in self.swarm.live.pop(ID.from_string(peer)):
            connection.event_shutting_down.set()

    async def try_for_good(self, peer: str) -> None:
        while True:
            try:
                await self.dialer.connect(peer)
                return
            except PeerUnreachable:
                await trio.lowlevel.checkpoint()


@pytest.fixture
def dialling() -> Dialling:
    return Dialling()


async def test_hosts_that_are_gone_keep_nobody_from_being_dialled(
    dialling: Dialling, autojump_clock: MockClock
) -> None:
    """With eight addresses each they took all turns: who had just been there waited behind all of them."""
    friend, gone = name(0), [name(number) for number in range(1, 31)]
    for peer in (friend, *gone):
        dialling.learn(peer)
    dialling.swarm.answers = {friend, *gone}
    for peer in (friend, *gone):
        await dialling.dialer.connect(peer)
    dialling.swarm.answers = {friend}
    async with trio.open_nursery() as nursery:
        for peer in gone:
            dialling.hang_up(peer)
            nursery.start_soon(dialling.try_for_good, peer)
        await trio.sleep(60.0)
        for _ in range(10):
            dialling.hang_up(friend)
            with trio.fail_after(0.001):
                await dialling.dialer.connect(friend)
            await trio.sleep(1.7)
        assert dialling.swarm.most <= DIALS_MAX
        nursery.cancel_scope.cancel()


async def test_whom_a_person_names_goes_before_names_that_strangers_made_up(
    dialling: Dialling, autojump_clock: MockClock
) -> None:
    friend, late, made_up = name(0), name(1), [name(number) for number in range(2, 62)]
    for peer in (friend, late, *made_up):
        dialling.learn(peer)
    dialling.swarm.answers = {friend, late}
    async with trio.open_nursery() as nursery:
        for peer in made_up:
            nursery.start_soon(dialling.try_for_good, peer)
        await trio.sleep(20.0)
        with trio.fail_after(0.001):
            await dialling.dialer.race(friend, [parse_dialable(f"/ip4/10.0.0.1/tcp/1/p2p/{friend}")], named=True)
        # Never heard of, and named by nobody: the first address of each other host goes before, but not all of them.
        rounds = 1 + len(made_up) // DOUBTFUL_DIALS_MAX
        with trio.fail_after(2 * rounds * DIAL_SECONDS_MAX):
            await dialling.dialer.connect(late)
        nursery.cancel_scope.cancel()


async def test_who_comes_by_itself_is_not_waited_for_at_its_addresses(
    dialling: Dialling, autojump_clock: MockClock
) -> None:
    """But for what has begun: both may have dialled at once."""
    late, gone = name(0), [name(number) for number in range(1, 41)]
    async with trio.open_nursery() as nursery:
        for peer in gone:
            dialling.learn(peer)
            nursery.start_soon(dialling.try_for_good, peer)
        await trio.sleep(4.0)
        dialling.learn(late)
        came_at = trio.current_time() + 0.1
        with trio.fail_after(0.1 + DIAL_SECONDS_MAX + 0.001):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(dialling.dialer.connect, late)
                await trio.sleep_until(came_at)
                dialling.swarm.live[ID.from_string(late)] = [Connection()]
                dialling.dialer.came(late)
        assert not dialling.dialer._waits.get(late)
        nursery.cancel_scope.cancel()
    assert dialling.swarm.dialling == 0


async def test_turns_that_are_given_up_are_free_again(autojump_clock: MockClock) -> None:
    turns, begun = Turns(3, 2), []

    async def one(doubtful: bool, rank: int) -> None:
        await turns.begin(doubtful, rank)
        begun.append((doubtful, rank))
        try:
            await trio.sleep(1.0)
        finally:
            turns.end(doubtful)

    for _ in range(3):
        begun.clear()
        async with trio.open_nursery() as nursery:
            for rank in (2, 1, 0, 3):
                nursery.start_soon(one, True, rank)
                await wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(one, False, 0)
                await wait_all_tasks_blocked()
            assert begun == [(True, 2), (True, 1), (False, 0)]
            await trio.sleep(1.5)
            assert sorted(begun[3:]) == [(False, 0), (False, 0), (True, 0)]
            nursery.cancel_scope.cancel()


async def test_names_that_never_resolve_keep_no_other_from_being_looked_up(
    dialling: Dialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of names that a stranger runs need only be slow."""
    release, look_up = threading.Event(), socket.getaddrinfo
    friend, strangers = name(0), [name(number) for number in range(1, LOOKUPS_MAX + 2)]

    def slow(host: str, *arguments: Any, **named: Any) -> Any:
        if host.startswith("slow"):
            release.wait(PATIENCE_S)
        return look_up("127.0.0.1", *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    dialling.swarm.answers = {friend}
    dialling.learn(friend, 1, "/dns4/friend.example")
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE_S):
                await dialling.dialer.connect(friend)
                for peer in strangers:
                    dialling.learn(peer, 1, "/dns4/slow.example")
                    nursery.start_soon(dialling.try_for_good, peer)
                lookups = dialling.dialer._lookups[True]
                while lookups.borrowed_tokens < LOOKUPS_MAX:
                    await trio.sleep(0.01)
                dialling.hang_up(friend)
                await dialling.dialer.connect(friend)
            nursery.cancel_scope.cancel()
    finally:
        release.set()
