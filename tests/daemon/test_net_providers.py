"""Whom a node of the directory tells of, where strangers announce more names than it keeps."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from libp2p.kad_dht import provider_store
from libp2p.kad_dht.kad_dht import KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from intellectd.daemon.p2p import patches
from intellectd.daemon.p2p.limits import CLOSEST_MAX, KEYS_ANNOUNCED_MAX, PROVIDER_SECONDS
from intellectd.daemon.p2p.providers import make_room_fairly, neighbourhood_in
from intellectd.daemon.peer_id import peer_id_of_public_key
from tests.daemon.net_world import connect, eventually, patient, world_of

KEY = b"/intellectd/0123456789abcdef01234567"
OWN, VILLAIN = "here", "192.0.2.0/24"


def peer(number: int) -> ID:
    return ID.from_string(peer_id_of_public_key(number.to_bytes(32, "big")))


class Directory:
    """libp2p's own store of providers, repaired, and a clock."""

    def __init__(self) -> None:
        self.places: dict[ID, str] = {peer(0): OWN}
        self.store: Any = provider_store.ProviderStore(self)
        self.now = 0.0
        make_room_fairly(self.store, peer(0), self.places.__getitem__)

    def get_id(self) -> ID:
        return peer(0)

    def add(self, number: int, place: str) -> None:
        self.places[peer(number)] = place
        self.now += 0.1
        self.store.add_provider(KEY, PeerInfo(peer(number), [Multiaddr("/ip4/192.0.2.1/tcp/4001")]))

    @property
    def told(self) -> list[str]:
        return sorted(self.places[info.peer_id] for info in self.store.get_providers(KEY))


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Directory]:
    patches.apply()
    made = Directory()
    monkeypatch.setattr(provider_store, "time", made)
    made.time = lambda: made.now  # type: ignore[attr-defined]
    yield made


def test_names_that_one_stranger_made_up_keep_nobody_out(directory: Directory) -> None:
    for number in range(1, 200):
        directory.add(number, VILLAIN)
    assert directory.told == [VILLAIN] * CLOSEST_MAX
    for number in range(200, 203):
        directory.add(number, f"friend {number}")
    directory.add(0, OWN)
    for number in range(1, 200):
        directory.add(number, VILLAIN)
    friends = [place for place in directory.told if place != VILLAIN]
    assert friends == ["friend 200", "friend 201", "friend 202", OWN]
    assert len(directory.told) == CLOSEST_MAX


def test_a_cluster_in_one_network_shares_with_others_what_there_is(directory: Directory) -> None:
    for number in range(1, 41):
        directory.add(number, "cluster")
    for number in range(41, 81):
        directory.add(number, VILLAIN)
    for number in range(1, 81):
        directory.add(number, directory.places[peer(number)])
    assert directory.told == [VILLAIN] * (CLOSEST_MAX // 2) + ["cluster"] * (CLOSEST_MAX // 2)


def test_who_falls_silent_gives_its_place_to_anybody(directory: Directory) -> None:
    for number in range(1, 21):
        directory.add(number, f"place {number}")
    directory.add(21, "late")
    assert "late" not in directory.told
    directory.now += PROVIDER_SECONDS
    directory.add(22, "later")
    assert directory.told == ["later"]


async def test_it_is_told_by_where_a_provider_speaks_from(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    async with world_of("libp2p") as world:
        here, there = await world.open(), await world.open()
        await connect(there, here)
        swarm = here._host.get_network()  # type: ignore[attr-defined]
        there_id = ID.from_string(there.peer_id)
        assert neighbourhood_in(swarm)(there_id) == "127.0.0.0/24"
        await there.announce(KEY.decode())
        dht = here._directory._dht  # type: ignore[attr-defined]
        await eventually(lambda: KEY in dht.provider_store.providers)
        assert dht.provider_store.providers[KEY][there.peer_id].place == "127.0.0.0/24"
        assert neighbourhood_in(swarm)(peer(1)) == "", "nobody who is connected"


async def test_a_clock_that_is_set_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, stock, all that was announced had expired. Back, each node refused all announcements until it had come
    so far again, as too many in ten seconds."""
    patient(monkeypatch)
    async with world_of("libp2p") as world:
        here, there = await world.open(), await world.open()
        await connect(there, here)
        await there.announce(KEY.decode())
        dht: KadDHT = here._directory._dht  # type: ignore[attr-defined]
        await eventually(lambda: KEY in dht.provider_store.providers)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 24 * 3600)
        assert list(await here.find(KEY.decode())) == [there.peer_id]
        monkeypatch.setattr(time, "time", lambda: real() - 24 * 3600)
        dht._provider_rate_window = 0.0  # so that none is too soon
        assert all(dht._check_provider_rate_limit(ID.from_string(there.peer_id)) for _ in range(3 * KEYS_ANNOUNCED_MAX))
