"""The command line against a real control socket: words, JSON and exit codes."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from intellectd.daemon.cli import client
from intellectd.daemon.cli.main import main
from intellectd.daemon.control import ControlError
from tests.daemon.fake_answers import ADDRESS, PEER, RUN_ID, Answers, run_status, serving, status_answer

NO_SUCH_RUN = ControlError("no_such_run", "this host is not in that run", "`intellectd runs` lists its runs")
Cli = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def cli(answers: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command against a daemon that gives the answers; (exit code, stdout, stderr)."""

    async def run(*words: str) -> tuple[int, str, str]:
        path = tmp_path / "s.sock"
        async with serving(answers, path):
            code = await trio.to_thread.run_sync(main, [*words, "--socket", str(path)])
        return code, *capsys.readouterr()

    return run


async def test_status_tells_of_the_host_and_its_runs(cli: Cli, answers: Answers) -> None:
    answers.give("status", status_answer(run_status()))
    code, out, err = await cli("status")
    assert (code, err) == (0, "")
    assert f"peer      {PEER}\n" in out
    assert "up        2 h 3 min\n" in out
    assert f"address   {ADDRESS}\n" in out
    assert "state     training\n" in out
    assert "round     5 of 14\n" in out
    assert "model     1.3M parameters\n" in out
    assert "loss      2.346 held-out, 2.500 training\n" in out
    assert "12.3k tokens/s here, 1.2M tokens in all, 8.2 s an outer step" in out
    assert RUN_ID not in out  # over a shoulder or in a screenshot it would admit
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("training", 0),
        ("reducing", 0),
        ("catching-up", 0),
        ("finished", 0),
        ("waiting", 4),
        ("halted", 4),
        ("joining", 4),
        ("creating", 4),
    ],
)
async def test_status_says_by_exit_code_whether_every_run_goes_on(
    state: str, code: int, cli: Cli, answers: Answers
) -> None:
    answers.give("status", status_answer(run_status(), run_status(state=state, reason="quorum is gone")))
    exit_code, out, _ = await cli("status")
    assert exit_code == code
    assert f"state     {state}: quorum is gone" in out


async def test_status_and_peers_of_one_run(cli: Cli, answers: Answers) -> None:
    """By its id or name; the daemon finds it, as it does for the other verbs."""
    answers.give("status", status_answer(run_status()))
    answers.give("peers", {"peers": []})
    assert (await cli("status", "mini"))[0] == 0 and (await cli("peers", RUN_ID.upper()))[0] == 0
    assert answers.asked == [{"op": "status", "run_id": "mini"}, {"op": "peers", "run_id": RUN_ID}]
    answers.give("status", NO_SUCH_RUN)
    code, out, err = await cli("status", "nine")
    assert code == 4 and not out and "not in that run" in err


async def test_status_of_a_run_without_its_quorum_answers_4(cli: Cli, answers: Answers) -> None:
    quorum = {"reached": False, "here": 1, "of": 2, "missing": [PEER]}
    answers.give("status", status_answer(run_status(state="catching-up", quorum=quorum)))
    assert (await cli("status"))[0] == 4


async def test_status_tells_the_inner_step_and_whose_loss_it_is(cli: Cli, answers: Answers) -> None:
    inner = {"round": 6, "step": 30, "steps": 100}
    answers.give("status", status_answer(run_status(inner=inner, reason="0 of 2 have done their steps", loss_round=4)))
    out = (await cli("status"))[1]
    assert "state     training: step 30 of 100 of round 6; 0 of 2 have done their steps\n" in out
    assert "loss      2.346 held-out (after round 4), 2.500 training\n" in out


async def test_status_of_a_host_in_no_run_says_what_to_do(cli: Cli, answers: Answers) -> None:
    answers.give("status", status_answer())
    code, _, err = await cli("status")
    assert code == 4
    assert "in no run" in err
    assert "intellectd join" in err
    answers.give("status", status_answer(founding={"name": "mini", "trainer": "builtin"}))
    code, out, err = await cli("status")
    assert (code, err) == (4, "") and "creating  mini: the trainer builds the first parameters" in out


async def test_status_shows_how_far_a_catch_up_is_and_warnings(cli: Cli, answers: Answers) -> None:
    catchup = {"bytes": 25_000_000, "total_bytes": 100_000_000, "seconds": 5.0, "rate": 5e6, "seconds_left": 15.0}
    warnings = ["losing this host loses the run: nobody else has its state"]
    run = run_status(state="catching-up", catchup=catchup, round=2, head_round=9, warnings=warnings)
    answers.give("status", status_answer(run))
    _, out, _ = await cli("status")
    assert "state     catching-up: 25 % of 100.0 MB at 5.0 MB/s, 15.0 s left\n" in out
    assert "round     2 of 14, the head is 9\n" in out
    assert "warning   losing this host loses the run" in out


async def test_status_warns_of_a_daemon_of_another_version(cli: Cli, answers: Answers) -> None:
    answers.give("status", status_answer(run_status(), version="9.9.9"))
    code, _, err = await cli("status")
    assert code == 0
    assert "the daemon is 9.9.9: restart the daemon" in err


async def test_what_an_older_daemon_leaves_out_is_a_dash(cli: Cli, answers: Answers) -> None:
    answers.give("status", {"peer": PEER, "runs": [{"state": "training", "name": "old"}]})
    answers.give("runs", {"runs": [{"state": "training", "name": "old"}]})
    answers.give("peers", {"peers": [{"peer": PEER}]})
    assert "loss      - held-out, - training" in (await cli("status"))[1]
    assert (await cli("runs"))[0] == 0
    assert (await cli("peers"))[0] == 0


async def test_a_hostile_peers_text_does_not_drive_the_terminal(cli: Cli, answers: Answers) -> None:
    peer = {"peer": PEER, "state": "alive", "version": "\x1b[2Jgone\r\n", "addresses": [ADDRESS], "head_round": 5}
    answers.give("peers", {"peers": [peer]})
    _, out, _ = await cli("peers")
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


async def test_runs_and_peers_are_aligned_tables(cli: Cli, answers: Answers) -> None:
    peer = {
        "peer": PEER,
        "addresses": [ADDRESS],
        "state": "alive",
        "head_round": 5,
        "role": "voter",
        "doing": "training",
        "heard_s": 2.5,
        "round_trip_s": 0.0123,
        "version": "0.1.0",
        "run": "mini",
        "runs": ["mini"],
    }
    answers.give("runs", {"runs": [run_status(join_line=f"intellectd join {RUN_ID} --peer {ADDRESS}")]})
    answers.give("peers", {"peers": [peer, {**peer, "state": "suspect", "round_trip_s": None}]})
    _, runs_out, _ = await cli("runs")
    assert runs_out.splitlines()[1].split() == ["mini", "training", "5", "of", "14", "2", "2.346", "12.3k", RUN_ID]
    assert runs_out.splitlines()[-1] == f"intellectd join {RUN_ID} --peer {ADDRESS}"
    _, out, _ = await cli("peers")
    header, first, second = out.splitlines()
    assert first.index("alive") == second.index("suspect") == header.index("STATE")
    assert first.split()[:6] == [PEER, "alive", "voter", "training", "5", "2.5"]
    assert first.split()[6:] == ["s", "ago", "12", "ms", "0.1.0", "/ip4/127.0.0.1/tcp/4001"]
    answers.give("peers", {"peers": [peer, {**peer, "run": "other"}]})
    _, out, _ = await cli("peers")
    assert [line.split()[0] for line in out.splitlines()] == ["RUN", "mini", "other"]


@pytest.mark.parametrize("verb", ["status", "runs", "peers", "metrics"])
async def test_json_is_one_object_on_stdout_with_a_schema(verb: str, cli: Cli, answers: Answers) -> None:
    given = {
        "status": status_answer(run_status()),
        "runs": {"runs": [run_status()]},
        "peers": {"peers": []},
        "metrics": {"text": "# HELP\n"},
    }[verb]
    answers.give(verb, given)
    code, out, _ = await cli(verb, "--json")
    assert code == 0
    assert json.loads(out) == {"schema": 1, **given}
    assert len(out.splitlines()) == 1


async def test_metrics_are_printed_as_prometheus_reads_them(cli: Cli, answers: Answers) -> None:
    answers.give("metrics", {"text": "# HELP a b\na 1\n"})
    assert await cli("metrics") == (0, "# HELP a b\na 1\n", "")


async def test_init_prints_what_to_copy_and_what_to_back_up(cli: Cli, answers: Answers, tmp_path: Path) -> None:
    join_line = f"intellectd join {RUN_ID} --peer {ADDRESS}"
    given = {"run_id": RUN_ID, "join_line": join_line, "owner_key_path": "/state/owner.key", "warning": "back it up"}
    answers.give("init", given)
    (tmp_path / "run.toml").write_text('name = "mini"\n')
    code, out, err = await cli("init", str(tmp_path / "run.toml"))
    assert code == 0
    assert f"run id     {RUN_ID}\n" in out
    assert f"join with  {join_line}\n" in out
    assert "owner key  /state/owner.key\n" in out
    assert "warning    back it up\n" in out
    assert err == ""
    assert answers.asked == [{"op": "init", "toml": 'name = "mini"\n'}]
    _, out, _ = await cli("init", str(tmp_path / "run.toml"), "--json")
    assert json.loads(out) == {"schema": 1, **given}


async def test_a_bad_run_file_is_named_as_it_was_given(cli: Cli, answers: Answers, tmp_path: Path) -> None:
    answers.give("init", ControlError("bad_config", "unknown key 'nam'", "did you mean 'name'?"))
    (tmp_path / "mine.toml").write_text('nam = "mini"\n')
    code, _, err = await cli("init", str(tmp_path / "mine.toml"))
    assert code == 78 and err == f"intellectd: {tmp_path}/mine.toml: unknown key 'nam'\n  did you mean 'name'?\n"


@pytest.mark.parametrize(
    ("founding", "told"),
    [
        ({"trainer": "external"}, "start your program now: INTELLECTD_SOCKET={socket} python your_program.py"),
        ({"trainer": "external", "attached": True}, "waiting for its parameters"),
        ({"trainer": "builtin"}, "this may take a minute"),
        ({"trainer": "builtin", "last_failure": "killed by SIGKILL"}, "started once more: killed by SIGKILL"),
        ({"imported_bytes": 0, "import_bytes": 0}, "the checkpoint is looked at"),
        ({"imported_bytes": 3_000_000, "import_bytes": 4_000_000}, "75 % of 4.0 MB are read"),
    ],
)
async def test_a_slow_init_says_what_it_waits_for(
    founding: dict[str, object], told: str, cli: Cli, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOOK_S", 0.01)
    answers.give("status", status_answer(founding=founding))
    answers.give("init", {"run_id": RUN_ID})
    answers.hold("init", until="status")
    (tmp_path / "run.toml").write_text('name = "mini"\n')
    code, _, err = await cli("init", str(tmp_path / "run.toml"))
    assert code == 0 and err.count(told.format(socket=tmp_path / "s.sock")) == 1


async def test_join_asks_once_and_says_how_to_go_on(cli: Cli, answers: Answers) -> None:
    answers.give("join", {"run_id": RUN_ID, "state": "joining"})
    code, out, err = await cli("join", RUN_ID.upper(), "--peer", ADDRESS)
    assert (code, out) == (0, "joined, and after a restart it joins by itself: joining\n")
    assert "intellectd status" in err
    assert answers.asked == [{"op": "join", "run_id": RUN_ID, "peers": [ADDRESS]}]
    await cli("join", RUN_ID, "--head", "AB" * 32)
    assert answers.asked[1:] == [{"op": "join", "run_id": RUN_ID, "peers": [], "head": "ab" * 32}]


async def test_join_wait_shows_progress_until_synced(cli: Cli, answers: Answers) -> None:
    catchup = {"bytes": 50, "total_bytes": 100, "seconds": 1.0, "rate": 50.0}
    answers.give("join", {"run_id": RUN_ID, "state": "joining"})
    answers.give(
        "wait",
        {"reached": False, "run": run_status(state="joining", round=0)},
        {"reached": False, "run": run_status(state="catching-up", round=0, catchup={**catchup, "total_bytes": 0})},
        {"reached": False, "run": run_status(state="joining", round=0, catchup=catchup)},
        {"reached": True, "run": run_status()},
    )
    code, out, err = await cli("join", RUN_ID, "--wait")
    assert (code, out) == (0, "joined and synced: round 5  training\n")
    assert err.splitlines() == [
        "round 0  joining",
        "round 0  catching-up: reading the records",
        "round 0  joining: 50 % of 100 B at 50 B/s, time left unknown",
        "round 5  training",
    ]
    assert [request.get("for") for request in answers.asked] == [None, *["synced"] * 4]


async def test_wait_that_runs_out_of_time_answers_124(cli: Cli, answers: Answers) -> None:
    answers.give("wait", {"reached": False, "run": run_status(state="waiting", reason="2 of 4 peers")})
    code, out, err = await cli("wait", RUN_ID, "--for", "round=9", "--timeout", "0", "--json")
    assert code == 124
    assert json.loads(out)["reached"] is False
    assert "not round=9 after 0 s: waiting: 2 of 4 peers" in err
    assert f"`intellectd wait {RUN_ID} --for round=9` waits again" in err
    assert answers.asked == [{"op": "wait", "run_id": RUN_ID, "for": "round=9", "timeout_s": 0.05}]


@pytest.mark.parametrize(
    ("goal", "run", "told"),
    [
        ("round=99", {"state": "finished"}, "the run ended with round 14, before round 99"),
        ("round=15", {}, "the run ends with round 14, before round 15"),
        ("finished", {"until": None}, "no last round"),
    ],
)
async def test_what_never_comes_is_not_waited_for(
    goal: str, run: dict[str, object], told: str, cli: Cli, answers: Answers
) -> None:
    answers.give("wait", {"reached": False, "run": run_status(**run)})
    code, _, err = await cli("wait", RUN_ID, "--for", goal)
    assert code == 1 and told in err
    assert len(answers.asked) == 1


async def test_waiting_for_a_run_that_halts_ends_at_once(cli: Cli, answers: Answers) -> None:
    answers.give("wait", {"reached": False, "run": run_status(state="halted", reason="digests differ")})
    code, _, err = await cli("wait", RUN_ID)
    assert code == 4
    assert "digests differ" in err


@pytest.mark.parametrize("verb", [["leave", RUN_ID], ["wait", RUN_ID], ["checkpoint", "export", RUN_ID, "out"]])
async def test_a_run_this_host_is_not_in_answers_4(verb: list[str], cli: Cli, answers: Answers) -> None:
    for op in ("leave", "wait", "export"):
        answers.give(op, NO_SUCH_RUN)
    code, out, err = await cli(*verb)
    assert (code, out) == (4, "")
    assert err == "intellectd: this host is not in that run\n  `intellectd runs` lists its runs\n"


async def test_leave_says_what_it_waits_for_what_stays_and_whom_it_strands(cli: Cli, answers: Answers) -> None:
    answers.give(
        "leave",
        {"run_id": RUN_ID, "left": False, "waits_for": "a round without this host's vote"},
        {"run_id": RUN_ID, "left": True, "path": "/state/left/it", "warnings": ["the others will wait"]},
    )
    code, out, err = await cli("leave", "mini")
    assert (code, out) == (0, "left the run; its files stay in /state/left/it, and joining again takes them up\n")
    assert err.splitlines() == [
        "leaving; it goes on by itself if you stop this command. It waits for a round without this host's vote",
        "warning: the others will wait",
    ]
    assert [(request["run_id"], request["now"]) for request in answers.asked] == [("mini", False), (RUN_ID, False)]


async def test_leaving_that_takes_longer_goes_on_by_itself(cli: Cli, answers: Answers) -> None:
    answers.give("leave", {"run_id": RUN_ID, "left": False, "waits_for": "a round"})
    code, out, err = await cli("leave", "", "--timeout", "0")
    assert (code, out) == (124, "")
    assert f"`intellectd leave {RUN_ID} --now` does not wait" in err


@pytest.mark.parametrize("name", ["", "my-run"])
async def test_a_run_of_this_host_may_be_named_otherwise_than_by_its_id(
    name: str, cli: Cli, answers: Answers, tmp_path: Path
) -> None:
    answers.give("wait", {"reached": True, "run": run_status()})
    answers.give("export", {"path": str(tmp_path / "out"), "files": [], "round": 1})
    answers.give("leave", {})
    assert (await cli("wait", name))[0] == 0
    assert (await cli("checkpoint", "export", name, str(tmp_path / "out")))[0] == 0
    assert (await cli("leave", name))[0] == 0
    assert [request["run_id"] for request in answers.asked] == [name] * 3
    assert [request.get("now") for request in answers.asked] == [None, None, False]


async def test_export_sends_a_path_that_means_the_same_to_the_daemon(
    cli: Cli, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers.give("export", {"path": str(tmp_path / "out"), "files": ["config.json"], "round": 5, "notes": ["no x"]})
    code, out, err = await cli("checkpoint", "export", RUN_ID, "out")
    assert (code, err) == (0, "note: no x\n")
    assert "after round 5" in out and "config.json" in out
    seen = [str(tmp_path), tmp_path.stat().st_dev, tmp_path.stat().st_ino]
    request = {"op": "export", "run_id": RUN_ID, "path": str(tmp_path / "out"), "format": "hf", "seen": seen}
    assert answers.asked == [{**request, "dtype": "fp32"}]


async def test_import_sends_the_folder_and_run_toml(cli: Cli, answers: Answers, tmp_path: Path) -> None:
    answers.give("import", {"run_id": RUN_ID, "join_line": "intellectd join it", "owner_key_path": "/k"})
    (tmp_path / "model").mkdir()
    (tmp_path / "run.toml").write_text('name = "mini"\n')
    code, out, _ = await cli("checkpoint", "import", str(tmp_path / "model"), str(tmp_path / "run.toml"))
    assert code == 0 and out.splitlines()[:2] == [f"run id     {RUN_ID}", "join with  intellectd join it"]
    found = tmp_path / "model"
    seen = [str(found), found.stat().st_dev, found.stat().st_ino]
    assert answers.asked == [{"op": "import", "toml": 'name = "mini"\n', "path": str(found), "seen": seen}]


async def test_export_fetches_what_the_daemon_could_not_write_there(cli: Cli, answers: Answers, tmp_path: Path) -> None:
    spool, target = tmp_path / "spool", tmp_path / "mine" / "out"
    answers.give("export", {"path": str(spool), "files": ["model.safetensors"], "round": 5})
    answers.give("export_fetched", {})
    code, _, err = await cli("checkpoint", "export", RUN_ID, str(target))
    assert code == 1 and f"copy it as root: `sudo cp -r {spool} {target}`" in err
    spool.mkdir()
    (spool / "model.safetensors").write_bytes(b"tensors")
    assert (await cli("checkpoint", "export", RUN_ID, str(spool)))[0] == 1  # occupied: the daemon is not even asked
    code, out, _ = await cli("checkpoint", "export", RUN_ID, str(target))
    assert code == 0 and f"is in {target}:" in out
    assert (target / "model.safetensors").read_bytes() == b"tensors"
    assert [request["op"] for request in answers.asked] == ["export", "export", "export_fetched"]


async def test_an_answer_from_nonsense_is_an_error_not_a_traceback(cli: Cli, answers: Answers) -> None:
    answers.give("runs", ControlError("odd", "", ""))
    code, _, err = await cli("runs")
    assert code == 1
    assert err == "intellectd: the daemon refused without a reason\n"
