"""A recovery that several owners sign, each where its key lies: the file that goes from one to the next. SPEC G5."""

import json
from pathlib import Path
from typing import Any

import pytest

from intellectd.daemon.cli.main import main
from intellectd.daemon.identity import OwnerKey, verify
from intellectd.protocol.branch import branch_bytes
from intellectd.protocol.run_id import from_manifest_hash, run_key
from tests.daemon.fake_answers import PEER, RUN_ID, Answers, run_status, status_answer
from tests.daemon.test_cli import Cli, answers, cli
from tests.daemon.test_cli_recover import RECORD, draft

__all__ = ["answers", "cli"]
Written = tuple[Path, list[OwnerKey]]
Words = pytest.CaptureFixture[str]


@pytest.fixture
async def written(cli: Cli, answers: Answers, tmp_path: Path) -> Written:
    """Two of three owners have to sign; nobody has."""
    owners = [OwnerKey.create(tmp_path / f"{number}.pem") for number in range(3)]
    answers.give("recovery_draft", draft(*owners, needed=2))
    answers.give("recover", {"run_id": RUN_ID, "round": 7, "voters": [PEER]})
    answers.give("status", status_answer(run_status()))
    path = tmp_path / "r.json"
    code, out, err = await cli("recover", RUN_ID, "--draft", str(path))
    assert code == 0 and "with 0 of 2 signatures" in out and "go on from round 0" in err
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
    assert sign(path, 0) == 2 and "say it again with --yes" in capsys.readouterr().err
    OwnerKey.create(tmp_path / "9.pem")
    assert sign(path, 9, "--yes") == 2 and "is not an owner's key of this run" in capsys.readouterr().err
    assert path.read_bytes() == before


async def test_the_file_holds_no_secret(written: Written) -> None:
    """SPEC I6: the run's id admits to the run, and a file that is sent around is read by others."""
    path, _ = written
    assert RUN_ID not in path.read_text() and "PRIVATE" not in path.read_text()


async def test_no_file_is_overwritten(cli: Cli, answers: Answers, written: Written) -> None:
    path, _ = written
    before = path.read_bytes()
    code, _, err = await cli("recover", RUN_ID, "--draft", str(path))
    assert code != 0 and "exists already" in err and path.read_bytes() == before
    for words in (["--signed", str(path)], ["--yes"]):
        code, _, err = await cli("recover", RUN_ID, "--draft", str(path.with_name("new")), *words)
        assert code == 2 and err and not path.with_name("new").exists()


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
