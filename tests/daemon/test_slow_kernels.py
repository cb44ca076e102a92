"""Where the C kernels cannot be used the daemon works with torch's, and says so wherever an operator may look."""

import pytest
import trio.testing

from intellectd.daemon.cli.views import status_lines
from intellectd.daemon.doctor import software
from intellectd.kernels import ops, reference
from intellectd.kernels.choice import Choice
from tests.daemon.shell_world import shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

WHY = "the C kernels were not built; reinstall intellectd on a host with a C compiler"


async def test_status_doctor_and_a_metric_tell(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ops, "_choice", Choice("torch", WHY, reference))
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=2)
        await finish_alike([host], 2)
        answer = await host.ask("status")
        metrics = (await host.ask("metrics"))["text"]
    assert answer["kernels"] == {"implementation": "torch", "instructions": "", "reason": WHY}
    assert f"kernels   torch ({WHY})" in status_lines(answer)
    assert "\nintellectd_kernels_slow 1.0\n" in metrics and 'kernels="torch"' in metrics
    found = software.kernels({}, answer)
    assert found.level == "warn" and found.text.partition(": ")[2] + "; " + found.todo == WHY
    assert "slow kernels in use" in caplog.messages


async def test_fast_kernels_are_named(autojump_clock: trio.testing.MockClock) -> None:
    async with shell() as world:
        host = await world.host("a")
        answer, metrics = await host.ask("status"), (await host.ask("metrics"))["text"]
    slow = ops.implementation() != "native"
    assert f"\nintellectd_kernels_slow {float(slow)}\n" in metrics
    assert answer["kernels"]["implementation"] == ops.implementation()
    assert software.kernels({}, answer).level == ("warn" if slow else "ok")
