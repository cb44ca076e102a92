"""A slice that is cut off goes on where its ledger ends, and comes to the same."""

import json
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from tests.sim import explore, slices
from tests.sim.__main__ import main
from tests.sim.explore import Plan
from tests.sim.ledger import Ledger, Tally
from tests.sim.play import Outcome

SEEDS = 5
ARGUMENTS = ["explore", f"--seeds={SEEDS}", "--first-seed=40", "--nodes=2", "--minutes=1", "--jobs=1", "--json"]


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "BLOCK_SEEDS", 2)


def slice_into(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    code = main([*ARGUMENTS, f"--ledger={path}", *more])
    said = json.loads(capsys.readouterr().out)
    return code, {name: value for name, value in said.items() if name != "seeds_per_minute"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def dying_at(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = explore._one

    def one(plan: Plan, at: int) -> Outcome:
        if at == seed:
            raise KeyboardInterrupt
        return honest(plan, at)

    monkeypatch.setattr(explore, "_one", one)


def test_a_slice_that_was_cut_off_goes_on_and_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = slice_into(tmp_path / "whole", capsys)
    assert whole[0] == 0 and whole[1]["seeds"] == SEEDS and whole[1]["events"]
    with monkeypatch.context() as during:
        dying_at(43, during)
        with pytest.raises(KeyboardInterrupt):
            slice_into(tmp_path / "parts", capsys)
    assert [(line["first"], line["last"]) for line in lines(tmp_path / "parts")] == [(40, 41)]
    assert slice_into(tmp_path / "parts", capsys) == whole
    assert [line["first"] for line in lines(tmp_path / "parts")] == [40, 42, 44]
    dying_at(43, monkeypatch)  # nothing is played a second time
    assert slice_into(tmp_path / "parts", capsys) == whole


def test_a_torn_line_is_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger"
    whole = slice_into(path, capsys)
    path.write_bytes(path.read_bytes()[:-20])
    assert slice_into(path, capsys) == whole
    assert len(path.read_bytes().splitlines()) == 4 and path.read_bytes().endswith(b"\n")


def test_other_arguments_are_another_slice(tmp_path: Path) -> None:
    path, plan = tmp_path / "ledger", Plan(0, 4, (2, 9), 20.0)
    Ledger(path, plan.arguments("one")).append(0, 1, Tally(seeds=2, commits=7))
    Ledger(path, plan.arguments("one")).append(2, 5, Tally(seeds=4, commits=1))
    assert Ledger(path, plan.arguments("one")).played(0, 6)[1].commits == 8
    assert Ledger(path, plan.arguments("one")).played(0, 4)[0] == 2, "a block beyond the range is not of it"
    assert Ledger(path, plan.arguments("one")).played(1, 4)[0] == 1
    assert Ledger(path, plan.arguments("other")).played(0, 6)[0] == 0
    assert Ledger(path, Plan(0, 4, (2, 8), 20.0).arguments("one")).played(0, 6)[0] == 0


def test_what_breaks_is_recorded_and_the_slice_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = explore._one
    with monkeypatch.context() as during:
        during.setattr(explore, "_one", lambda p, s: Outcome("it broke", commits=s) if s == 41 else honest(p, s))
        code, said = slice_into(tmp_path / "ledger", capsys)
    assert code == 1 and said["seeds"] == SEEDS and said["violations"] == 1
    assert said["found"][0]["seed"] == 41 and said["found"][0]["problem"] == "it broke"
    command, scenario = said["found"][0]["replay"].split("replay ")
    assert command == "python -m tests.sim " and main(["replay", scenario.strip("'")]) == 0
    capsys.readouterr()
    assert slice_into(tmp_path / "ledger", capsys) == (1, said), "a slice that broke stays broken"


def killed(plan: Plan, seed: int) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it lives")


def test_a_process_that_is_killed_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "_one", killed)
    with pytest.raises(BrokenProcessPool):
        list(explore.outcomes(Plan(0, 3, (2, 2), 1.0), 2))
