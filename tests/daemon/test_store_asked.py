"""A state that somebody fetches from here is not deleted under them (SPEC K15), nor what a new record needs."""

from pathlib import Path

import pytest

from intellectd.daemon.runs.serving import open_object, snapshot_name
from intellectd.daemon.store.asked import ASKED_S, ROUNDS_MAX, Asked
from intellectd.daemon.store.budget import Retention
from intellectd.daemon.store.hot_pieces import HotPieces
from intellectd.daemon.store.run_store import RunStore
from intellectd.protocol.records import Entry
from tests.daemon.shell_made import ROUNDS, copy_run

RUN = bytes(32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of ten rounds, with states 4 and 8 and the updates from 5 on."""
    copy_run(tmp_path / "state")
    return next((tmp_path / "state" / "runs").iterdir())


def ask(store: RunStore, round_: int, part: str = "state") -> None:
    assert open_object(snapshot_name(RUN, round_, part), lambda _run: store, HotPieces()) is not None


@pytest.mark.parametrize("part", ["state", "leaves", "held"])
def test_a_state_that_is_asked_for_stays_and_what_follows_it(folder: Path, part: str) -> None:
    store, now = RunStore(folder), [1000.0]
    store.asked = Asked(lambda: now[0])
    store.retention = Retention(count=1)
    ask(store, 4, part)
    now[0] += ASKED_S - 1
    store.prune()
    assert store.snapshots() == [4, 8] and store.updates_from(ROUNDS) == 5
    now[0] += 1
    store.prune()
    assert store.snapshots() == [8]
    store.close()


def test_who_asks_for_what_is_not_here_does_not_take_its_place(folder: Path) -> None:
    """A joiner that has read of a newer state elsewhere, or of one that lay here on a line that was left."""
    store = RunStore(folder)
    store.retention = Retention(count=1)
    ask(store, 4)
    assert open_object(snapshot_name(RUN, ROUNDS + 90, "state"), lambda _run: store, HotPieces()) is None
    store.prune()
    assert store.snapshots() == [4, 8]
    store.close()


def test_the_operators_limit_stands(folder: Path) -> None:
    store = RunStore(folder)
    size = store.snapshot_path(8).stat().st_size
    store.retention = Retention(count=1, bytes_max=2 * size - 1)
    ask(store, 4)
    store.prune()
    assert store.snapshots() == [8]
    store.close()


def test_no_longer_than_a_newer_state_takes_as_much(folder: Path) -> None:
    """Else a joiner that is too slow to get anywhere would fill the donors' disks."""
    store = RunStore(folder)
    store.retention = Retention(count=1)
    ask(store, 4)
    update = store.entry(ROUNDS).record.update_bytes
    with store.snapshot_path(8).open("r+b") as file:
        file.truncate(5 * update)  # as if a state were so much smaller: six updates follow round 4
    store.prune()
    assert store.snapshots() == [8]
    store.close()


def test_of_several_the_newest_counts_and_few_are_remembered() -> None:
    now = [0.0]
    asked = Asked(lambda: now[0])
    every = range(2 * ROUNDS_MAX)
    assert asked.newest(every) is None
    for round_ in [*range(2 * ROUNDS_MAX), *range(ROUNDS_MAX)]:
        asked.note(round_)
    assert asked.newest(every) == ROUNDS_MAX - 1, "the others are forgotten"
    assert len(asked._at) == ROUNDS_MAX
    now[0] = ASKED_S
    assert asked.newest(every) is None


def test_the_update_of_a_record_that_comes_while_old_ones_are_pruned_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are appended in a thread of their own: of a run of one host nobody else has that update, and it stood."""
    store = RunStore(folder)
    last = store.entry(ROUNDS)
    root = last.record.update_root
    body = store.updates.path_of(root).read_bytes()
    store.rebase(ROUNDS - 1, [])
    memory = store.updates.new(b"transfer", len(body))
    memory[:] = body
    store.updates.keep(b"transfer", memory, root, store.length)
    entry_of = store.entry

    def and_is_decided(round_: int) -> Entry:
        found = entry_of(round_)
        if round_ == ROUNDS - 1 and store.length == ROUNDS:
            store.append(last)
        return found

    monkeypatch.setattr(store, "entry", and_is_decided)
    store.prune()
    assert store.length == ROUNDS + 1
    assert root in store.updates.held()
    store.close()
