"""What an operator sees: the words of `status`, the peers, and the metrics that dashboards rest on."""

import functools
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from intellectd.daemon.memory_net import open_memory_network
from intellectd.daemon.net import WIRE_VERSION
from intellectd.daemon.p2p.wire import Preamble
from intellectd.daemon.runs.headline import headline
from intellectd.daemon.runs.history import LOSSES_MAX, History, load_history
from intellectd.daemon.runs.journal import WARNING_S
from intellectd.daemon.runs.status import ails, hangs, some, state_of, why
from intellectd.protocol.effects import Note
from intellectd.protocol.events import PeerLearned
from tests.daemon.net_world import NOBODY
from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import Host, shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

DEPLOY = Path(__file__).parents[2] / "deploy"
Clock = trio.testing.MockClock


async def samples(host: Host) -> dict[str, float]:
    """`name{labels}` to value."""
    text = (await host.ask("metrics"))["text"]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def dashboard_metrics() -> list[str]:
    text = "".join(path.read_text() for path in (DEPLOY / "grafana/dashboards").glob("*.json"))
    return re.findall(r"\bintellectd_[a-z_]+", text)


async def test_the_words_of_a_run_from_its_beginning_to_its_end(autojump_clock: Clock) -> None:
    async with shell() as world:
        one = await world.host("a", trainer=FakeTrainer("a", round_s=2.0))  # looked at every 0.1 s
        run_id = await one.init(start_peers=2, rounds=6)
        await trio.sleep(5)
        status = await one.status()
        assert (status["state"], status["reason"]) == ("waiting", "1 of 2 peers are here to start")
        assert (status["round"], status["head_round"], status["until"]) == (0, 0, 6)
        assert status["parameters"] == 300 * 200 + 40
        assert re.fullmatch("[0-9a-f]{64}", status["state_digest"])

        two = await world.host("b", one, trainer=FakeTrainer("b", round_s=2.0))
        await two.ask("join", run_id=run_id, peers=[one.address])
        words: dict[str, bool] = {}
        lines: dict[str, bool] = {}
        while (status := await two.status())["state"] != "finished":
            words[status["state"]] = True
            lines[headline(two.services.values())] = True
            await trio.sleep(0.1)
        assert set(words) <= {"joining", "waiting", "training", "reducing", "catching-up"}
        assert "training" in words and "reducing" in words
        assert {"shell: round 3, 0 of 2 ready", "shell: round 3, 2 of 2 ready"} <= lines.keys()
        await finish_alike([one, two], 6)
        assert headline(two.services.values()) == "shell: finished with round 6"
        assert (await one.status())["warnings"] == []
        await trio.sleep(10)  # for the beacons that say so
        (peer,) = (await one.ask("peers"))["peers"]
        assert (peer["peer"], peer["state"], peer["role"], peer["head_round"]) == (two.peer, "alive", "voter", 6)
        assert peer["runs"] == ["shell"] and peer["addresses"] and peer["doing"] == "finished"
        world.service(one).post(PeerLearned(NOBODY, ("/ip4/127.0.0.1/tcp/9",)))  # a member of some other run
        await trio.sleep(1)
        assert [row["peer"] for row in (await one.ask("peers"))["peers"]] == [two.peer]


async def test_a_lost_quorum_is_said_everywhere_and_ends_by_itself(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC A15, Q1: of two, the junior one alone waits for the senior one."""
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=12)
        order = (await hosts[0].until(lambda run: len(run["voters"]) == 2))["voters"]
        senior, junior = sorted(hosts, key=lambda host: order.index(host.peer))
        caplog.set_level("INFO", "intellectd.run")
        await senior.kill()
        status = await junior.until(lambda run: not run["quorum"]["reached"])
        assert status["state"] == "waiting"
        assert status["quorum"] == {"reached": False, "here": 1, "of": 2, "missing": [senior.peer]}
        words = f"1 of 2 voters reachable: waiting for {senior.peer[:4]}…{senior.peer[-8:]}"
        assert status["reason"] == words
        assert any('`intellectd recover "shell"` goes on without them' in text for text in status["warnings"])
        service = world.service(junior)
        assert (ails(service), hangs(service)) == (f"run shell waits: {words}", "")
        assert headline([service]) == f"shell: waiting: {words}"
        assert (await samples(junior))['intellectd_quorum{run="shell"}'] == 0
        await trio.sleep(30)
        assert [line for line in caplog.messages if line.startswith("quorum")] == [
            "quorum lost: 1 of 2 voters reachable"
        ]
        assert caplog.messages.count(f"voter {senior.peer} is missing: silent, or unable to vote") == 1
        await senior.start()
        await junior.until(lambda run: run["quorum"]["reached"])
        assert ails(service) == ""
        await finish_alike(hosts, 12)
        assert (await junior.status())["quorum"] is None
        assert (await samples(junior))['intellectd_quorum{run="shell"}'] == 1


async def test_a_member_of_another_wire_version_is_told_of_with_what_to_do(autojump_clock: Clock) -> None:
    """Not upgraded with the others: it hears nobody, and must not be told of a recovery alone."""
    newer = Preamble(wire=WIRE_VERSION + 1, software="intellectd/9.9")

    def told(run: dict[str, Any]) -> list[str]:
        return [text for text in run["warnings"] if "wire version" in text]

    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=400)
        order = (await hosts[0].until(lambda run: len(run["voters"]) == 2))["voters"]
        senior, junior = sorted(hosts, key=lambda host: order.index(host.peer))
        await senior.kill()
        usual, world.open_network = world.open_network, functools.partial(open_memory_network, preamble=newer)
        await senior.start()
        versions = f"their wire version is {WIRE_VERSION + 1}, this host's {WIRE_VERSION}: upgrade this host"
        status = await junior.until(lambda run: not run["quorum"]["reached"] and bool(told(run)))
        assert told(status) == [f"{some((senior.peer,))} cannot be heard: {versions}"]
        assert "recover" not in status["warnings"][0]
        versions = f"their wire version is {WIRE_VERSION}, this host's {WIRE_VERSION + 1}: upgrade theirs"
        status = await senior.until(lambda run: bool(told(run)))
        assert told(status) == [f"{some((junior.peer,))} cannot be heard: {versions}"]
        await senior.kill()
        world.open_network = usual
        await senior.start()
        await junior.until(lambda run: run["quorum"]["reached"] and not told(run))


async def test_a_joiner_without_a_trainer_is_told_to_start_one(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "a", rounds=9)
        late = await world.host("late", hosts[0])
        assert late.trainer is not None
        await late.trainer.end()
        await late.ask("join", run_id=run_id, peers=[hosts[0].address])
        status = await late.wait("synced")
        assert status["reason"].startswith("synced, no trainer is attached: start your program, as in `INTELLECTD_SOCK")
        late.trainer.serve(world.nursery, late.config.socket)
        await late.until(lambda run: run["inner"] == {"round": run["round"] + 1, "step": 1, "steps": 4})
        status = await late.wait("finished")
        await late.trainer.finished.wait()
        assert status["warnings"] == []


async def test_a_trainer_that_falls_silent_in_its_round_is_told_of(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intellectd.daemon.runs.status.QUIET_S_MAX", 120.0)
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=400)
        await host.wait("round=1")
        assert host.trainer is not None
        host.trainer.round_s = 200.0
        quiet = "the trainer has said nothing for 2 minutes in the midst of its round"
        status = await host.until(lambda run: any(quiet in warning for warning in run["warnings"]))
        host.trainer.round_s = 10.0
        status = await host.until(lambda run: run["round"] >= status["round"] + 2)
        assert not any("said nothing" in warning for warning in status["warnings"])


async def test_without_a_trainer_nothing_is_told_of_what_it_makes_of_the_device(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=400)
        await host.wait("round=2")
        of_trainer = {'intellectd_mfu_ratio{run="shell"}', 'intellectd_grad_norm{run="shell"}'}
        assert of_trainer <= (await samples(host)).keys()
        assert host.trainer is not None
        await host.trainer.end()
        await host.until(lambda run: run["trainer"] == "absent")
        told = await samples(host)
        assert told['intellectd_trainer_attached{run="shell"}'] == 0 and not of_trainer & told.keys()
        host.trainer.serve(world.nursery, host.config.socket)
        await host.wait("round=4")
        assert of_trainer <= (await samples(host)).keys()


async def test_a_restart_keeps_the_losses_and_the_pace(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=3)
        await host.wait("finished")
        kept = ("loss", "loss_round", "train_loss", "tokens_per_s", "outer_step_s")
        before = {key: (await host.status())[key] for key in kept}
        assert before["loss_round"] == 2 and before["outer_step_s"] > 9  # this trainer goes without the last anchor
        await host.kill()
        host.trainer = None
        await host.start()
        assert {key: (await host.status())[key] for key in kept} == before
        told = await samples(host)
        assert told['intellectd_heldout_loss{run="shell"}'] == before["loss"]
        # Else a disk that takes no state any more would be told of by nothing after a restart.
        assert told['intellectd_checkpoint_outer_step{run="shell"}'] == 0
        (newest,) = (host.state / "runs").glob("*/snapshots/*")
        assert told['intellectd_checkpoint_last_success_timestamp_seconds{run="shell"}'] == newest.stat().st_mtime


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"losses": {"a": 1}}', '{"losses": {"1": NaN}}', "[" * 9999])
def test_a_damaged_history_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text(text)
    assert load_history(tmp_path) == History()


def test_a_long_history_is_cut_and_keeps_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_bytes(History({n: float(n) for n in range(9999)}).encoded())
    rounds = list(load_history(tmp_path).losses)
    assert (rounds[0], rounds[-1], len(rounds)) == (0, 9998, LOSSES_MAX + 1)


async def test_warnings_end_when_their_time_is_over(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=3)
        world.service(host).journal.warn("a thing of the past")
        assert "a thing of the past" in (await host.status())["warnings"]
        await trio.sleep(WARNING_S + 1)
        assert "a thing of the past" not in (await host.status())["warnings"]


async def test_a_round_that_is_being_applied_is_training(autojump_clock: Clock) -> None:
    """Some seconds after each round of a large model, in which nothing ails: `status` answers 0."""
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=3)
        service, seen = world.service(host), {}
        while service.node.state != "finished":
            seen[state_of(service, None), why(service, None)] = True
            await service.changed.wait()
        assert ("training", "round 2 is being applied") in seen and ("waiting", "catching up") not in seen


async def test_a_ring_that_broke_is_no_warning_after_the_next_round(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=3)
        journal = world.service(host).journal
        journal.note(Note("transfer_aborted", "the transfer broke", "warning"))
        journal.note(Note("delta_refused", "this needs a person", "warning"))
        assert journal.warnings() == ["the transfer broke", "this needs a person"]
        await host.wait("round=2")
        assert (await host.status())["warnings"] == ["this needs a person"]


async def test_a_ring_that_breaks_is_one_line_in_the_log_of_each_host(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Though each of its three members tells the others that it broke, and each engine its own daemon."""
    async with shell() as world:
        _, hosts = await swarm(world, "abc", rounds=6)
        await hosts[0].wait("round=2")
        world.bulk.stall(hosts[2].peer)
        await hosts[0].until(lambda run: any("broke" in text for text in run["warnings"]))
        world.bulk.stall(hosts[2].peer, False)
        await finish_alike(hosts, 6)
        loud = [r.getMessage() for r in caplog.records if r.levelname != "DEBUG" and "broke" in r.getMessage()]
        first = [line for line in loud if "the transfer of attempt 0 in round 3 broke" in line]
        assert 2 <= len(first) <= 3 and all("the transfer of attempt" in line for line in loud), loud


async def test_the_metrics_of_a_catch_up(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=12)
        await hosts[0].wait("round=6")
        training = await samples(hosts[0])
        late = await world.host("late", hosts[0])
        await late.ask("join", run_id=run_id, peers=[hosts[0].address])
        await late.wait("synced")
        await finish_alike([*hosts, late], 12)
        seen = await samples(late)
        told = [await samples(host) for host in hosts]
        inwards = seen['intellectd_checkpoint_bytes_total{direction="in",run="shell"}']
        outwards = sum(one.get('intellectd_checkpoint_bytes_total{direction="out",run="shell"}', 0.0) for one in told)
        assert inwards > 0 and outwards >= inwards
        assert seen['intellectd_catchup_progress_ratio{run="shell"}'] == 1.0
        assert seen['intellectd_catchup_duration_seconds{run="shell"}'] > 0
        assert seen['intellectd_outer_step{run="shell"}'] == seen['intellectd_head_outer_step{run="shell"}'] == 12
        assert seen['intellectd_dht_requests_total{op="find",outcome="ok"}'] > 0
        assert seen['intellectd_dht_requests_total{op="provide",outcome="ok"}'] > 0
        assert seen['intellectd_peers{run="shell",state="alive"}'] == 2
        assert seen[f'intellectd_run_info{{model="external",peer_id="{late.peer}",run="shell"}}'] == 1
        assert seen['intellectd_peers{run="shell",state="suspect"}'] == 0
        assert seen["intellectd_dht_routing_table_peers"] == 2
        assert seen['intellectd_network_bytes_total{direction="in",protocol="control"}'] > 0
        assert seen['intellectd_allreduce_failures_total{reason="silent",run="shell"}'] == 0
        exported = [sample.partition("{")[0] for one in (training, seen, *told) for sample in one]
        lacking = {name for name in dashboard_metrics() if name not in exported}
        assert lacking == {  # the hosts here share a process: no link is measured, and none is planned by or apart
            "intellectd_allreduce_planned_seconds",
            "intellectd_anchor_spread",
            "intellectd_link_bytes_per_second",
            "intellectd_link_round_trip_seconds",
        }
        first = told[0]
        assert first['intellectd_catchup_progress_ratio{run="shell"}'] == 1.0  # it had nothing to catch up with
        assert first['intellectd_tokens_total{run="shell"}'] == 12_000
        await hosts[0].ask("leave", run_id=run_id)
        left = await samples(hosts[0])
        assert not [name for name in left if name.startswith(("intellectd_peers", "intellectd_run_info"))]
        await trio.sleep(60)  # its seat is the last record's, so it stays on the list
        states = {row["peer"]: row["state"] for row in (await late.ask("peers"))["peers"]}
        assert states == {hosts[0].peer: "left", hosts[1].peer: "alive"}
        (late_row,) = [row for row in (await late.ask("peers"))["peers"] if row["peer"] == hosts[1].peer]
        assert (late_row["version"], late_row["round_trip_s"]) == (version("intellectd"), 0.0)
        assert first['intellectd_checkpoint_outer_step{run="shell"}'] == 12
        assert first['intellectd_outer_steps_total{outcome="committed",run="shell"}'] == 12
        assert first['intellectd_allreduce_bytes_total{run="shell",stage="wire"}'] > 0


async def test_a_stuck_driver_is_noticed_and_an_idle_one_is_not(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=2)
        await host.wait("finished")
        service = world.service(host)
        await trio.sleep(300)
        assert service.stuck_s < 10  # nothing happens any more, and that is no reason to bark
        service.driver.handled_at -= 60
        assert service.stuck_s >= 60
