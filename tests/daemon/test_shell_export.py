"""What a daemon exports, and where the files go when it may not write where the operator asked."""

from pathlib import Path
from typing import Any

import pytest
import torch
import trio
import trio.testing
from safetensors import safe_open
from safetensors.torch import load_file

from intellectd.daemon.export_files import foothold, is_same
from intellectd.daemon.runs.compute import Compute, Work
from intellectd.protocol.run_id import from_manifest_hash
from tests.daemon.shell_trainer import LAYOUT
from tests.daemon.shell_world import shell
from tests.daemon.test_shell_swarm import refusal, swarm


async def test_an_external_model_is_exported_as_bare_tensors(autojump_clock: trio.testing.MockClock) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=2)
        await host.wait("finished")
        target = world.folder / "out"
        refused = await refusal(host, "export", path=str(target))
        assert "known to the attached program alone" in refused.message and "--format safetensors" in refused.hint
        answer = await host.ask("export", path=str(target), format="safetensors")
        assert (answer["path"], answer["files"], answer["round"]) == (str(target), ["model.safetensors"], 2)

        tensors, theta = load_file(target / "model.safetensors"), world.service(host).state.theta
        assert theta is not None
        for slot in LAYOUT.slots:  # the padding between them stays behind
            assert torch.equal(tensors[slot.name].flatten(), theta[slot.offset : slot.offset + slot.size])
        with safe_open(target / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt", "run": "shell", "round": "2"}

        await host.ask("export", path=str(world.folder / "half"), format="safetensors", dtype="bf16")
        halves = load_file(world.folder / "half" / "model.safetensors")
        assert all(torch.equal(halves[name], tensor.bfloat16()) for name, tensor in tensors.items())
        refused = await refusal(host, "export", path=str(target), format="safetensors", dtype="int2")
        assert refused.code == "usage" and "--dtype fp32 or bf16" in refused.hint

        refused = await refusal(host, "export", path=str(target), format="safetensors")
        assert refused.message == f"{target} is not empty; nothing was written"  # the hint is not in it a second time
        assert refused.hint == "name a directory that does not exist yet"


async def test_a_daemon_that_sees_another_directory_writes_at_home(autojump_clock: trio.testing.MockClock) -> None:
    """As in a service's sandbox, whose /tmp is its own and whose /home is empty."""
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=2)
        await host.wait("finished")
        target = world.folder / "user" / "out"
        for seen in ([str(target.parent), 1, 1], [str(world.folder), 1, 1]):
            answer = await host.ask("export", path=str(target), format="safetensors", seen=seen)
            spool = host.state / "exports" / run_id
            assert answer["path"] == str(spool) and not target.parent.exists()
            assert [path.name for path in spool.iterdir()] == ["model.safetensors"]  # the newer one in place of the old
        await host.ask("export_fetched", run_id="")
        assert not spool.exists()
        answer = await host.ask("export", path=str(target), format="safetensors", seen=list(foothold(target)))
        assert answer["path"] == str(target)


async def test_what_a_crash_left_of_an_export_goes_with_the_next_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody would ever look for it, and it is as large as the model. What an operator put there stays."""
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=2)
        await host.wait("finished")
        exports = host.state / "exports"
        left = from_manifest_hash(bytes(32))
        for name in (run_id, f".{run_id}.k2j3h4", left, "mine", ".mine.a1b2"):
            (exports / name).mkdir(parents=True)
            (exports / name / "model.safetensors").write_bytes(b"weights")
        await host.end()
        await host.start()
        assert sorted(path.name for path in exports.iterdir()) == sorted([run_id, "mine", ".mine.a1b2"])


def test_a_foothold_is_the_deepest_directory_that_exists(tmp_path: Path) -> None:
    status = tmp_path.stat()
    found = foothold(tmp_path / "new" / "deeper")
    assert found == (str(tmp_path), status.st_dev, status.st_ino) and is_same(found)
    assert not is_same((str(tmp_path), status.st_dev, status.st_ino + 1))
    assert not is_same((str(tmp_path / "new"), status.st_dev, status.st_ino))


@pytest.mark.parametrize("slow_s", [0.0, 25.0])
async def test_rounds_go_on_while_it_is_written_and_it_is_one_state(
    slow_s: float, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is slower than rounds: what was written beside them is thrown away, and written in its turn."""
    aside, do, asides, turns = Compute.aside, Compute.do, list[str](), list[str]()

    async def slowly(self: Compute, work: Work) -> Any:
        if "exporting" in getattr(work, "__module__", ""):
            asides.append(work.__qualname__)
            await trio.sleep(slow_s)
        return await aside(self, work)

    async def seen(self: Compute, work: Work) -> Any:
        if "exporting" in getattr(work, "__module__", ""):
            turns.append(work.__name__)
        return await do(self, work)

    monkeypatch.setattr(Compute, "aside", slowly)
    monkeypatch.setattr(Compute, "do", seen)
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=12)
        await host.wait("round=2")
        began = trio.current_time()
        answer = await host.ask("export", path=str(world.folder / "out"), format="safetensors")
        theta = world.service(host).state.theta
        assert theta is not None and answer["round"] == (4 if slow_s else 2)
        assert trio.current_time() - began < slow_s + 1
        tensors = load_file(world.folder / "out" / "model.safetensors")
        for slot in LAYOUT.slots:
            assert torch.equal(tensors[slot.name].flatten(), theta[slot.offset : slot.offset + slot.size])
        assert len(asides) == 1 and turns == (["begin", "work"] if slow_s else ["begin"])
        assert [path.name for path in world.folder.iterdir() if "out" in path.name] == ["out"]
