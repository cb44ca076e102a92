"""The folder of a run: what is refused at opening, what retention keeps, what stays bounded."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.identity import Identity, OwnerKey
from intellectd.daemon.runs.examine import examine
from intellectd.daemon.runs.opening import open_run
from intellectd.daemon.store import log_files, run_store
from intellectd.daemon.store.frame_file import CorruptFile, Frames
from intellectd.daemon.store.incoming import Incoming
from intellectd.daemon.store.run_store import INCOMING_NAME, VOTES_KEPT_MAX, RunStore
from intellectd.daemon.store.snapshot import State
from intellectd.kernels.digest import state_digest, update_root
from intellectd.protocol.branch import branch_bytes, branch_record
from intellectd.protocol.effects import PersistVote
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, At, Ballot
from intellectd.protocol.records import Certificate, Entry, Vote, decode_entry, record_hash
from intellectd.protocol.run_id import run_key
from intellectd.protocol.seat import NO_BALLOT
from tests.daemon.ram import ram_path
from tests.daemon.shell_made import ROUNDS, copy_run
from tests.daemon.shell_trainer import LAYOUT
from tests.daemon.shell_world import digest_of

__all__ = ["ram_path"]
ELEMENTS = LAYOUT.elements
OURS = Identity.generate()  # whose log it is does not matter to the checks


@pytest.fixture
def folder(ram_path: Path) -> Path:
    """The folder of the run, to be damaged."""
    copy_run(ram_path / "state")
    (found,) = (ram_path / "state" / "runs").iterdir()
    return found


def test_a_run_opens_as_it_was(folder: Path) -> None:
    opened = open_run(folder, OURS)
    assert [entry.record.round for entry in opened.entries] == list(range(ROUNDS + 1))
    assert opened.applied == 8 and opened.vote is not None
    assert {entry.record.update_root for entry in opened.entries[9:]} <= set(opened.held_updates)
    opened.store.close()


def test_a_log_of_months_is_opened_without_all_of_it_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Entry] = []
    held: list[int] = []

    def counts(body: bytes) -> Entry:
        entry = decode_entry(body)
        held.append(sum(sys.getrefcount(old) > 3 for old in decoded))  # by more than the list, the loop and the call
        decoded.append(entry)
        return entry

    monkeypatch.setattr(run_store, "decode_entry", counts)
    opened = open_run(folder, OURS)
    assert len(held) > ROUNDS and max(held) <= 2  # the head's, and the one before
    opened.store.close()


@pytest.mark.parametrize("method", ["is_dir", "is_file", "glob"])
def test_a_disk_that_fails_at_a_start_is_told_as_such(
    method: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(Path, method)

    def fails(path: Path, *arguments: object) -> object:
        if path.is_relative_to(folder):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments)

    monkeypatch.setattr(Path, method, fails)
    with pytest.raises(StorageError, match="Input/output error"):
        open_run(folder, OURS)


@pytest.mark.parametrize("name", ["manifest", "log/records", "log/votes", "snapshots/00000008.safetensors"])
def test_a_damaged_file_is_named_and_nothing_is_touched(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for at in [0, 1, *range(7, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        before = digest_of(folder)
        with pytest.raises(CorruptFile) as raised:
            open_run(folder, OURS)
        assert Path(name).name in raised.value.message, at
        assert raised.value.hint
        assert digest_of(folder) == before, at


@pytest.mark.parametrize("name", ["manifest", "log/records", "log/votes"])
def test_what_is_missing_is_not_made_up(folder: Path, name: str) -> None:
    (folder / name).unlink()
    before = digest_of(folder)
    with pytest.raises(CorruptFile, match="is missing"):
        open_run(folder, OURS)
    assert digest_of(folder) == before


def test_a_log_that_lost_records_this_host_has_voted_after_is_refused(folder: Path) -> None:
    """Cut at a record's end it looks whole; but its votes know better, and it would vote again on what is gone."""
    store = RunStore(folder)
    offsets = store._log._offsets
    store.close()
    path = folder / "log" / "records"
    path.write_bytes(path.read_bytes()[: offsets[-2]])
    with pytest.raises(CorruptFile, match="ends with record 8, but this host has voted on record 10"):
        RunStore(folder)


def test_another_runs_manifest_is_refused(folder: Path) -> None:
    folder = folder.rename(folder.with_name("rn1" + "a" * 36))
    with pytest.raises(CorruptFile, match="it is the manifest of another run"):
        open_run(folder, OURS)


def test_a_state_that_the_log_disproves_is_refused(folder: Path) -> None:
    store = RunStore(folder)
    good = open_run(folder, OURS)
    assert good.state.theta is not None and good.state.momentum is not None
    good.store.close()
    other = State(good.state.theta + 1, good.state.momentum)
    store.write_snapshot(other, 8, state_digest(other.theta, other.momentum), 0)
    store.close()
    with pytest.raises(CorruptFile, match="not the state that the log proves"):
        open_run(folder, OURS)


def test_a_state_that_only_a_branch_contradicts_is_passed_over(folder: Path) -> None:
    """SPEC G5, K6: it was true on the line before; the run opens with an older one. `log verify` takes the branch."""
    store = RunStore(folder)
    run, signed = run_key(folder.name), store.manifest().manifest
    head = Head(signed, run, None)
    for entry in store.entries()[:9]:
        head = head.next(entry)
    record, blob = branch_record(head, head.voters, bytes(32), dict.fromkeys(head.voters, 1))
    (path,) = (folder.parent.parent / "owner-keys").glob("*.pem")
    vote = Vote(signed.owner, OwnerKey.load(path).sign(branch_bytes(run, record)))
    store.rebase(8, [Entry(record, blob, Certificate(Ballot(0, head.voters[0]), [vote]))])
    store.close()
    opened = open_run(folder, OURS)
    assert (opened.applied, len(opened.entries)) == (4, 10)
    opened.store.close()
    assert examine(folder).records == 10


def test_an_older_snapshot_serves_when_the_newest_is_gone(folder: Path) -> None:
    (folder / "snapshots" / "00000008.safetensors").unlink()
    opened = open_run(folder, OURS)
    assert opened.applied == 4
    # And all that leads from there to the head is still here.
    roots = [entry.record.update_root for entry in opened.entries[5:]]
    assert all(root in opened.held_updates for root in roots)
    assert opened.store.updates_from(ROUNDS) == 5
    opened.store.close()


def test_what_a_crash_left_half_written_is_removed(folder: Path) -> None:
    for name in ("updates/.aa.tmp", "snapshots/.00000012.safetensors.tmp", "log/.records.1234.tmp", ".manifest.9.tmp"):
        (folder / name).write_bytes(b"half")
    RunStore(folder).close()
    assert [path for path in folder.rglob(".*")] == []


@pytest.mark.parametrize(("round_", "stays"), [(4, False), (8, False), (12, True)])
def test_of_a_state_that_leads_no_further_nothing_is_kept(round_: int, stays: bool, folder: Path) -> None:
    """It was begun and then not needed: the updates were here sooner. It has the size of a state."""
    incoming = Incoming(folder / INCOMING_NAME, ELEMENTS, round_, bytes(32))
    incoming.prove(0)
    incoming.sync()
    opened = open_run(folder, OURS)
    assert opened.applied == 8 and opened.state.layout.elements == ELEMENTS
    assert Incoming.lies_in(folder / INCOMING_NAME, round_, bytes(32)) == stays
    assert any((folder / INCOMING_NAME).iterdir()) == stays
    opened.store.close()


def test_retention_keeps_what_a_provable_catch_up_needs(folder: Path) -> None:
    store = RunStore(folder)
    assert store.snapshots() == [4, 8]
    store.prune()
    assert store.snapshots() == [4, 8]
    roots = {store.entry(round_).record.update_root for round_ in range(5, ROUNDS + 1)}
    assert set(store.updates.held()) == roots
    assert store.updates_from(ROUNDS) == 5
    assert store.updates_from(4) == 5 and store.updates_from(-2) == 1
    store.updates.path_of(store.entry(7).record.update_root).unlink()
    assert store.updates_from(ROUNDS) == 8  # it does not promise what lies behind a gap
    store.close()


def test_a_snapshot_beyond_the_log_counts_for_nothing_and_pushes_none_out(folder: Path) -> None:
    store = RunStore(folder)
    state = open_run(folder, OURS).state
    assert state.theta is not None and state.momentum is not None
    for round_ in (12, 16):
        store.write_snapshot(State(state.theta, state.momentum), round_, state.digest(), 0)
    store.prune()
    assert store.snapshots() == [4, 8, 12, 16]
    assert store.updates_from(ROUNDS) == 5
    store.close()
    opened = open_run(folder, OURS)
    assert opened.applied == 8
    opened.store.close()


def test_an_update_that_the_log_does_not_name_yet_is_kept_and_then_not(folder: Path) -> None:
    """Its round may be decided any moment, and a vote may rest on it. One that lost its round goes."""
    store = RunStore(folder)
    memory = store.updates.new(b"transfer", 4096)
    memory[:4] = b"next"
    root = update_root(memory)
    store.updates.keep(b"transfer", memory, root, store.length)
    store.prune()
    assert root in store.updates.held()
    last = store.entry(ROUNDS)
    assert last.record.update_root != NO_HASH
    store._log.append(b"\x80")  # any further record, which does not name it
    store.updates.prune([last.record.update_root], store.length)
    assert store.updates.held() == (last.record.update_root,)
    store.close()


def test_an_update_of_unknown_round_from_before_a_restart_waits_for_one_record(folder: Path) -> None:
    unknown = bytes(range(32))
    (folder / "updates" / f"{unknown.hex()}.bin").write_bytes(b"accepted, perhaps")
    store = RunStore(folder)
    store.prune()
    assert unknown in store.updates.held()
    store.updates.prune([], store.length + 1)
    assert store.updates.held() == ()
    store.close()


def test_votes_stay_few_and_the_last_one_counts(folder: Path) -> None:
    store = RunStore(folder)
    vote = store.vote()
    assert vote is not None
    for _ in range(VOTES_KEPT_MAX + 40):
        store.write_vote(vote)
    assert len(store._votes) <= VOTES_KEPT_MAX
    store.close()
    store = RunStore(folder)
    assert store.vote() == vote
    store.close()


def powercuts(folder: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> list[Path]:
    """The folder as it was before each rename of this work, and after the last."""
    copies: list[Path] = []
    replace = os.replace

    def cut() -> None:
        copies.append(folder.parent / f"cut-{len(copies)}" / folder.name)
        shutil.copytree(folder, copies[-1])

    def before(source: Path, target: Path) -> None:
        cut()
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", before)
        work()
    cut()
    return copies


def test_a_power_cut_while_a_line_is_left_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC G8: the log is the one or the other, the run opens, and what is not in the log lies aside; although the
    votes go further than the shorter log."""
    store = RunStore(folder)
    whole = [record_hash(entry.record) for entry in store.entries()]
    states = store.snapshots()
    copies = powercuts(folder, monkeypatch, lambda: store.rebase(5, []))
    store.close()
    lengths = []
    for copy in copies:
        opened = open_run(copy, OURS)
        lengths.append(len(opened.entries))
        assert [record_hash(e.record) for e in opened.entries] == whole[: lengths[-1]]
        assert opened.applied in (4, 8)
        opened.store.rebase(5, [])  # what it would do again
        opened.store.close()
        (left,) = (copy / "left").iterdir()
        bodies = [decode_entry(body) for body in Frames(left / "records", log_files.LOG_MAGIC, "")]
        assert [record_hash(e.record) for e in bodies] == whole[6:]
        assert [int(p.stem) for p in left.glob("*.safetensors")] == [r for r in states if r > 5]
        assert examine(copy).records == 6
    assert lengths == [ROUNDS + 1] * (len(copies) - 1) + [6]


@pytest.mark.parametrize("entries", [slice(0, 0), slice(6, 11)])
def test_a_peer_that_asks_while_a_line_is_left_gets_nothing(
    entries: slice, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would get records of both, and blame this host."""
    store = RunStore(folder)
    others, read, reads = store.entries()[entries], store._log.read, []

    def meanwhile(index: int) -> bytes:
        reads.append(index)
        if len(reads) == 8:
            store.rebase(5, others)
        return read(index)

    monkeypatch.setattr(store._log, "read", meanwhile)
    assert store.entries_from(0) == []
    assert len(store.entries_from(0)) == 6 + len(others)
    store.close()


def test_of_what_was_left_the_newest_states_are_kept_and_all_records(folder: Path) -> None:
    store = RunStore(folder)
    entries = store.entries()
    state = open_run(folder, OURS).state
    assert state.theta is not None and state.momentum is not None
    for at in (8, 7, 6):
        store.rebase(at, entries[at + 1 :])
        store.write_snapshot(State(state.theta, state.momentum), 8, state.digest(), 0)
        store.rebase(at, entries[at + 1 :][:1])
        store.rebase(at, entries[at + 1 :])
    parts = list((folder / "left").iterdir())
    assert len(parts) == 6 and all((part / "records").is_file() for part in parts)
    assert len([part for part in parts if list(part.glob("*.safetensors"))]) <= 2
    store.close()


def test_votes_of_each_line_outlive_the_rewriting(folder: Path) -> None:
    """SPEC G9: however often the newest line was voted on."""
    store = RunStore(folder)
    vote = store.vote()
    assert vote is not None
    other = PersistVote(At(bytes(32), 7, bytes(32)), Ballot(3, "PA"), None, None)
    store.write_vote(other)
    for _ in range(VOTES_KEPT_MAX + 1):
        store.write_vote(vote)
    assert len(store._votes) <= VOTES_KEPT_MAX
    assert store.votes() == {other.at.generation: other, vote.at.generation: vote} and store.vote() == vote
    store.close()


def test_a_mark_for_a_branch_that_did_not_come_is_no_lost_record(ram_path: Path) -> None:
    """A power cut between the two, before the opening of a run (SPEC G9)."""
    copy_run(ram_path / "state")
    (folder,) = (ram_path / "state" / "runs").iterdir()
    for path, magic in ((log_files.records_path(folder), b""), (log_files.votes_path(folder), log_files.VOTES_MAGIC)):
        path.write_bytes(magic or log_files.LOG_MAGIC)
    store = RunStore(folder)
    store.write_vote(PersistVote(At(bytes(32), 1, bytes(32)), NO_BALLOT, None, None))
    store.close()
    RunStore(folder).close()


def test_an_incarnation_is_never_smaller_than_the_one_before(folder: Path) -> None:
    """SPEC I5."""
    store = RunStore(folder)
    first = store.next_incarnation(1_800_000_000_000)
    assert store.next_incarnation(1_000) == first + 1  # a clock without a battery
    (folder / "incarnation").write_text("nonsense")
    assert store.next_incarnation(5) == 5
    store.close()


def test_everything_of_a_run_is_its_owners_alone(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
