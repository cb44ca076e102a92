"""A state on its way here is given to others as far as it is proven, and not a byte further (SPEC K9, K11)."""

from pathlib import Path

import pytest

from intellectd.daemon.bulk.interface import ServedObject, whole
from intellectd.daemon.runs.serving import open_object
from intellectd.daemon.store.arriving import Arriving, all_held
from intellectd.daemon.store.hot_pieces import HotPieces
from intellectd.daemon.store.run_store import RunStore
from intellectd.kernels.digest import LEAF_BYTES
from tests.daemon.ram import ram_path
from tests.daemon.shell_made import copy_run
from tests.daemon.test_store_incoming import BORDERS, DATA, opened, put

__all__ = ["ram_path"]
RUN = "ab" * 32


@pytest.fixture
def store(ram_path: Path) -> RunStore:
    copy_run(ram_path / "state")
    (folder,) = (ram_path / "state" / "runs").iterdir()
    return RunStore(folder)


def asked(store: RunStore, round_: int, part: str) -> ServedObject | None:
    return open_object(f"snapshot/{RUN}/{round_}/{part}", lambda _run: store, HotPieces())


def held(store: RunStore, round_: int) -> bytes:
    found = asked(store, round_, "held")
    assert found is not None
    return whole(found)


def test_what_is_proven_is_given_and_what_is_not_is_refused(store: RunStore, tmp_path: Path) -> None:
    state = opened(tmp_path)
    store.arriving = Arriving(77, state, BORDERS)
    assert held(store, 77) == b"\0"
    put(state, 0, 2, 5)
    assert held(store, 77) == bytes([0b100101])
    given = asked(store, 77, "state")
    assert given is not None and given.nbytes == BORDERS[-1]
    assert given.part(BORDERS[2] + 7, BORDERS[6]) == DATA[BORDERS[2] + 7 : BORDERS[3]]
    assert given.part(BORDERS[5], BORDERS[6]) == DATA[BORDERS[5] : BORDERS[6]]
    for start in (BORDERS[1], BORDERS[3] + 5, BORDERS[4]):
        with pytest.raises(OSError, match="is not here yet"):
            given.part(start, BORDERS[6])
    state.doubt([2])
    with pytest.raises(OSError, match="piece 2 is not here yet"):
        given.part(BORDERS[2], BORDERS[3])


def test_of_another_round_and_of_its_leaves_nothing_is_given(store: RunStore, tmp_path: Path) -> None:
    store.arriving = Arriving(77, opened(tmp_path), BORDERS)
    for round_, part in ((78, "held"), (78, "state"), (77, "leaves"), (77, "else")):
        assert asked(store, round_, part) is None


def test_a_state_of_the_line_that_is_left_is_given_no_more(store: RunStore, tmp_path: Path) -> None:
    """SPEC G8, K11: others ask by the number of its round, for theirs."""
    store.arriving = Arriving(5, opened(tmp_path), BORDERS)
    store.rebase(5, [])
    assert store.arriving is not None
    store.rebase(4, [])
    assert store.arriving is None


def test_a_state_that_is_here_is_held_whole_also_while_another_comes(store: RunStore, tmp_path: Path) -> None:
    all_of_it = held(store, 8)
    assert sum(byte.bit_count() for byte in all_of_it) == 2, "a small model: a piece of theta, one of momentum"
    store.arriving = Arriving(8, opened(tmp_path), BORDERS)
    assert held(store, 8) == all_of_it
    assert all_held(20 * LEAF_BYTES) == bytes([255, 255, 15])
