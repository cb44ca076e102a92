"""`intellectd rounds`: a line a round, the hash that `join --head` takes, and answers that come in parts."""

import json
from typing import Any

from intellectd.daemon.cli.membership import HASH
from tests.daemon.fake_answers import Answers, run_status, status_answer
from tests.daemon.test_cli import NO_SUCH_RUN, Cli, answers, cli

__all__ = ["answers", "cli"]  # fixtures


def row(number: int, **changes: Any) -> dict[str, Any]:
    facts = {"round": number, "roster": ["a", "b"], "schedule": "ring", "tokens": 51_200, "duration_s": 152.6}
    return {**facts, "wire_bytes": 1_300_000, "loss": 2.346, "record": f"{number:064x}", **changes}


async def test_a_line_a_round_the_newest_last(cli: Cli, answers: Answers) -> None:
    from_the_log = row(7, duration_s=0.0, wire_bytes=0, loss=None)
    answers.give("rounds", {"rounds": [from_the_log, row(8, schedule="direct")], "loss_first": 5.7})
    code, out, err = await cli("rounds", "mini", "--last", "2")
    assert (code, err, answers.asked) == (0, "", [{"op": "rounds", "run_id": "mini", "last": 2}])
    header, before, newest = out.splitlines()
    assert header.split() == ["ROUND", "SCHEDULE", "MEMBERS", "TOKENS", "TOOK", "SENT", "LOSS", "RECORD"]
    assert before.split() == ["7", "ring", "2", "51.2k", "-", "-", "-", f"{7:064x}"]
    assert newest.split() == ["8", "direct", "2", "51.2k", "2", "min", "33", "s", "1.3", "MB", "2.346", f"{8:064x}"]
    assert HASH.fullmatch(newest.split()[-1])


async def test_what_did_not_fit_in_an_answer_is_asked_for(cli: Cli, answers: Answers) -> None:
    parts = ([row(6), row(7)], [row(8)], [])  # the last: fewer than asked for were decided
    answers.give("rounds", *({"rounds": rows, "loss_first": 5.7} for rows in parts))
    code, out, _ = await cli("rounds", "--json")
    said = json.loads(out)
    assert (code, said["schema"], [r["round"] for r in said["rounds"]]) == (0, 1, [6, 7, 8])
    assert [(asked.get("last"), asked.get("since")) for asked in answers.asked] == [(20, None), (None, 8), (None, 9)]


async def test_nothing_to_show_and_bad_arguments(cli: Cli, answers: Answers) -> None:
    answers.give("rounds", {"rounds": [], "loss_first": None})
    code, out, err = await cli("rounds")
    assert (code, out) == (0, "") and "no round was decided yet" in err and "intellectd status" in err
    code, _, err = await cli("rounds", "--last", "0")
    assert code == 2 and "--last 0 is not between 1 and 4096" in err
    answers.give("rounds", NO_SUCH_RUN)
    code, _, err = await cli("rounds", "other")
    assert code == 4 and "`intellectd runs` lists its runs" in err


async def test_a_rate_is_not_shown_as_todays_where_no_trainer_is(cli: Cli, answers: Answers) -> None:
    answers.give("status", status_answer(run_status(trainer="absent")))
    answers.give("runs", {"runs": [run_status(trainer="absent"), run_status(trainer="training")]})
    assert "12.3k tokens/s here while it had a trainer, 1.2M tokens in all" in (await cli("status"))[1]
    rates = [line.split()[-2] for line in (await cli("runs"))[1].splitlines()]
    assert rates == ["TOKENS/S", "-", "12.3k"]
