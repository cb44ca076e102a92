"""Who is remembered over a restart, and in which order they are tried then."""

from pathlib import Path

import trio
from trio.testing import MockClock

from intellectd.daemon.identity import Key
from intellectd.daemon.runs.compute import inline
from intellectd.daemon.runs.known_peers import PEERS_REMEMBERED_MAX, SAVE_S, KnownPeers, remembered_addresses
from tests.daemon.ram import ram_path

__all__ = ["ram_path"]

PEERS = [Key.from_seed(number.to_bytes(32, "big")).peer_id for number in range(PEERS_REMEMBERED_MAX + 5)]


def address(peer: str) -> str:
    return f"/ip4/10.0.0.1/tcp/4001/p2p/{peer}"


async def test_who_spoke_last_is_kept_and_tried_first(autojump_clock: MockClock, ram_path: Path) -> None:
    """The founder, of which nothing is ever new, must not be the first to be forgotten."""
    known, founder, late = KnownPeers(ram_path, inline), PEERS[0], PEERS[1:]
    known.remember(founder, (address(founder),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.save_always)
        for peer in late:
            known.remember(peer, (address(peer),))
            known.remember(founder, (address(founder),))
        await trio.sleep(2 * SAVE_S)
        nursery.cancel_scope.cancel()
    newest = [founder, *reversed(late)][:PEERS_REMEMBERED_MAX]
    assert remembered_addresses(ram_path) == [address(peer) for peer in newest]
