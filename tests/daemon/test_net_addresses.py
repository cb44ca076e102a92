"""Multiaddrs as text, and the peer id in them against libp2p's own."""

import errno
import os
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from intellectd.daemon.net import AddressInUse, BadAddress, NetworkError
from intellectd.daemon.p2p import interfaces
from intellectd.daemon.p2p.addresses import (
    EXAMPLE,
    Address,
    advertised,
    parse,
    parse_announce,
    parse_dialable,
    parse_listen,
)
from intellectd.daemon.p2p.book import AddressBook, usable
from intellectd.daemon.p2p.bootstrap import Bootstrapper
from intellectd.daemon.p2p.host import _check_listening
from intellectd.daemon.p2p.interfaces import interface_hosts
from intellectd.daemon.p2p.limits import ADDRESSES_PER_PEER_MAX, PEERS_KNOWN_MAX
from intellectd.daemon.peer_id import peer_id_of_public_key, public_key_of_peer_id
from tests.daemon.net_world import NOBODY, connect, world_of


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE,
        f"/ip6/2001:db8::7/tcp/4001/p2p/{NOBODY}",
        f"/dns4/seed.example.org/tcp/443/p2p/{NOBODY}",
        f"/dns/a-b.c4d.Example/tcp/1/p2p/{NOBODY}",
        "/ip4/0.0.0.0/tcp/0",
        "/ip6/::/tcp/65535",
    ],
)
def test_good_addresses_survive_and_libp2p_reads_them_too(text: str) -> None:
    assert str(parse(text)) == text
    assert str(Multiaddr(text)) == text


@given(st.text(max_size=100) | st.text(alphabet="/ip46tcpdns:.0123456789", max_size=60))
def test_any_text_is_an_address_or_bad(text: str) -> None:
    try:
        address = parse(text)
    except BadAddress as error:
        assert EXAMPLE in str(error)
    else:
        assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/٤٠٠١",  # digits to Python, not to anybody else
        "/ip4/127.0.0.1/tcp/-1",
        "/ip4/127.0.0.1/tcp/+80",
        "/ip4/::1/tcp/80",
        "/ip6/127.0.0.1/tcp/80",
        "/ip6/fe80::1%lo/tcp/80",
        "/dns/-bad/tcp/80",
        "/dns/a_b.example/tcp/80",
        "/dns/with space/tcp/80",
        "/dns/" + "a" * 600 + "/tcp/80",
        "ip4/127.0.0.1/tcp/80",
        "/ip4/127.0.0.1/tcp/80/",
        f"/ip4/127.0.0.1/tcp/80/ipfs/{NOBODY}",
        f"/ip4/127.0.0.1/tcp/80/p2p/{NOBODY[:-1]}",
    ],
)
def test_near_misses_are_bad(text: str) -> None:
    with pytest.raises(BadAddress):
        parse(text)


def test_listening_dialling_and_announcing_want_different_addresses() -> None:
    assert parse_listen("/ip4/0.0.0.0/tcp/0").wildcard()
    assert parse_dialable(EXAMPLE).peer == NOBODY
    assert parse_announce("/dns4/seed.example/tcp/1", NOBODY).peer == NOBODY
    for wrong in ("/dns4/seed.example/tcp/1", EXAMPLE):
        with pytest.raises(BadAddress, match="no listen address"):
            parse_listen(wrong)
    for wrong in ("/ip4/0.0.0.0/tcp/1", "/ip4/127.0.0.1/tcp/0"):
        with pytest.raises(BadAddress, match="cannot be dialled"):
            parse_announce(wrong, NOBODY)
    other = peer_id_of_public_key(bytes(32))
    with pytest.raises(BadAddress, match="another peer's id"):
        parse_announce(EXAMPLE, other)


def test_a_wildcard_is_advertised_as_the_hosts_own_addresses() -> None:
    texts = advertised([Address("ip4", "0.0.0.0", 4001), Address("ip4", "127.0.0.1", 5001)], NOBODY)
    assert texts
    assert texts[-1] in (f"/ip4/127.0.0.1/tcp/{port}/p2p/{NOBODY}" for port in (4001, 5001))
    for text in texts:
        assert not parse_dialable(text).wildcard()


def test_a_book_keeps_few_addresses_of_a_peer_the_newest_first_and_few_peers() -> None:
    book = AddressBook()
    assert book.learn(NOBODY, ["/ip4/127.0.0.1/tcp/1"])
    assert not book.learn(NOBODY, ["/ip4/127.0.0.1/tcp/1"])
    for port in range(2, 20):
        assert book.learn(NOBODY, [f"/ip4/127.0.0.1/tcp/{port}"])
    assert [address.port for address in book.of(NOBODY)] == list(range(19, 19 - ADDRESSES_PER_PEER_MAX, -1))
    for number in range(PEERS_KNOWN_MAX):
        peer = peer_id_of_public_key(number.to_bytes(32, "big"))
        book.learn(peer, ["/ip4/127.0.0.1/tcp/1"])
    assert book.of(NOBODY) == []


def test_a_book_forgets_made_up_names_before_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that never moves was learned first, and the run never tells of its address again."""
    monkeypatch.setattr("intellectd.daemon.p2p.book.PEERS_KNOWN_MAX", 10)
    book, names = AddressBook(), [peer_id_of_public_key(number.to_bytes(32, "big")) for number in range(30)]
    for peer in names[:3]:
        book.learn(peer, ["/ip4/127.0.0.1/tcp/1"])
    book.met(names[0])
    book.met(names[29])  # not in it
    for peer in names[3:]:
        book.learn(peer, ["/ip4/127.0.0.1/tcp/1"])
    assert [peer for peer in names if book.of(peer)] == [names[0], *names[21:]]
    for peer in names:
        book.met(peer)
    book.learn(NOBODY, ["/ip4/127.0.0.1/tcp/1"])
    book.met(NOBODY)
    assert len([peer for peer in (*names, NOBODY) if book.of(peer)]) == 10 == len(book._met)


async def test_who_was_connected_is_in_the_book_as_such(kind: str, clock: object) -> None:
    async with world_of(kind) as world:
        here, early, late = [await world.open() for _ in range(3)]
        here.learn(early.peer_id, early.addresses())
        here.learn(NOBODY, [EXAMPLE.replace("203.0.113.7", "127.0.0.1")])
        await connect(early, here)
        await connect(late, here)
        here.learn(late.peer_id, late.addresses())
        assert sorted(here._book._met) == sorted([early.peer_id, late.peer_id])


def test_out_of_descriptors_a_host_is_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks while it looks for its run, where an error that nobody expects ends the daemon."""
    before = {family: interface_hosts(family) for family in ("ip4", "ip6")}

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(interfaces.socket, "socket", refuse)
        patch.setattr(interfaces, "_IF_INET6", SimpleNamespace(read_text=refuse))
        after = {family: interface_hosts(family) for family in before}
    assert after == before


def test_a_peer_that_is_back_at_an_old_address_is_dialled_there_first() -> None:
    book = AddressBook()
    book.learn(NOBODY, ["/ip4/127.0.0.1/tcp/1"])
    book.learn(NOBODY, ["/ip4/127.0.0.1/tcp/2"])
    assert not book.learn(NOBODY, ["/ip4/127.0.0.1/tcp/1"])
    assert [address.port for address in book.of(NOBODY)] == [1, 2]


def test_addresses_that_a_peer_may_claim_but_nobody_can_use_are_dropped() -> None:
    other = peer_id_of_public_key(bytes(32))
    claims = ["nonsense", f"/ip4/127.0.0.1/tcp/1/p2p/{other}", "/ip4/0.0.0.0/tcp/1", "/ip4/127.0.0.1/tcp/2"]
    assert [address.port for address in usable(NOBODY, claims)] == [2]
    assert len(usable(NOBODY, ["/ip4/127.0.0.1/tcp/3"] * 10_000)) <= ADDRESSES_PER_PEER_MAX


def test_peer_ids_are_libp2ps() -> None:
    for _ in range(20):
        pair = create_new_key_pair(os.urandom(32))
        theirs = str(ID.from_pubkey(pair.public_key))
        assert peer_id_of_public_key(pair.public_key.to_bytes()) == theirs
        assert public_key_of_peer_id(theirs) == pair.public_key.to_bytes()


async def test_an_address_that_is_dead_for_good_is_told_of_once(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    tried = 0

    async def meet(address: Address) -> None:
        nonlocal tried
        tried += 1
        raise NetworkError(f"it fails in other words each time: {tried}")

    caplog.set_level("INFO", "intellectd.p2p")
    async with trio.open_nursery() as nursery:
        bootstrapper = Bootstrapper("", meet, list, nursery)
        bootstrapper.add([f"/ip4/192.0.2.1/tcp/4001/p2p/{NOBODY}"])
        nursery.start_soon(bootstrapper.run)
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    assert tried > 5 and len(caplog.records) == 1


@pytest.mark.parametrize("text", ["/ip6/0:0::1/tcp/4001", "/ip6/2001:DB8::07/tcp/4001", "/ip4/127.0.0.1/tcp/04001"])
def test_an_address_in_another_spelling_is_not_taken_for_one_in_use(text: str) -> None:
    """As libp2p names its listeners: the daemon said that another program had the port, and ended."""
    listeners = {str(Multiaddr(text)): None}
    host = SimpleNamespace(get_network=lambda: SimpleNamespace(listeners=listeners))
    _check_listening(host, [parse_listen(text)])
    listeners.clear()
    with pytest.raises(AddressInUse):
        _check_listening(host, [parse_listen(text)])
