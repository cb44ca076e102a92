"""`intellectd recover`: what the owner is shown, which keys are taken; what the daemon gets verifies. SPEC G5."""

import json
from pathlib import Path
from typing import Any

import pytest

from intellectd.daemon.cli.main import main
from intellectd.daemon.identity import OwnerKey, verify
from intellectd.protocol.branch import branch_bytes, branch_record
from intellectd.protocol.ids import Ballot, encode
from intellectd.protocol.manifest import config_from_toml
from intellectd.protocol.records import Certificate, Entry
from intellectd.protocol.run_id import run_key
from tests.daemon.fake_answers import PEER, RUN_ID, Answers
from tests.daemon.test_cli import Cli, answers, cli
from tests.protocol.history import History

__all__ = ["answers", "cli"]
RECORD, BLOB = branch_record(History().head, ["PA"], bytes(32))


def key(path: Path) -> OwnerKey:
    return OwnerKey.create(path)


def draft(*owners: OwnerKey, needed: int = 1, key_path: Path | None = None) -> dict[str, Any]:
    entry = Entry(RECORD, BLOB, Certificate(Ballot(0, "PA"), []))
    return {
        "run_id": RUN_ID,
        "name": "mini",
        "round": 7,
        "voters": [PEER],
        "lost": [PEER[:-1] + "6"],
        "owners": [owner.peer_id for owner in owners],
        "needed": needed,
        "key_path": str(key_path) if key_path else None,
        "entry": encode(entry).hex(),
    }


async def test_without_yes_the_owner_is_shown_what_would_be_lost(cli: Cli, answers: Answers) -> None:
    answers.give("recovery_draft", draft())
    code, out, err = await cli("recover", RUN_ID)
    assert (code, out) == (2, "")
    # What the record says, which is what would be signed; the answer beside it says round 7 and another voter.
    assert "go on from round 0" in err and "\n  PA\n" in err and PEER not in err
    assert PEER[:-1] + "6" in err and "--yes --key FILE: the owner's key is not on this host" in err
    assert [request["op"] for request in answers.asked] == ["recovery_draft"]


async def test_the_owner_is_told_which_rounds_would_be_given_up(cli: Cli, answers: Answers) -> None:
    for rounds, says in (([7], "round 7 would be given up"), ([7, 8, 9], "rounds 7 to 9 would be given up")):
        answers.give("recovery_draft", {**draft(), "given_up": rounds})
        code, _, err = await cli("recover", RUN_ID)
        assert code == 2 and f"{says}: its record is here" in err.replace("their records are", "its record is")
    answers.give("recovery_draft", {**draft(), "given_up": []})
    assert "given up" not in (await cli("recover", RUN_ID))[2]


async def test_the_key_that_init_left_here_is_enough(cli: Cli, answers: Answers, tmp_path: Path) -> None:
    owner = key(tmp_path / "owner.pem")
    answers.give("recovery_draft", draft(owner, key_path=tmp_path / "owner.pem"))
    answers.give("recover", {"run_id": RUN_ID, "round": 7, "voters": [PEER]})
    assert (await cli("recover", RUN_ID))[2].endswith("say it again with --yes\n")
    code, out, _ = await cli("recover", RUN_ID, "--yes")
    assert code == 0 and "with 1 voter\n" in out
    said = answers.asked[-1]
    assert said["owners"] == [owner.peer_id]
    signature = bytes.fromhex(said["signatures"][0])
    assert verify(owner.peer_id, branch_bytes(run_key(RUN_ID), RECORD), signature)


async def test_no_key_another_runs_key_and_too_few_keys_are_refused(cli: Cli, answers: Answers, tmp_path: Path) -> None:
    one, two = key(tmp_path / "1.pem"), key(tmp_path / "2.pem")
    key(tmp_path / "other.pem")
    answers.give("recovery_draft", draft(one, two, needed=2))
    answers.give("recover", {"round": 7, "voters": [PEER]})
    for files, says in (
        ([], "no owner's key"),
        (["other.pem"], "is not an owner's key of this run"),
        (["1.pem"], "2 of its owners' keys, 1 were given"),
        (["1.pem", "1.pem"], "2 of its owners' keys, 1 were given"),
    ):
        words = [word for name in files for word in ("--key", str(tmp_path / name))]
        code, _, err = await cli("recover", RUN_ID, "--yes", *words)
        assert code == 2 and says in err, files
    assert "recover" not in [request["op"] for request in answers.asked]
    words = ["--key", str(tmp_path / "1.pem"), "--key", str(tmp_path / "2.pem")]
    assert (await cli("recover", RUN_ID, "--yes", *words))[0] == 0
    assert answers.asked[-1]["owners"] == sorted([one.peer_id, two.peer_id])


def test_the_run_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recover", "rn1nonsense", "--yes"]) != 0
    assert capsys.readouterr().err


def test_a_key_is_made_where_it_is_to_stay_and_none_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SPEC G5: of several owners each makes one."""
    path = tmp_path / "mine.key"
    assert main(["keygen", str(path)]) == 0
    out, err = capsys.readouterr()
    made = OwnerKey.load(path)
    assert out == made.peer_id + "\n" and f'keys = ["{made.peer_id}"]' in err and str(path) in err
    assert config_from_toml({"name": "x", "recovery": {"keys": [made.peer_id]}}).recovery.keys == (made.peer_id,)
    assert main(["keygen", str(path)]) == 2 and "exists already" in capsys.readouterr().err
    assert OwnerKey.load(path).peer_id == made.peer_id
    assert main(["keygen", str(tmp_path / "no" / "key")]) == 2 and "is no folder" in capsys.readouterr().err
    assert main(["keygen", str(tmp_path / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == OwnerKey.load(tmp_path / "other").peer_id
