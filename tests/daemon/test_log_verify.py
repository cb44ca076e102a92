"""`intellectd log verify`: a run's history on a disk, judged without a daemon; one changed byte is found. SPEC R13."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from intellectd.daemon.cli.main import main
from intellectd.daemon.runs.examine import Finding, examine
from intellectd.daemon.store import log_files
from intellectd.daemon.store.frame_file import HEADER_BYTES, FrameFile, Frames
from intellectd.protocol.entries import Certificate, Entry, Vote
from intellectd.protocol.ids import encode
from intellectd.protocol.records import decode_entry
from tests.daemon.ram import ram_path
from tests.daemon.shell_made import ROUNDS, copy_run
from tests.daemon.shell_world import digest_of

__all__ = ["ram_path"]
FLIPS = 30  # of each file; test_store_frames.py has every byte of the form that they share


@pytest.fixture
def folder(ram_path: Path) -> Path:
    copy_run(ram_path / "state")
    (found,) = (ram_path / "state" / "runs").iterdir()
    return found


def bodies(folder: Path) -> list[bytes]:
    return list(Frames(log_files.records_path(folder), log_files.LOG_MAGIC, ""))


def rewrite(folder: Path, records: list[bytes]) -> None:
    """As somebody who knows the form would."""
    path = log_files.records_path(folder)
    path.unlink()
    file = FrameFile.create(path, log_files.LOG_MAGIC, "")
    for body in records:
        file.append(body)
    file.close()


def found(folder: Path) -> Finding:
    with pytest.raises(Finding) as raised:
        examine(folder)
    return raised.value


def test_a_whole_log_is_counted_and_nothing_is_touched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest_of(folder)
    assert main(["log", "verify", folder.name, "--state-dir", str(folder.parent.parent), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["valid"], said["rounds"], said["records"]) == (True, ROUNDS, ROUNDS + 1)
    assert said["updates"] > 0 and said["unfinished_bytes"] == 0
    assert digest_of(folder) == before


@pytest.mark.parametrize("name", ["log/records", "log/votes", "manifest", "updates"])
def test_one_changed_byte_is_found(name: str, folder: Path) -> None:
    path = next((folder / name).iterdir()) if name == "updates" else folder / name
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 1 + len(whole) // FLIPS), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert found(folder).path == path, at


def test_the_first_bad_record_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log_files.records_path(folder)
    whole, at = path.read_bytes(), len(log_files.LOG_MAGIC)
    for body in bodies(folder)[:3]:
        at += HEADER_BYTES + len(body)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert main(["log", "verify", "", "--state-dir", str(folder.parent.parent)]) == 1
    err = capsys.readouterr().err
    assert "the record of round 3 is bad" in err and err.count(str(path)) == 1
    assert main(["log", "verify", "", "--state-dir", str(folder.parent.parent), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["valid"], said["round"], said["file"]) == (False, 3, str(path))


def unsigned(entry: Entry) -> Entry:
    vote = entry.certificate.votes[0]
    forged = [Vote(vote.voter, bytes(64))]
    return Entry(entry.record, entry.blob, Certificate(entry.certificate.ballot, forged))


@pytest.mark.parametrize(
    ("forge", "round_", "reason"),
    [
        (lambda log: [*log[:4], encode(unsigned(decode_entry(log[4]))), *log[5:]], 4, "signature"),
        (lambda log: [*log[:5], *log[6:]], 5, "does not follow the head"),
        (lambda log: log[:-2], ROUNDS - 1, "voted on round"),
        (lambda log: [*log[:2], b"no entry", *log[3:]], 2, "no log entry"),
    ],
    ids=["a certificate", "a record left out", "the newest left out", "nonsense"],
)
def test_forged_records_in_good_form_are_found(
    forge: Callable[[list[bytes]], list[bytes]], round_: int, reason: str, folder: Path
) -> None:
    rewrite(folder, forge(bodies(folder)))
    finding = found(folder)
    assert finding.round == round_ and reason in finding.reason, finding


def test_a_record_that_is_being_written_counts_for_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon may be at work on it."""
    path = log_files.records_path(folder)
    whole = path.read_bytes()
    newest = HEADER_BYTES + len(bodies(folder)[-1])
    path.write_bytes(whole + whole[-newest:][: HEADER_BYTES - 1])
    assert main(["log", "verify", "", "--state-dir", str(folder.parent.parent)]) == 0
    assert f"last {HEADER_BYTES - 1} bytes" in capsys.readouterr().out
    assert len(path.read_bytes()) == len(whole) + HEADER_BYTES - 1


def test_a_run_that_was_left_is_verified_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = folder.parent.parent
    (state / "left").mkdir()
    folder.rename(state / "left" / folder.name)
    assert main(["log", "verify", folder.name, "--state-dir", str(state)]) == 0
    assert f"{ROUNDS} rounds" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["rn1x", ""])
def test_a_run_that_is_not_there_is_said_so(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "verify", word, "--state-dir", str(tmp_path)]) == 1
    assert "is this the daemon's `--state-dir`?" in capsys.readouterr().err
