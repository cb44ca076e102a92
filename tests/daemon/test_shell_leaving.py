"""Hosts that leave: the others go on, or it is said that they cannot; the folder stays, and joining takes it up."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.runs import leaving
from intellectd.daemon.runs.compute import Work
from intellectd.daemon.runs.leaving import put_aside
from intellectd.daemon.runs.registry import LEAVE_S_MAX
from intellectd.daemon.runs.status import ails
from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import Host, shell
from tests.daemon.test_shell_swarm import finish_alike, refusal, rosters, swarm

Clock = trio.testing.MockClock
Patch = pytest.MonkeyPatch


async def by_seniority(hosts: list[Host]) -> list[Host]:
    """The senior one first."""
    voters: list[str] = (await hosts[0].until(lambda run: len(run["voters"]) == len(hosts)))["voters"]
    return sorted(hosts, key=lambda host: voters.index(host.peer))


def set_pace(hosts: list[Host], round_s: float) -> None:
    for host in hosts:
        assert host.trainer is not None
        host.trainer.round_s = round_s


async def test_a_host_leaves_and_comes_back_as_the_voter_it_was(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=9)
        gone = hosts[2]
        await gone.wait("round=2")
        voted = (gone.state / "runs" / run_id / "log" / "votes").read_bytes()
        answer = await gone.ask("leave", run_id=run_id)
        aside = gone.state / "left" / run_id
        assert (answer["left"], answer["path"], answer["warnings"]) == (True, str(aside), [])
        assert (await gone.ask("leave", run_id=run_id))["left"]  # who asks again missed the answer
        assert (await gone.ask("runs"))["runs"] == []
        assert not (gone.state / "runs" / run_id).exists()
        assert (aside / "log" / "votes").read_bytes().startswith(voted)
        status = await hosts[0].until(lambda run: gone.peer not in run["voters"])
        await hosts[0].wait(f"round={status['round'] + 3}")
        assert gone.peer not in (await hosts[0].status())["roster"]

        await gone.ask("join", run_id=run_id, peers=[hosts[0].address])
        assert not aside.exists()
        goes_on = (await hosts[0].status())["head_round"]
        assert (await gone.wait("synced"))["round"] >= goes_on - 1  # with the others, not with its own old log
        await finish_alike(hosts, 9)
        assert gone.peer in (await rosters(hosts[0], run_id))[9]


async def test_leaving_is_not_half_done_when_the_client_hangs_up(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=50)
        await hosts[1].wait("round=2")
        with trio.move_on_after(1.0) as impatient:
            await hosts[1].ask("leave", run_id=run_id)
        assert impatient.cancelled_caught
        await hosts[0].until(lambda run: hosts[1].peer not in run["voters"])
        await trio.sleep(10)
        assert (await hosts[1].ask("runs"))["runs"] == []
        assert (hosts[1].state / "left" / run_id).is_dir()


@pytest.mark.parametrize("leaver", [0, 1], ids=["senior", "junior"])
async def test_one_of_two_leaves_and_the_other_goes_on_alone(leaver: int, autojump_clock: Clock) -> None:
    """SPEC Q1, R10: the senior one hands over: it waits for the round that takes its seat away."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=8)
        order = await by_seniority(hosts)
        gone, other = order[leaver], order[1 - leaver]
        answer = await gone.ask("leave", run_id=run_id)
        assert answer["left"] and answer["warnings"] == []
        status = await other.wait("finished")
        assert status["voters"] == [other.peer] and status["roster"] == [other.peer]


async def test_the_senior_of_two_goes_at_once_and_is_told_whom_it_strands(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=4)
        senior, other = await by_seniority(hosts)
        set_pace(hosts, 1000.0)
        await senior.until(lambda run: run["trainer"] == "training")
        answer = await senior.ask("leave", run_id=run_id, timeout_s=3)
        assert not answer["left"] and "without this host's vote" in answer["waits_for"]
        answer = await senior.ask("leave", run_id=run_id, now=True)
        (warning,) = answer["warnings"]
        assert answer["left"] and other.peer[-8:] in warning and "will wait until it joins again" in warning
        set_pace(hosts, 10.0)
        assert "1 of 2 voters reachable" in (await other.until(lambda run: run["state"] == "waiting"))["reason"]
        await senior.ask("join", run_id=run_id)
        await finish_alike(hosts, 4)


async def test_the_last_one_leaves_with_the_only_state_and_is_told_so(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=6)
        await host.wait("round=2")
        answer = await host.ask("leave", run_id=run_id)
        (warning,) = answer["warnings"]
        assert answer["left"] and "no other host" in warning and f"intellectd join {run_id}" in warning
        await host.ask("join", run_id=run_id)
        await finish_alike([host], 6)


async def test_leaving_outlives_a_restart_and_takes_as_long_as_it_takes(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=6)
        set_pace(hosts, 100.0)
        gone = hosts[2]
        await gone.wait("round=1")
        answer = await gone.ask("leave", run_id=run_id)
        assert not answer["left"] and "0 of 3 have done their steps" in answer["waits_for"]
        assert (await gone.status())["reason"].startswith("leaving; ")
        error = await refusal(gone, "join", run_id=run_id, peers=[])
        assert error.code == "busy" and "leaving" in error.message
        await gone.end()
        assert (gone.state / "runs" / run_id).is_dir()  # a daemon that stops has not left
        await gone.start()
        assert (await gone.status())["reason"].startswith("leaving; ")
        await hosts[0].until(lambda run: gone.peer not in run["voters"])
        await trio.sleep(10)
        assert (await gone.ask("runs"))["runs"] == []
        await gone.ask("join", run_id=run_id, peers=[])
        await gone.wait("synced")
        assert not (await gone.status())["reason"].startswith("leaving")
        await gone.kill()
        set_pace(hosts, 10.0)
        await gone.start()  # the mark is gone with the change of mind
        await finish_alike(hosts, 6)


async def test_who_asks_to_leave_as_it_is_over_begins_no_second_leave(autojump_clock: Clock) -> None:
    """A slow disk marks the folder for the second asker when the first has left. It would be "leaving" for ever."""
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=400)
        registry, answers = host.registry, list[bool]()
        assert registry is not None
        inline, marks = registry.host.runner, list[Work]()

        async def runner(work: Work) -> Any:
            if "Registry.leave" in work.__qualname__:
                marks.append(work)
                await trio.sleep(0 if len(marks) == 1 else 30)
            return await inline(work)

        registry.host.runner = runner

        async def leave(name: str) -> None:
            answers.append((await host.ask("leave", run_id=name, now=True))["left"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, run_id)
            nursery.start_soon(leave, "shell")
        assert answers == [True, True] and len(marks) == 2
        await host.ask("join", run_id=run_id, peers=[])
        await host.wait("round=2")


async def test_who_leaves_one_of_two_runs_of_a_name_goes_on_telling_of_the_other(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=400)
        await host.wait("round=1")
        FakeTrainer("other", run="shell").serve(world.nursery, host.config.socket)
        other = await host.init(rounds=2)
        await host.ask("leave", run_id=other, now=True)
        assert 'run="shell"} 1.0' in next(
            line for line in (await host.ask("metrics"))["text"].splitlines() if line.startswith("intellectd_run_info{")
        )


async def test_a_folder_that_cannot_be_put_aside_harms_nobody_and_is_tried_again(autojump_clock: Clock) -> None:
    """A full disk is a reason to leave: the daemon, and whatever else it runs, must not end of it."""
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=400)
        (host.state / "left").write_bytes(b"in the way")
        answer = await host.ask("leave", run_id=run_id, now=True)
        assert not answer["left"] and str(host.state / "left") in answer["waits_for"]
        assert (await host.ask("runs"))["runs"] == []
        error = await refusal(host, "join", run_id=run_id, peers=[])
        assert error.code == "busy" and str(host.state / "left") in error.message
        await host.end()
        await host.start()  # it stands in its place still, and is left again
        answer = await host.ask("leave", run_id=run_id, now=True)
        assert not answer["left"] and str(host.state / "left") in answer["waits_for"]
        (host.state / "left").unlink()
        assert (await host.ask("leave", run_id=run_id, timeout_s=LEAVE_S_MAX))["left"]
        assert (host.state / "left" / run_id / "manifest").is_file()
        await host.ask("join", run_id=run_id, peers=[])
        await host.wait("round=3")


async def test_a_voter_whose_folder_was_thrown_away_votes_for_nothing_until_it_is_named_anew(
    autojump_clock: Clock,
) -> None:
    """SPEC A13."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=7)
        gone = hosts[2]
        await gone.until(lambda run: gone.peer in run["voters"])
        set_pace(hosts, 100.0)
        await gone.ask("leave", run_id=run_id, now=True)
        shutil.rmtree(gone.state / "left")
        await gone.ask("join", run_id=run_id)  # it still knows its peers
        await gone.until(lambda run: "this host's votes are lost" in run["reason"])
        set_pace(hosts, 10.0)
        await gone.until(lambda run: gone.peer not in run["voters"])
        await gone.until(lambda run: gone.peer in run["voters"])
        await finish_alike(hosts, 7)


async def test_a_folder_that_was_damaged_meanwhile_is_named_where_it_lies(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=4)
        await host.wait("round=2")
        await host.ask("leave", run_id=run_id, now=True)
        aside = host.state / "left" / run_id
        (aside / "log" / "votes").write_bytes(b"nonsense")
        error = await refusal(host, "join", run_id=run_id, peers=[])
        assert f"{aside}/log/votes is damaged" in error.message and str(aside) in error.hint
        assert (aside / "log" / "votes").read_bytes() == b"nonsense"
        assert list((host.state / "runs").iterdir()) == []


async def test_when_the_senior_of_two_forgot_its_votes_both_say_that_nothing_goes_on(autojump_clock: Clock) -> None:
    """SPEC A13, Q1: heard is not enough."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=9)
        senior, junior = await by_seniority(hosts)
        set_pace(hosts, 50.0)  # no round comes between
        await senior.until(lambda run: run["inner"] is not None)
        await senior.ask("leave", run_id=run_id, now=True)
        shutil.rmtree(senior.state / "left")
        await senior.ask("join", run_id=run_id, peers=[junior.address])
        await senior.until(lambda run: any("forgot what it voted" in warning for warning in run["warnings"]))
        status = await junior.until(lambda run: run["quorum"] is not None and not run["quorum"]["reached"])
        assert status["state"] == "waiting" and senior.peer[-8:] in status["reason"]
        assert "1 of 2 voters" in ails(world.service(junior))
        status = await senior.status()
        assert (status["state"], status["quorum"]["missing"]) == ("waiting", [senior.peer])


def test_an_older_copy_does_not_take_the_place_of_the_newest(tmp_path: Path) -> None:
    aside = tmp_path / "left" / "run"
    for text in ("old", "older votes than", "the newest"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "votes").write_text(text)
        put_aside(tmp_path / "run", aside)
    assert (aside / "votes").read_text() == "the newest"
    assert sorted(path.name for path in aside.parent.iterdir()) == ["run", "run.1", "run.2"]


def test_a_disk_that_refuses_to_say_that_it_moved_is_asked_again(tmp_path: Path, monkeypatch: Patch) -> None:
    """The newest copy is where `join` looks for it, whichever of the syncs failed."""
    for failing in range(2):
        place, calls = tmp_path / str(failing), list[Path]()
        aside, run = place / "left" / "run", place / "runs" / "run"
        for folder, text in ((aside, "older votes"), (run, "the newest")):
            folder.mkdir(parents=True)
            (folder / "votes").write_text(text)

        def refuse(path: Path, calls: list[Path] = calls, failing: int = failing) -> None:
            calls.append(path)
            if len(calls) == failing + 1:
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(leaving, "fsync_dir", refuse)
        with pytest.raises(StorageError, match="Input/output error"):
            put_aside(run, aside)
        put_aside(run, aside)
        assert calls[-2:] == [run.parent, aside.parent], "both are durable now"
        assert (aside / "votes").read_text() == "the newest" and not run.exists()
        assert sorted(path.name for path in aside.parent.iterdir()) == ["run", "run.1"]


async def test_a_folder_that_comes_back_to_a_disk_that_fails_is_left_again(
    autojump_clock: Clock, monkeypatch: Patch
) -> None:
    """It is no run then that nobody serves, and that `join` looks for among the peers."""
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=4)
        await host.wait("round=2")
        await host.ask("leave", run_id=run_id, now=True)
        real, failed = leaving.fsync_dir, list[Path]()

        def refuse(path: Path) -> None:
            if not failed:
                failed.append(path)
                raise OSError(errno.EIO, "Input/output error")
            real(path)

        monkeypatch.setattr(leaving, "fsync_dir", refuse)
        error = await refusal(host, "join", run_id=run_id, peers=[])
        assert "Input/output error" in error.message
        assert list((host.state / "runs").iterdir()) == [] and (host.state / "left" / run_id / "manifest").is_file()
        await host.ask("join", run_id=run_id, peers=[])
        await host.wait("round=3")
