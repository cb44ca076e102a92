"""`intellectd checkpoint ls` and `verify`: the states on a disk, against the log beside them, without a daemon."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from intellectd.daemon.cli.main import main
from intellectd.daemon.runs import examine_states
from intellectd.daemon.store import snapshot
from tests.daemon.ram import ram_path
from tests.daemon.shell_made import ROUNDS, copy_run
from tests.daemon.shell_trainer import LAYOUT
from tests.daemon.shell_world import digest_of

__all__ = ["ram_path"]


@pytest.fixture
def folder(ram_path: Path) -> Path:
    copy_run(ram_path / "state")
    (found,) = (ram_path / "state" / "runs").iterdir()
    return found


class Asked:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state, self.capsys = str(folder.parent.parent), capsys

    def __call__(self, *words: str) -> tuple[int, str]:
        code = main(["checkpoint", *words, "--state-dir", self.state])
        return code, self.capsys.readouterr().out

    def plain(self, *words: str) -> Any:
        code, out = self(*words, "--json")
        return code, json.loads(out)


@pytest.fixture
def asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(folder, capsys)


def test_ls_tells_each_state_and_what_the_log_says_of_it(folder: Path, asked: Asked) -> None:
    before = digest_of(folder)
    code, said = asked.plain("ls")
    assert code == 0 and said["run_id"] == folder.name
    assert [(state["round"], state["standing"]) for state in said["checkpoints"]] == [(4, "proven"), (8, "proven")]
    assert all(Path(state["file"]).stat().st_size == state["bytes"] for state in said["checkpoints"])
    _, out = asked("ls")
    assert out.splitlines()[0].split()[:2] == ["ROUND", "SIZE"] and len(out.splitlines()) == 3
    assert digest_of(folder) == before


def test_verify_reads_every_byte(folder: Path, asked: Asked) -> None:
    assert asked.plain("verify")[1]["valid"]
    code, out = asked("verify", "", "--round", "8")
    assert code == 0 and out.startswith("round 8: ") and "whole; proven by the log" in out
    path = folder / "snapshots" / "00000008.safetensors"
    whole = path.read_bytes()
    for at in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        code, said = asked.plain("verify")
        assert code == 1 and not said["valid"] and said["file"] == str(path), at
    assert asked.plain("verify", "", "--round", "4")[0] in (0, 1)
    path.write_bytes(whole[:-1])
    assert asked.plain("verify")[0] == 1


def test_the_way_out_of_damage_is_that_of_the_file(folder: Path, asked: Asked) -> None:
    """The folder holds this host's votes: neither it nor an older copy of it is moved for a state, or an update."""
    state, (update, *_) = folder / "snapshots" / "00000008.safetensors", sorted((folder / "updates").iterdir())
    for path, words in ((state, ("verify",)), (update, ("ls",))):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        hint = asked.plain(*words)[1]["error"]["hint"]
        assert hint.startswith(f"move {path} away: the daemon") and "backup" not in hint
        path.write_bytes(whole)
    (folder / "log" / "votes").write_bytes(b"nonsense")
    hint = asked.plain("ls")[1]["error"]["hint"]
    assert hint.startswith(f"move {folder} away and `intellectd join` again"), "a backup has forgotten newer votes"


def test_what_the_daemon_deletes_meanwhile_is_no_damage(folder: Path, asked: Asked, tmp_path: Path) -> None:
    """Of large states the oldest is gone before the newest was read."""
    gone = folder / "snapshots" / "00000004.safetensors"
    real = snapshot.check_snapshot

    def slow(path: Path, elements: int, round_: int) -> bytes:
        gone.unlink(missing_ok=True)
        return real(path, elements, round_)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examine_states, "check_snapshot", slow)
        code, said = asked.plain("verify")
        assert code == 0 and [state["round"] for state in said["checkpoints"]] == [8]
    gone.symlink_to(tmp_path / "nothing")  # listed, and not there any more
    code, said = asked.plain("ls")
    assert code == 0 and [state["round"] for state in said["checkpoints"]] == [8]
    assert asked.plain("export", "", str(tmp_path / "out"), "--round", "4")[1]["error"]["code"] == "failed"


def test_a_whole_state_of_another_history_is_found(folder: Path, asked: Asked) -> None:
    from intellectd.daemon.store.snapshot import State, read_snapshot
    from intellectd.daemon.store.snapshot_writer import write_snapshot
    from intellectd.kernels.digest import state_digest

    path = folder / "snapshots" / "00000008.safetensors"
    elements = (path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")) // 8
    state = read_snapshot(path, elements, 8).state
    other = State(state.theta + 1, state.momentum)
    write_snapshot(path, other, 8, state_digest(other.theta, other.momentum))
    assert [state["standing"] for state in asked.plain("ls")[1]["checkpoints"]] == ["proven", "not the log's"]
    code, said = asked.plain("verify")
    assert code == 1 and "not the state that the log proves" in said["reason"]


def test_a_round_or_run_that_is_not_there_is_said_so(
    folder: Path, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked("verify", "", "--round", "5")[0] == 1
    main(["checkpoint", "verify", "--round", "5", "--state-dir", asked.state])
    assert "there is no state of round 5" in capsys.readouterr().err
    code, said = asked.plain("verify", "--round", "5")
    assert (code, said["error"]["code"], said["error"]["hint"]) == (1, "failed", "name one of those")
    assert "there are: 4, 8" in said["error"]["message"] and "valid" not in said, "nothing is wrong with the files"
    assert asked("ls", "rn1x")[0] == 1
    assert ROUNDS == 10


def test_export_of_a_state_on_this_disk(folder: Path, asked: Asked, tmp_path: Path) -> None:
    before = digest_of(folder)
    code, said = asked.plain("export", "", str(tmp_path / "out"), "--round", "4", "--format", "safetensors")
    assert code == 0 and (said["round"], said["files"], said["dtype"]) == (4, ["model.safetensors"], "fp32")
    theta = load_file(folder / "snapshots" / "00000004.safetensors")["theta"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    for slot in LAYOUT.slots:
        assert torch.equal(found[slot.name].flatten(), theta[slot.offset : slot.offset + slot.size])
    assert digest_of(folder) == before
    assert asked.plain("export", "", str(tmp_path / "other"), "--round", "5")[0] == 1
    path = folder / "snapshots" / "00000004.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    assert asked.plain("export", "", str(tmp_path / "other"), "--round", "4", "--format", "safetensors")[0] == 1
    assert not (tmp_path / "other").exists()


def test_what_is_no_llama_is_exported_as_tensors_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = str(folder.parent.parent)
    assert main(["checkpoint", "export", "", str(tmp_path / "out"), "--round", "4", "--state-dir", state]) == 1
    assert "use --format safetensors" in capsys.readouterr().err
