"""Dialling a peer: all its addresses, staggered, until one answers.

Owns the choice of addresses and the race between them, for our streams and for the DHT's. Replaces
`Swarm.dial_peer`, which dials one address per kind of transport (so a dead one hides the live ones), tries
each four times over 0.7 s, and then refuses the peer for a minute.
"""

import functools
import os
import socket
from dataclasses import dataclass, field
from typing import Any

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from intellectd.daemon.net import PeerUnreachable
from intellectd.daemon.p2p.addresses import Address
from intellectd.daemon.p2p.book import AddressBook, usable
from intellectd.daemon.p2p.limits import (
    ADDRESSES_PER_PEER_MAX,
    DIAL_SECONDS_MAX,
    DIAL_STAGGER_SECONDS,
    DIALS_MAX,
    DOUBTFUL_DIALS_MAX,
    LOOKUPS_MAX,
    PEERS_KNOWN_MAX,
)
from intellectd.daemon.p2p.turns import Turns

NAMES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


@functools.lru_cache(maxsize=PEERS_KNOWN_MAX)
def _id_of(peer: str) -> ID:
    """Base58 takes 27 µs. When the network of a host goes, each of a thousand disconnects asks who else is there."""
    return ID.from_string(peer)


@dataclass
class _Dial:
    """A dial in progress, and in the end what became of it."""

    ended: trio.Event = field(default_factory=trio.Event)
    failure: str = ""


class Dialer:
    def __init__(self, swarm: Any, book: AddressBook) -> None:
        self._swarm = swarm
        self._book = book
        self._turns = Turns(DIALS_MAX, DOUBTFUL_DIALS_MAX)
        self._lookups = {doubtful: trio.CapacityLimiter(LOOKUPS_MAX) for doubtful in (False, True)}
        self._answered: dict[str, None] = {}  # peers that did when they were dialled last; the newest stands last
        self._dialling: dict[str, _Dial] = {}
        self._waits: dict[str, dict[trio.CancelScope, None]] = {}  # for a turn, by peer
        self._all_connections = swarm.get_connections
        # So that no stream, ours or the DHT's, is opened on a dying connection while a live one could be.
        swarm.get_connections = self._live_of
        swarm.dial_peer = self._dial_for_swarm

    def live(self, peer: str) -> list[Any]:
        return self._live_of(_id_of(peer))

    def _live_of(self, peer_id: ID | None = None) -> list[Any]:
        """Not those whose end has begun: closing takes a fifth of a second, in which they carry nothing."""
        connections = self._all_connections(peer_id)
        if peer_id is None:
            return list(connections)
        return [c for c in connections if not is_ending(c)]

    async def connect(self, peer: str) -> None:
        """Return with a connection open. One dial at a time per peer, and its outcome is everybody's."""
        while not self.live(peer):
            dial = self._dialling.get(peer)
            if dial is None:
                dial = self._dialling[peer] = _Dial()
                await self._run(dial, peer)
            else:
                await dial.ended.wait()
            if dial.failure:
                raise PeerUnreachable(dial.failure)
            # Neither failure nor connection: whoever dialled was cancelled. Then it is our turn.

    async def _run(self, dial: _Dial, peer: str) -> None:
        try:
            await self.race(peer, self._addresses(peer))
        except PeerUnreachable as error:
            dial.failure = str(error)
        finally:
            del self._dialling[peer]
            dial.ended.set()

    async def race(self, peer: str, addresses: list[Address], named: bool = False) -> None:
        """Dial until one address answers; `named`: a person waits for it. Raises PeerUnreachable with what each one
        said."""
        if not addresses:
            raise PeerUnreachable(f"no address of {peer} is known")
        doubtful = not named and peer not in self._answered
        failures: list[str] = []
        async with trio.open_nursery() as nursery:
            for rank, address in enumerate(addresses):
                if self.live(peer):
                    break  # it came by itself
                failed = trio.Event()
                nursery.start_soon(self._try, peer, address, rank, doubtful, nursery.cancel_scope, failures, failed)
                with trio.move_on_after(DIAL_STAGGER_SECONDS):
                    await failed.wait()
        if len(failures) == len(addresses):
            self._answered.pop(peer, None)
        if not self.live(peer):
            raise PeerUnreachable(f"{peer} could not be reached: {'; '.join(failures)}")

    async def _try(
        self,
        peer: str,
        address: Address,
        rank: int,
        doubtful: bool,
        race: trio.CancelScope,
        failures: list[str],
        failed: trio.Event,
    ) -> None:
        try:
            if not await self._turn_comes(peer, doubtful, rank):
                return
            try:
                with trio.fail_after(DIAL_SECONDS_MAX):
                    await self._dial(ID.from_string(peer), address, doubtful)
            finally:
                self._turns.end(doubtful)
            self._note_answer(peer)
            race.cancel()  # the slower ones lose
        except trio.TooSlowError:
            failures.append(f"{address.transport()} did not answer within {DIAL_SECONDS_MAX:g} s")
        except Exception as error:
            failures.append(f"{address.transport()} {_why(error)}")
        finally:
            failed.set()

    async def _turn_comes(self, peer: str, doubtful: bool, rank: int) -> bool:
        """False where the peer comes first."""
        with trio.CancelScope() as wait:
            waits = self._waits.setdefault(peer, {})
            waits[wait] = None
            try:
                await self._turns.begin(doubtful, rank)
            finally:
                del waits[wait]
                if not waits:
                    self._waits.pop(peer, None)
        return not wait.cancelled_caught

    def came(self, peer: str) -> None:
        """By itself, perhaps: it need not be dialled any more. What has begun goes on: where both have dialled at once,
        each would end what the other took."""
        for wait in list(self._waits.get(peer, ())):
            wait.cancel()

    def _note_answer(self, peer: str) -> None:
        self._answered.pop(peer, None)
        self._answered[peer] = None
        if len(self._answered) > PEERS_KNOWN_MAX:
            del self._answered[next(iter(self._answered))]

    async def _dial(self, peer: ID, address: Address, doubtful: bool) -> None:
        """Names are looked up as every other program of this host does it. libp2p asks name servers alone: it knows
        neither /etc/hosts nor search domains."""
        failure: Exception | None = None
        for place in await self._places(address, doubtful):
            try:
                await self._swarm._dial_addr_single_attempt(Multiaddr(str(place)), peer)
                return
            except Exception as error:
                failure = error
        assert failure is not None, "a name without an address is an error of the lookup"
        raise failure

    async def _places(self, address: Address, doubtful: bool) -> list[Address]:
        if address.family not in NAMES:
            return [address]
        kind = NAMES[address.family]

        def look_up() -> list[tuple[Any, ...]]:
            return [*socket.getaddrinfo(address.host, address.port, family=kind, type=socket.SOCK_STREAM)]

        # In threads of their own number: a name server that is down must not take those that write votes, and names
        # that a stranger made up, whose server never answers, not those by which members are found.
        found = await trio.to_thread.run_sync(  # type: ignore[call-arg]  # its decorator hides the keywords from mypy
            look_up, abandon_on_cancel=True, limiter=self._lookups[doubtful]
        )
        hosts = dict.fromkeys((kind, where[0]) for kind, _, _, _, where in found)
        kinds = {socket.AF_INET: "ip4", socket.AF_INET6: "ip6"}
        return [
            Address(kinds[kind], str(host).partition("%")[0], address.port, address.peer)
            for kind, host in list(hosts)[:ADDRESSES_PER_PEER_MAX]
            if kind in kinds
        ]

    def _addresses(self, peer: str) -> list[Address]:
        """What we were told goes before what the DHT says."""
        found = self._book.of(peer)
        try:
            texts = [str(a) for a in self._swarm.peerstore.addrs(ID.from_string(peer))]
        except Exception:  # unknown or expired, said in several ways
            texts = []
        return list(dict.fromkeys(found + usable(peer, texts)))[:ADDRESSES_PER_PEER_MAX]

    async def _dial_for_swarm(self, peer_id: ID) -> list[Any]:
        peer = str(peer_id)
        await self.connect(peer)
        return self.live(peer)


def is_ending(connection: Any) -> bool:
    return bool(connection.is_closed or connection.muxed_conn.event_shutting_down.is_set())


def _why(error: BaseException) -> str:
    """The cause in a few words. libp2p wraps it several times, and its outer texts name internals."""
    seen: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(seen) < 8:
        seen.append(f"{type(cause).__name__} {cause}")
        if isinstance(cause, socket.gaierror):
            return f"is a name without an address here: {cause.strerror}"
        if isinstance(cause, OSError) and cause.errno:
            return f"answered: {os.strerror(cause.errno)}"
        # trio groups what each attempt at a socket said; there is one attempt per address.
        inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else None
        cause = inner or cause.__cause__ or cause.__context__
    if any("mismatch" in text.lower() for text in seen):
        return "belongs to another peer"
    return f"failed: {str(error)[:200] or type(error).__name__}"
