"""`init` and `join`, and every way in which they end half-way: whole or not at all."""

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trio
import trio.testing

from intellectd.daemon.control import ControlError, send_frame
from intellectd.daemon.runs.founding import Founding
from intellectd.daemon.runs.registry import RUNS_MAX
from intellectd.daemon.store import snapshot_writer
from intellectd.kernels.layout import TensorSpec
from intellectd.protocol.manifest import config_from_toml
from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import RUN_TOML, Host, Refused, shell
from tests.daemon.test_shell_swarm import finish_alike, refusal, swarm

Clock = trio.testing.MockClock
Patch = pytest.MonkeyPatch
TOML = RUN_TOML.format(start_peers=1, rounds=4)


def nothing_is_left(host: Host) -> None:
    for name in ("runs", "owner-keys"):
        folder = host.state / name
        assert not folder.exists() or list(folder.iterdir()) == [], list(folder.iterdir())


async def until(happened: Callable[[], bool]) -> None:
    """A condition on what is inside."""
    with trio.fail_after(60):
        while not happened():
            await trio.sleep(0.1)


class Mute(FakeTrainer):
    """Attaches and goes away without a word."""

    async def _attach(self, path: Path) -> None:
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        with sock:
            await sock.connect(str(path))
            tensors = [[t.name, list(t.shape), t.dtype] for t in self.tensors]
            frame = {"op": "attach", "version": 1, "run": "", "tensors": tensors, "training_round": None, "pid": 1}
            await send_frame(sock, frame)
            await trio.sleep(30)
            self.attached += 1


# ---- init


async def test_what_init_makes(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a")
        answer = await host.ask("init", toml=TOML)
        run_id = answer["run_id"]
        assert answer["join_line"] == f"intellectd join {run_id} --peer {host.address}"
        key = Path(answer["owner_key_path"])
        assert key == host.state / "owner-keys" / f"{run_id}.pem" and str(key) in answer["warning"]
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        for folder in (host.state / "runs", host.state / "runs" / run_id, key.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [path.name for path in (host.state / "runs").iterdir()] == [run_id]
        status = await host.status()
        assert host.trainer is not None and host.trainer.frames[0] == {"op": "created", "run": run_id}
        assert any("losing this host loses the run" in warning for warning in status["warnings"])
        await host.wait("finished")


@pytest.mark.parametrize(
    ("toml", "what"),
    [
        ("name = ", "no TOML"),
        ("", "name"),
        ('name = "x"\n[inner]\nstepz = 3', "did you mean 'inner.steps'"),
        ('name = "x"\n[inner]\nsteps = "many"', "inner.steps"),
        ('name = "x"\n[swarm]\nmin_peers = 3', "min_peers"),
        ('name = "x"\n[outer]\ncodec = "int2"', "codec"),
        ("#" * 70_000, "at most 65536"),
    ],
)
async def test_a_run_toml_that_cannot_be(toml: str, what: str, autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a")
        error = await refusal(host, "init", toml=toml)
        assert error.code == "bad_config" and what in f"{error.message}; {error.hint}"
        nothing_is_left(host)


async def test_no_program_attaches(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a", trainer=Mute("mute"))
        host.patience_s = 2000.0
        with pytest.raises(Refused) as raised:
            await host.ask("init", toml=TOML)
        assert raised.value.code == "no_first_parameters"
        assert "within 900 s" in raised.value.message
        assert f"INTELLECTD_SOCKET={host.config.socket} python your_program.py" in raised.value.hint
        assert host.trainer is not None and host.trainer.attached > 2  # it came and went, and was taken each time
        nothing_is_left(host)
        # The next one works.
        await host.trainer.end()
        FakeTrainer("good").serve(world.nursery, host.config.socket)
        await host.ask("init", toml=TOML)
        await host.wait("finished")


async def test_a_model_that_the_built_in_trainer_does_not_know(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a")
        await host.end()
        host.trainer_setting, host.trainer = "builtin", None
        await host.start()
        error = await refusal(host, "init", toml=TOML)
        assert error.code == "no_builtin_model" and "trainer = 'external'" in error.hint
        nothing_is_left(host)


async def test_first_parameters_that_are_no_numbers(autojump_clock: Clock, monkeypatch: Patch) -> None:
    real = torch.linspace

    def with_nan(*arguments: Any, **named: Any) -> torch.Tensor:
        made = real(*arguments, **named)
        made[17] = float("nan")
        return made

    async with shell() as world:
        host = await world.host("a")
        monkeypatch.setattr(torch, "linspace", with_nan)
        error = await refusal(host, "init", toml=TOML)
        assert error.code == "not_finite" and "tensor 'embed'" in error.message
        nothing_is_left(host)
        assert host.trainer is not None and host.trainer.frames[0]["op"] == "not_created"
        assert error.message in host.trainer.frames[0]["error"]["message"]


async def test_more_tensors_than_a_manifest_can_tell(autojump_clock: Clock) -> None:
    """A manifest travels in one message: what does not fit could never be joined."""
    many = tuple(TensorSpec(f"{'layers.of.a.model.' * 5}{number:05d}", (1,)) for number in range(5600))
    async with shell() as world:
        host = await world.host("a", trainer=FakeTrainer("many", tensors=many))
        error = await refusal(host, "init", toml=TOML)
        assert error.code == "too_many_tensors" and "5600 tensors" in error.message and "stack" in error.hint
        nothing_is_left(host)


@pytest.mark.parametrize("place", ["key", "log", "manifest", "snapshot", "rename", "name"])
async def test_a_disk_that_fills_up_leaves_nothing_behind(
    place: str, autojump_clock: Clock, monkeypatch: Patch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with shell() as world:
        host = await world.host("a")
        real_open, real_replace = os.open, os.replace
        names = {"key": "owner-keys/.", "log": "/log/.records", "manifest": "/.manifest"}
        runs = host.state / "runs"

        def fails_to_open(path: Any, *arguments: Any, **named: Any) -> int:
            if place in names and names[place] in str(path):
                full()
            if place == "name" and path == runs and any(found.name.startswith("rn1") for found in runs.iterdir()):
                full()  # it has its name, which is to be made durable
            return real_open(path, *arguments, **named)

        def fails_to_rename(source: Any, target: Any) -> None:
            if place == "rename" and Path(source).name.startswith(".creating") and Path(source).is_dir():
                full()
            real_replace(source, target)

        monkeypatch.setattr(os, "open", fails_to_open)
        monkeypatch.setattr(os, "replace", fails_to_rename)
        if place == "snapshot":
            monkeypatch.setattr(snapshot_writer, "_write_whole", full)
        error = await refusal(host, "init", toml=TOML)
        assert "No space left on device" in error.message and "free some space" in error.hint
        nothing_is_left(host)
        monkeypatch.undo()
        await host.ask("init", toml=TOML)  # and the daemon is none the worse
        await host.wait("finished")


async def test_two_inits_at_once(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a", trainer=FakeTrainer("late"))
        outcomes: list[str] = []

        async def init() -> None:
            try:
                outcomes.append("made " + (await host.ask("init", toml=TOML))["run_id"][:3])
            except Refused as error:
                outcomes.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(init)
            nursery.start_soon(init)
        assert sorted(outcomes) == ["busy", "made rn1"]
        assert len(list((host.state / "runs").iterdir())) == 1


async def test_an_init_that_nobody_waits_for_any_more_makes_nothing(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a", trainer=Mute("mute"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: host.ask("init", toml=TOML))
            registry = host.registry
            assert registry is not None
            await until(lambda: registry.founding is not None and registry.founding._link.attached)
            founding = (await host.ask("status"))["founding"]
            assert (founding["name"], founding["trainer"], founding["delivered"]) == ("shell", "external", False)
            nursery.cancel_scope.cancel()
        await until(lambda: registry.founding is None)
        nothing_is_left(host)


async def test_a_run_more_than_a_host_can_announce_is_refused_and_harms_no_other(autojump_clock: Clock) -> None:
    """The directory takes so many keys of one host. The runs of a host come from elsewhere, too: a copied folder."""
    async with shell() as world:
        host = await world.host("a", trainer=Mute("mute", run="nothing"))

        async def init(name: str) -> str:
            trainer = FakeTrainer(name, run=name)
            trainer.serve(world.nursery, host.config.socket)
            try:
                return await host.init(toml=f'name = "{name}"\n[model]\nkind = "external"')
            finally:
                await trainer.end()

        runs = [await init(f"run{number}") for number in range(RUNS_MAX)]
        await trio.sleep(1)  # each has looked for its peers
        with pytest.raises(Refused, match=f"too_many_runs: this host is in {RUNS_MAX} runs already"):
            await init("one-too-many")
        shutil.copytree(host.state / "runs" / runs[0], world.folder / "copy")
        await host.ask("leave", run_id=runs[0])
        await init("in-its-place")
        await host.end()
        (world.folder / "copy").rename(host.state / "runs" / runs[0])
        await host.start()
        await trio.sleep(100)
        assert host.failure is None and len((await host.ask("runs"))["runs"]) == RUNS_MAX + 1


async def test_a_trainer_without_a_name_is_not_guessed_about(autojump_clock: Clock) -> None:
    """A run waits for its trainer while another one is created: an unnamed program could be either's."""
    async with shell() as world:
        host = await world.host("a", trainer=FakeTrainer("first", run="shell"))
        await host.ask("init", toml=RUN_TOML.format(start_peers=1, rounds=400))
        await host.wait("round=1")
        assert host.trainer is not None
        await host.trainer.end()
        unnamed, named = FakeTrainer("unnamed"), FakeTrainer("named", run="other")
        made: list[str] = []

        async def init() -> None:
            made.append((await host.ask("init", toml='name = "other"\n[model]\nkind = "external"'))["run_id"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(init)
            registry = host.registry
            assert registry is not None
            await until(lambda: registry.founding is not None)
            unnamed.serve(world.nursery, host.config.socket)
            await until(lambda: bool(unnamed.refused))
            assert made == []
            assert "ambiguous_run" in [error["code"] for error in unnamed.refused]
            named.serve(world.nursery, host.config.socket)
        await host.wait("round=2", made[0])


def trainer_command(tmp_path: Path, code: str) -> tuple[str, ...]:
    script = tmp_path / "trainer.py"
    script.write_text(code)
    return (sys.executable, "-S", "-E", str(script))


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("print('oh no\\n  do this'); raise SystemExit(3)", "parameters: exit status 3: oh no; do this"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("", "it ended without"),
    ],
    ids=["fails", "is-killed", "ends"],
)
async def test_a_trainer_that_cannot_start_is_given_up_soon(code: str, what: str, tmp_path: Path) -> None:
    """A real process, so the real clock: the operator hears of it in a moment and not in a quarter of an hour."""
    config = config_from_toml({"name": "x", "model": {"kind": "external"}})

    class Identity:
        peer_id = "12D3KooW"

    class Config:
        trainer = trainer_command(tmp_path, code)
        socket, trainer_threads, data = tmp_path / "socket", 0, {}

    class OnlyWhatIsNeeded:
        identity, config = Identity, Config

    with trio.fail_after(20), pytest.raises(ControlError) as raised:
        await Founding(OnlyWhatIsNeeded(), config).found()  # type: ignore[arg-type]
    assert raised.value.code == "no_first_parameters" and what in raised.value.message


# ---- join


async def test_joining_is_idempotent_and_outlives_a_restart(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "a", rounds=7)
        late = await world.host("late", hosts[0])
        services = []

        async def join() -> None:
            await late.ask("join", run_id=run_id, peers=[hosts[0].address])
            services.append(late.services[run_id])

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(join)
        await join()
        assert len(services) == 4 and all(service is services[0] for service in services)
        await late.wait("round=3")
        await late.end()
        late.bootstrap = []
        await late.start()
        await finish_alike([*hosts, late], 7)


async def test_a_join_cut_short_leaves_nothing_and_can_be_repeated(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "a", rounds=30)
        late = await world.host("late")
        world.net.delay(late.peer, hosts[0].peer, 2.0)
        with trio.move_on_after(5) as impatient:
            await late.ask("join", run_id=run_id, peers=[hosts[0].address])
        assert impatient.cancelled_caught
        await until(lambda: list((late.state / "runs").iterdir()) == [])
        await late.ask("join", run_id=run_id, peers=[hosts[0].address])
        await late.wait("synced")


async def test_a_full_disk_while_joining_leaves_nothing(autojump_clock: Clock, monkeypatch: Patch) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "a", rounds=30)
        late = await world.host("late", hosts[0])
        real = os.open

        def fails(path: Any, *arguments: Any, **named: Any) -> int:
            if ".joining-" in str(path) and "/.manifest" in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, *arguments, **named)

        monkeypatch.setattr(os, "open", fails)
        error = await refusal(late, "join", run_id=run_id, peers=[hosts[0].address])
        assert "No space left on device" in error.message
        assert list((late.state / "runs").iterdir()) == []
        monkeypatch.undo()
        await late.ask("join", run_id=run_id, peers=[hosts[0].address])


async def test_two_runs_on_the_same_hosts_and_one_is_left(autojump_clock: Clock) -> None:
    async with shell() as world:
        one = await world.host("a", trainer=FakeTrainer("a1", run="shell"))
        two = await world.host("b", one, trainer=FakeTrainer("b1", run="shell"))
        for host in (one, two):
            FakeTrainer(host.name + "2", run="other").serve(world.nursery, host.config.socket)
        first = await one.init(2, 400)
        other = await one.init(toml='name = "other"\n[model]\nkind = "external"\n[swarm]\nstart_peers = 2\n')
        for run_id in (first, other):
            await two.ask("join", run_id=run_id, peers=[one.address])
            await two.wait("round=2", run_id)
        engine = world.bulk.engines[one.peer]
        assert list(engine._trusted) == [two.peer]
        await one.ask("leave", run_id=first)
        assert list(engine._trusted) == [two.peer]  # the other run still needs it
        seen = (await two.wait("round=3", other))["round"]
        await two.wait(f"round={seen + 2}", other)
        await one.ask("leave", run_id=other)
        assert list(engine._trusted) == []
        text = (await one.ask("metrics"))["text"]
        assert "intellectd_run_info{" not in text
