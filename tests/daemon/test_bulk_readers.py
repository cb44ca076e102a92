"""Places of those that are served: bounded in all and for each peer, and nobody is turned away for ever."""

import pytest

from intellectd.daemon.bulk import piece_fetch, readers
from intellectd.daemon.bulk.interface import TransferDone
from intellectd.daemon.bulk.limits import SERVE_TENURE_S, SERVE_WAIT_S, SERVES_MAX, SERVES_PER_PEER_MAX, TRUSTED_MAX
from intellectd.daemon.bulk.readers import Place, Readers
from tests.daemon.bulk_swarm import swarm
from tests.daemon.test_bulk_pieces import HASHES, OBJECT, Asker, Donor


def full() -> tuple[Readers, list[Place]]:
    found = Readers()
    places = [found.enter(f"p{number % 8}", 0.0) for number in range(SERVES_MAX)]
    return found, [place for place in places if place is not None]


def test_a_peer_has_a_few_places_and_all_together_a_few_more() -> None:
    found = Readers()
    assert [found.enter("a", 0.0) is not None for _ in range(SERVES_PER_PEER_MAX + 1)] == [
        *[True] * SERVES_PER_PEER_MAX,
        False,
    ]
    found, places = full()
    assert len(found) == len(places) == SERVES_MAX
    assert found.enter("more", 0.0) is None


def test_a_place_that_comes_free_is_for_who_has_waited_longest() -> None:
    found, places = full()
    assert found.enter("first", 1.0) is None and found.enter("second", 2.0) is None
    found.leave(places[0])
    assert found.enter("second", 3.0) is None
    assert found.enter("p0", 3.0) is None  # the one that had it, too
    assert found.enter("first", 4.0) is not None
    assert found.enter("second", 4.5) is None
    found.leave(places[1])
    assert found.enter("second", 5.0) is not None


def test_who_does_not_ask_again_does_not_keep_others_waiting() -> None:
    found, places = full()
    assert found.enter("gone", 0.0) is None
    found.leave(places[0])
    assert found.enter("p1", SERVE_WAIT_S) is None
    assert found.enter("p1", SERVE_WAIT_S + 0.1) is not None


def test_one_makes_room_for_each_that_waits_once_it_has_had_its_time() -> None:
    found, places = full()
    now = SERVE_TENURE_S
    assert not any(found.must_go(place, now) for place in places)  # nobody waits
    assert found.enter("new", now - 1) is None
    assert not found.must_go(places[0], now - 0.1)
    assert found.must_go(places[0], now)
    found.leave(places[0])
    assert not found.must_go(places[1], now)  # one place is enough for one
    assert found.enter("newer", now) is None
    assert found.must_go(places[1], now)


def test_the_queue_is_bounded() -> None:
    found, _places = full()
    for number in range(2 * TRUSTED_MAX):
        assert found.enter(f"x{number}", 1.0) is None
    assert len(found._waiting) == TRUSTED_MAX


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One place for all, and no patience with who has it."""
    monkeypatch.setattr(readers, "SERVES_MAX", 1)
    monkeypatch.setattr(readers, "SERVE_TENURE_S", 0.0)
    monkeypatch.setattr(piece_fetch, "BUSY_AGAIN_S", 0.02)


@pytest.mark.usefixtures("narrow")
def test_joiners_that_do_not_fit_together_are_served_by_turns() -> None:
    askers = {name: Asker(("donor",)) for name in ("one", "two", "three")}
    with swarm("donor", *askers) as engines:
        engines["donor"].serve(Donor().serve)
        for name, asker in askers.items():
            asker.start(engines[name])
        for asker in askers.values():
            end, lost = asker.end()
            assert isinstance(end, TransferDone) and not lost, end
            assert bytes(asker.into) == OBJECT and sorted(asker.came) == list(range(len(HASHES)))


@pytest.mark.usefixtures("narrow")
def test_a_donor_that_has_no_room_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_fetch, "BUSY_ASKS_MAX", 3)
    asker = Asker(("donor",))
    with swarm("donor", "asker") as engines:
        monkeypatch.setattr(engines["donor"]._server._readers, "enter", lambda _peer, _now: None)
        asker.start(engines["asker"])
        end, _lost = asker.end()
    assert not isinstance(end, TransferDone) and "serves as many as it can" in end.reason
