"""`join --head HASH`: a joiner with an honest history, with another one, and with none that it can use. SPEC K14."""

import shutil
from pathlib import Path

import pytest
import trio.testing

from intellectd.daemon.runs import leaving, registry
from intellectd.daemon.runs.pinning import read_pin, write_pin
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.log_files import LEFT_NAME
from intellectd.protocol.records import record_hash
from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import Host, Refused, Shell, shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

Clock = trio.testing.MockClock
NOWHERE = "ab" * 32


def record_of(world: Shell, host: Host, round_: int) -> str:
    return record_hash(world.service(host).store.entry(round_).record).hex()


async def put_back(host: Host, folder: Path) -> None:
    """The host goes on from another copy of its disk, with a trainer that has other data."""
    await host.end()
    shutil.rmtree(host.state)
    shutil.copytree(folder, host.state)
    host.trainer = FakeTrainer(f"{host.name} again")
    await host.start()


async def kept(host: Host, folder: Path) -> Path:
    await host.end()
    shutil.copytree(host.state, folder)
    await host.start()
    return folder


async def test_a_joiner_waits_for_the_history_with_its_record(autojump_clock: Clock, tmp_path: Path) -> None:
    """The only host is put back to an older disk and shows another history, all of it signed by the run's voter; then
    the right one comes back. The joiner is restarted meanwhile."""
    async with shell() as world:
        run_id, (first,) = await swarm(world, "a", rounds=40)
        await first.wait("round=3")
        old = await kept(first, tmp_path / "old")
        await first.wait("round=8")
        wanted = record_of(world, first, 6)
        right = await kept(first, tmp_path / "right")
        await put_back(first, old)
        await first.wait("round=10")
        assert record_of(world, first, 6) != wanted
        late = await world.host("late", first)
        await late.ask("join", run_id=run_id, peers=[first.address], head=wanted)
        for _life in range(2):
            status = await late.until(
                lambda run: any("to which this host is pinned" in text for text in run["warnings"])
            )
            assert (status["state"], status["state_digest"], status["round"]) == ("joining", None, 0)
            assert f"no history with the record {wanted[:16]}… is shown here" in status["reason"]
            assert not list((late.state / "runs" / run_id / "snapshots").iterdir())
            await late.end()
            await late.start()
        await put_back(first, right)
        status = await late.wait("synced")
        assert status["head_round"] >= 8 and record_of(world, late, 6) == wanted
        assert list((late.state / "runs" / run_id / LEFT_NAME).iterdir())


async def test_a_joiner_with_the_right_history_is_as_quick_as_any(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=10)
        await hosts[0].wait("round=5")
        late = await world.host("late", hosts[0])
        wanted = record_of(world, hosts[0], 2)
        await late.ask("join", run_id=run_id, peers=[hosts[0].address], head=wanted)
        await late.wait("synced")
        await finish_alike([*hosts, late], 10)
        assert read_pin(world.service(late).store.path) == bytes.fromhex(wanted)


async def test_a_pin_for_a_run_that_this_host_is_in(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies here has the record, or it is said; leaving and joining again makes the host begin anew. The folder
    comes back with the pin in it: a crash between the two would have the next start follow any history."""
    pinned: list[bytes | None] = []

    def take_up(aside: Path, target: Path) -> None:
        leaving.take_up(aside, target)
        pinned.append(read_pin(target))

    monkeypatch.setattr(registry, "take_up", take_up)
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=40)
        await hosts[0].wait("round=3")
        given = {"run_id": run_id, "peers": [hosts[0].address]}
        with pytest.raises(Refused) as raised:
            await hosts[1].ask("join", **given, head=NOWHERE)
        assert raised.value.code == "not_in_history" and "records lack" in raised.value.message
        with pytest.raises(Refused, match="not the hash of a record"):
            await hosts[1].ask("join", **given, head="abc")
        await hosts[1].ask("join", **given, head=record_of(world, hosts[1], 1))
        await hosts[1].ask("leave", run_id=run_id)
        await hosts[1].ask("join", **given, head=NOWHERE)
        assert pinned == [bytes.fromhex(NOWHERE)]
        status = await hosts[1].until(lambda run: "is shown here" in run["reason"])
        assert status["state"] == "joining"
        await hosts[0].wait("round=8")
        at = (await hosts[1].status())["round"]
        await hosts[0].wait("round=10")
        assert (await hosts[1].status())["round"] == at, "nothing is applied"


def test_a_pin_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    assert read_pin(tmp_path) is None
    write_pin(tmp_path, bytes.fromhex(NOWHERE))
    assert read_pin(tmp_path) == bytes.fromhex(NOWHERE)
    (tmp_path / "pin").write_text(NOWHERE[:-2])
    with pytest.raises(CorruptFile, match="pin is damaged"):
        read_pin(tmp_path)
