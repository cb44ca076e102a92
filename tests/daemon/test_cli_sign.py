"""A recovery that several owners sign, each where its key lies: the file that goes from one to the next. SPEC G5."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from intellectd.daemon.cli.main import main
from intellectd.daemon.identity import OwnerKey, verify
from intellectd.protocol.branch import branch_bytes, branch_record
from intellectd.protocol.ids import Ballot, encode
from intellectd.protocol.records import Certificate, Entry, record_hash
from intellectd.protocol.run_id import from_manifest_hash, run_key
from tests.daemon.fake_answers import PEER, RUN_ID, Answers, run_status, status_answer
from tests.daemon.test_bad_input_start import refuse_writes
from tests.daemon.test_cli import Cli, answers, cli
from tests.daemon.test_cli_recover import draft as first_draft
from tests.protocol.history import History
from tests.protocol.playbook import swarm

__all__ = ["answers", "cli"]
RECORD, BLOB = branch_record(swarm("PA", "PB").head, ["PA"], bytes(32))
Written = tuple[Path, list[OwnerKey]]
Words = pytest.CaptureFixture[str]


def draft(*owners: OwnerKey, needed: int = 1) -> dict[str, Any]:
    entry = encode(Entry(RECORD, BLOB, Certificate(Ballot(0, "PA"), []))).hex()
    return {**first_draft(*owners, needed=needed), "entry": entry, "listed": True}


@pytest.fixture
async def written(cli: Cli, answers: Answers, tmp_path: Path) -> Written:
    """Two of three owners have to sign; nobody has."""
    owners = [OwnerKey.create(tmp_path / f"{number}.pem") for number in range(3)]
    answers.give("recovery_draft", draft(*owners, needed=2))
    answers.give("recover", {"run_id": RUN_ID, "round": 7, "voters": [PEER]})
    answers.give("status", status_answer(run_status()))
    path = tmp_path / "r.json"
    code, out, err = await cli("recover", RUN_ID, "--draft", str(path))
    assert code == 0 and "with 0 of 2 signatures" in out and "go on from round 1" in err
    assert "who is in the run and has it with 2 signatures, can do this at any later time" in err
    return path, owners


def sign(path: Path, number: int, *words: str) -> int:
    return main(["sign", str(path), "--key", str(path.parent / f"{number}.pem"), *words])


async def test_each_owner_signs_where_its_key_lies_and_the_daemon_gets_what_verifies(
    cli: Cli, answers: Answers, written: Written, capsys: Words
) -> None:
    path, owners = written
    assert sign(path, 0, "--yes") == 0
    out, err = capsys.readouterr()
    assert "1 of 2 signatures" in out and "1 owner more" in err and "\n  PA\n" in err
    code, _, err = await cli("recover", RUN_ID, "--signed", str(path), "--yes")
    assert code == 2 and "2 of its owners' keys, 1 were given" in err
    assert sign(path, 2, "--yes") == 0 and "--signed" in capsys.readouterr().err
    code, out, _ = await cli("recover", RUN_ID, "--signed", str(path), "--yes")
    assert code == 0 and "by the owners' word" in out
    said = answers.asked[-1]
    assert said["owners"] == sorted([owners[0].peer_id, owners[2].peer_id]) and said["run_id"] == RUN_ID
    for owner, word in zip(said["owners"], said["signatures"], strict=True):
        assert verify(owner, branch_bytes(run_key(RUN_ID), RECORD), bytes.fromhex(word))


async def test_copies_that_were_signed_apart_are_joined(cli: Cli, answers: Answers, written: Written) -> None:
    path, owners = written
    copy = path.with_name("copy.json")
    copy.write_bytes(path.read_bytes())
    assert sign(path, 0, "--yes") == sign(copy, 1, "--yes") == 0
    assert (await cli("recover", "", "--signed", str(path), "--signed", str(copy), "--yes"))[0] == 0
    assert answers.asked[-1]["owners"] == sorted([owners[0].peer_id, owners[1].peer_id])


async def test_a_file_where_nothing_may_be_written(
    written: Written, capsys: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = written
    before = path.read_bytes()
    refuse_writes(monkeypatch, path.parent, errno.EROFS)
    code = sign(path, 0, "--yes")
    monkeypatch.undo()
    words = capsys.readouterr().err
    assert code == 77 and f"cannot write {path}" in words and "sign a copy" in words and "--state-dir" not in words
    assert path.read_bytes() == before


async def test_a_key_of_this_host_counts_with_the_file(cli: Cli, written: Written) -> None:
    path, _ = written
    assert sign(path, 0, "--yes") == 0
    words = ["--signed", str(path), "--key", str(path.parent / "1.pem")]
    assert (await cli("recover", RUN_ID, *words))[0] == 2, "without --yes it is only shown"
    assert (await cli("recover", RUN_ID, *words, "--yes"))[0] == 0


async def test_nothing_is_signed_without_yes_nor_by_another_key(
    written: Written, capsys: Words, tmp_path: Path
) -> None:
    path, _ = written
    before = path.read_bytes()
    assert sign(path, 0) == 2
    err = capsys.readouterr().err
    assert "say it again with --yes" in err and "are as the file tells them" in err
    assert record_hash(RECORD).hex() in err and run_key(RUN_ID).hex() in err, "owners compare these"
    assert sign(path, 0, "--json") == 2 and json.loads(capsys.readouterr().out)["voters"] == ["PA"]
    OwnerKey.create(tmp_path / "9.pem")
    assert sign(path, 9, "--yes") == 2 and "is not an owner's key of this run" in capsys.readouterr().err
    assert path.read_bytes() == before


async def test_the_file_tells_nobody_the_runs_id(
    cli: Cli, answers: Answers, written: Written, capsys: Words, tmp_path: Path
) -> None:
    """SPEC I3, I6: it admits to the run, and begins the manifest's hash, which the first record follows."""
    path, owners = written
    assert RUN_ID not in path.read_text() and "PRIVATE" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    history = History()
    run_id = from_manifest_hash(history.head.hash)
    record, blob = branch_record(history.head, ["PA"], bytes(32))
    assert from_manifest_hash(record.parent) == run_id
    entry = encode(Entry(record, blob, Certificate(Ballot(0, "PA"), []))).hex()
    answers.give("recovery_draft", {**draft(*owners), "run_id": run_id, "entry": entry})
    code, _, err = await cli("recover", run_id, "--draft", str(tmp_path / "first.json"))
    assert code == 2 and "tells the run's id" in err and not (tmp_path / "first.json").exists()


async def test_no_file_is_overwritten(cli: Cli, answers: Answers, written: Written) -> None:
    path, _ = written
    before = path.read_bytes()
    code, _, err = await cli("recover", RUN_ID, "--draft", str(path))
    assert code != 0 and "exists already" in err and path.read_bytes() == before
    for words in (["--signed", str(path)], ["--yes"]):
        code, _, err = await cli("recover", RUN_ID, "--draft", str(path.with_name("new")), *words)
        assert code == 2 and err and not path.with_name("new").exists()
    asked = len(answers.asked)
    for name in ("", ".", "/", str(path.parent), str(path / "below")):
        code, _, err = await cli("recover", RUN_ID, "--draft", name, "--key", str(path.parent / "0.pem"))
        assert code == 2 and "internal" not in err, name
    assert "recover" not in [request["op"] for request in answers.asked[asked:]]


async def test_the_file_of_another_run_or_another_recovery_is_refused(
    cli: Cli, answers: Answers, written: Written
) -> None:
    path, owners = written
    other = path.with_name("other.json")
    answers.give("recovery_draft", {**draft(*owners), "run_id": from_manifest_hash(bytes(32))})
    assert (await cli("recover", RUN_ID, "--draft", str(other)))[0] == 0
    assert sign(other, 0, "--yes") == 0
    code, _, err = await cli("recover", RUN_ID, "--signed", str(other), "--yes")
    assert code == 2 and "the file is of another run" in err
    code, _, err = await cli("recover", RUN_ID, "--signed", str(path), "--signed", str(other), "--yes")
    assert code == 2 and "is another recovery than" in err
    assert "recover" not in [request["op"] for request in answers.asked]


DAMAGE: list[dict[str, Any]] = [
    {"kind": "invoice"},
    {"schema": 2},
    {"entry": "00"},
    {"entry": 5},
    {"entry": "xyz"},
    {"run": "xyz"},
    {"name": ["x"]},
    {"owners": "x"},
    {"owners": [5]},
    {"needed": 0},
    {"needed": "2"},
    {"needed": 9},
    {"lost": None},
    {"given_up": ["x"]},
    {"signatures": []},
    {"signatures": {PEER: "00"}},
    {"signatures": {PEER: 7}},
]


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
async def test_garbage_is_told_as_such(written: Written, capsys: Words, damage: dict[str, Any]) -> None:
    path, _ = written
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    before = path.read_bytes()
    assert sign(path, 0, "--yes") == 2
    assert str(path) in capsys.readouterr().err and path.read_bytes() == before


async def test_a_signature_of_something_else_is_told_as_such(written: Written, capsys: Words) -> None:
    path, owners = written
    facts = json.loads(path.read_text())
    for word in (owners[1].sign(b"something else").hex(), "zz", ""):
        path.write_text(json.dumps(facts | {"signatures": {owners[1].peer_id: word}}))
        assert sign(path, 0, "--yes") == 2 and "is not good" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"kind":' * 5000, "\0" * (3 * 2**20)])
def test_what_is_no_such_file_at_all(tmp_path: Path, capsys: Words, text: str) -> None:
    OwnerKey.create(tmp_path / "0.pem")
    path = tmp_path / "r.json"
    path.write_text(text)
    assert sign(path, 0, "--yes") == 2 and "is no recovery to sign" in capsys.readouterr().err
    path.unlink()
    assert sign(path, 0, "--yes") == 2 and "cannot be read" in capsys.readouterr().err
    path.mkdir()
    assert sign(path, 0, "--yes") == 2 and "cannot be read" in capsys.readouterr().err


async def test_an_intruders_copy_does_not_spoil_the_others(cli: Cli, answers: Answers, written: Written) -> None:
    """It lists itself among the owners, and signs well."""
    path, owners = written
    intruder = OwnerKey.create(path.with_name("9.pem"))
    copy = path.with_name("copy.json")
    copy.write_text(json.dumps(json.loads(path.read_text()) | {"owners": [o.peer_id for o in [*owners, intruder]]}))
    assert sign(path, 0, "--yes") == sign(copy, 9, "--yes") == 0
    code, _, err = await cli("recover", RUN_ID, "--signed", str(path), "--signed", str(copy), "--yes")
    assert code == 2 and f"{copy} is another recovery than" in err


async def test_a_link_is_signed_where_it_leads(written: Written) -> None:
    path, owners = written
    link = path.with_name("link.json")
    link.symlink_to(path)
    assert sign(link, 0, "--yes") == 0 and link.is_symlink()
    assert list(json.loads(path.read_text())["signatures"]) == [owners[0].peer_id]


async def test_what_is_beside_the_record_does_not_push_it_out_of_sight(written: Written, capsys: Words) -> None:
    path, _ = written
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lost": [PEER] * 5000}))
    assert sign(path, 0) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) < 50 and "  and 4969 more" in err


async def test_who_has_too_few_keys_is_told_how_to_go_on(cli: Cli, answers: Answers, written: Written) -> None:
    path, _ = written
    one = str(path.parent / "0.pem")
    answers.give("recovery_draft", {**draft(*written[1], needed=2), "key_path": None})
    assert "and 2 keys of run.toml's [recovery]" in (await cli("recover", RUN_ID, "--key", one))[2]
    assert "--draft FILE" in (await cli("recover", RUN_ID, "--yes"))[2]
    assert "and 2 keys of run.toml" in (await cli("recover", RUN_ID, "--signed", str(path)))[2]
    assert sign(path, 0, "--yes") == 0
    assert "and 1 key of run.toml" in (await cli("recover", RUN_ID, "--signed", str(path)))[2]
    code, out, _ = await cli("recover", RUN_ID, "--signed", str(path), "--json")
    assert code == 2 and json.loads(out)["needed"] == 2
    founders = OwnerKey.create(path.with_name("init.pem"))
    assert founders.peer_id not in draft(*written[1])["owners"]
    _, _, err = await cli("recover", RUN_ID, "--yes", "--key", str(path.with_name("init.pem")))
    assert "the one that `init` made is none of them" in err
