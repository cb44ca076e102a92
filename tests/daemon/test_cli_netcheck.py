"""`intellectd netcheck`: a table for people, one object for scripts, and an exit code."""

import json
from typing import Any

from intellectd.daemon.cli.netcheck import LIMITS, netcheck_lines
from tests.daemon.fake_answers import ADDRESS, PEER, RUN_ID, Answers
from tests.daemon.test_cli import NO_SUCH_RUN, Cli, answers, cli

__all__ = ["answers", "cli"]  # fixtures

ROW: dict[str, Any] = {
    "peer": PEER,
    "runs": ["mini"],
    "state": "alive",
    "control": {"connected": True, "came": True, "addresses": [ADDRESS], "round_trip_s": 0.09},
    "tensors": {
        "address": "203.0.113.9:4002",
        "reach": "both",
        "came_s": 12.0,
        "reached_s": 60.0,
        "failure": "",
        "wires": 2,
        "round_trip_s": 0.101,
        "bytes_per_s": 12_500_000.0,
        "limit": "rwnd",
        "measured_s": 40.0,
    },
}


def netcheck_answer(*peers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "uptime_s": 600.0,
        "runs": ["mini"],
        "control": {"addresses": [ADDRESS], "announced": False, "came": [PEER]},
        "tensors": {
            "address": "203.0.113.5:4002",
            "announced": True,
            "came": [],
            "upload_mbit": 100,
            "download_mbit": 0,
        },
        "peers": list(peers),
        "problems": [],
        "notes": [],
        **changes,
    }


async def test_the_table_says_who_is_reached_how_fast_and_what_holds_it_back(cli: Cli, answers: Answers) -> None:
    near = {**ROW, "tensors": {**ROW["tensors"], "round_trip_s": 0.0004}}
    assert " <1 ms " in netcheck_lines(netcheck_answer(near))[-1]
    never = {**ROW, "tensors": {"address": "", "reach": "untried", "wires": 0, "bytes_per_s": None, "limit": None}}
    answers.give("netcheck", netcheck_answer(ROW, never))
    code, out, err = await cli("netcheck")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "up        10 min 0 s"
    assert lines[1:3] == [f"control   {ADDRESS}", "          1 of 2 peers have connected to it"]
    assert lines[3] == "tensors   203.0.113.5:4002 (as configured)"
    assert lines[4] == "          0 of 2 peers have connected to it"
    assert lines[5] == "limits    100 Mbit/s up"
    header, first, second = lines[-3:]
    assert header.split() == ["PEER", "STATE", "TENSORS", "ADDRESS", "RTT", "OUT", "HELD", "BACK", "BY", "WIRES"]
    assert first.split()[1:] == [
        "alive",
        "both",
        "ways",
        "203.0.113.9:4002",
        "101",
        "ms",
        "12.5",
        "MB/s",
        "window",
        "(there)",
        "2",
    ]
    assert second.split()[1:] == ["alive", "untried", "none", "90", "ms", "-", "-", "0"]
    assert answers.asked == [{"op": "netcheck"}]


async def test_problems_and_notes_are_words_and_problems_an_exit_code(cli: Cli, answers: Answers) -> None:
    answers.give("netcheck", netcheck_answer(ROW, notes=["nobody has connected: forward port 4002"]))
    code, out, _ = await cli("netcheck", "mini")
    assert code == 0 and out.splitlines()[-1] == "note      nobody has connected: forward port 4002"
    answers.give("netcheck", netcheck_answer(ROW, problems=["no tensors pass\x1b[2J to it"], notes=["a note"]))
    code, out, _ = await cli("netcheck", RUN_ID)
    assert code == 4
    assert out.splitlines()[-2:] == ["problem   no tensors pass�[2J to it", "note      a note"]
    assert [request.get("run_id") for request in answers.asked] == ["mini", RUN_ID]


async def test_a_host_in_no_run_is_told_so(cli: Cli, answers: Answers) -> None:
    answers.give("netcheck", netcheck_answer(runs=[]))
    code, out, err = await cli("netcheck")
    assert code == 0
    assert "tensors   203.0.113.5:4002" in out and "there are no peers to connect to it" in out
    assert "this host is in no run" in err and "intellectd join" in err


async def test_json_is_the_whole_answer_and_refusals_have_their_code(cli: Cli, answers: Answers) -> None:
    answers.give("netcheck", netcheck_answer(ROW, problems=["one"]))
    code, out, _ = await cli("netcheck", "--json")
    assert code == 4 and json.loads(out) == {"schema": 1, **netcheck_answer(ROW, problems=["one"])}
    answers.give("netcheck", NO_SUCH_RUN)
    code, out, err = await cli("netcheck", "nine", "--json")
    assert code == 4 and json.loads(out)["error"]["code"] == "no_such_run" and "not in that run" in err
    code, _, err = await cli("netcheck", RUN_ID[:-1] + "_")
    assert code == 2 and "intellectd runs" in err


def test_what_an_older_daemon_leaves_out_is_a_dash_and_a_host_without_address_says_so() -> None:
    lines = netcheck_lines({"peers": [{"peer": PEER}]})
    assert lines[-1].split() == [PEER, *"-" * 7]
    assert "tensors   none: this host dials the others" in lines


def test_every_diagnosis_has_its_word() -> None:
    """As streams.diagnosed names them."""
    assert set(LIMITS) == {"pace", "rwnd", "host", "sndbuf", "loss", "bbr", "app"}
