"""Whole daemons that lose their quorum: one run forks and heals, another waits for its owner. SPEC G*."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from intellectd.daemon.identity import OwnerKey
from intellectd.daemon.store.run_store import RunStore
from intellectd.protocol.branch import branch_bytes
from intellectd.protocol.records import decode_entry
from intellectd.protocol.run_id import run_key
from tests.daemon.shell_world import RUN_TOML, Host, Shell, shell
from tests.daemon.test_shell_swarm import finish_alike, refusal

Clock = trio.testing.MockClock


async def swarm(world: Shell, names: str, rounds: int, toml: str) -> tuple[str, list[Host]]:
    first = await world.host(names[0])
    text = toml.format(start_peers=len(names), rounds=rounds)
    run_id = await first.init(toml=text)
    hosts = [first, *[await world.host(name, first) for name in names[1:]]]
    for host in hosts[1:]:
        await host.ask("join", run_id=run_id, peers=[first.address])
    return run_id, hosts


def cut(world: Shell, one: list[Host], other: list[Host], heal: bool = False) -> None:
    for a in one:
        for b in other:
            (world.net.heal if heal else world.net.cut)(a.peer, b.peer)
            world.bulk.stall(b.peer, False)


FORKS = RUN_TOML.replace("[timers]", 'on_quorum_loss = "fork"\n[timers]\nfork_s = 20.0\nsuspect_s = 12.0')


async def test_a_minority_forks_and_comes_home_with_its_records_kept(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC G3, G6-G9, over real stores: restarted in the branch, too."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "abcd", 16, FORKS)
        major, minor = hosts[:2], hosts[2:]
        await hosts[3].wait("round=3")
        cut(world, major, minor)
        await minor[0].until(lambda run: any("After 20 s without them" in text for text in run["warnings"]))
        status = await minor[0].until(lambda run: run["branches"] == 1 and run["round"] >= 8)
        assert sorted(status["voters"]) == sorted(host.peer for host in minor)
        await minor[0].kill()
        await minor[0].start()
        assert (await minor[0].status())["branches"] == 1
        cut(world, major, minor, heal=True)
        await finish_alike(hosts, 16)
        assert [(await host.status())["branches"] for host in hosts] == [0, 0, 0, 0]
        left = sorted((minor[0].state / "runs" / run_id / "left").iterdir())
        assert left and (left[0] / "records").is_file()
        told = [line for line in caplog.messages if "of its own" in line]
        assert all(any(f", kept in {host.state}" in line for line in told) for host in minor), told
        assert any(line.endswith(f"of its own, kept in {left[0]}") for line in told), told
        await minor[0].kill()
        store = RunStore(minor[0].state / "runs" / run_id)
        assert len(store.votes()) >= 2  # one for each line that it voted on
        store.close()


def signed(founder: Host, run_id: str, draft: dict[str, Any], also: bytes = b"") -> dict[str, Any]:
    """What `intellectd recover` sends; with `also`, over something else."""
    key = OwnerKey.load(Path(founder.state / "owner-keys" / f"{run_id}.pem"))
    message = branch_bytes(run_key(run_id), decode_entry(bytes.fromhex(draft["entry"])).record)
    word = {"owners": [key.peer_id], "signatures": [key.sign(message + also).hex()]}
    return {"run_id": run_id, "entry": draft["entry"], **word}


async def test_the_owner_ends_a_wait(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """SPEC G5: what `intellectd recover` asks and sends; and who was away logs what befell the run."""
    async with shell() as world:
        run_id, (a, b, c) = await swarm(world, "abc", 9, RUN_TOML)
        await c.wait("round=2")
        refused = await refusal(c, "recovery_draft", run_id=run_id)
        assert refused.code == "no_recovery" and "a quorum of the voters is here" in refused.message
        for host in (a, b):
            await host.kill()
        await c.until(lambda run: not run["quorum"]["reached"])
        draft = await c.ask("recovery_draft", run_id=run_id)
        assert draft["voters"] == [c.peer] and sorted(draft["lost"]) == sorted([a.peer, b.peer])
        refused = await refusal(c, "recover", **signed(a, run_id, draft, b"!"))
        assert refused.code == "bad_recovery" and "is false" in refused.message
        await c.ask("recover", **signed(a, run_id, draft))
        await c.wait("round=6")
        caplog.clear()
        for host in (a, b):
            await host.start()
        await finish_alike([a, b, c], 9)
        opened = f"generation {(await c.status())['generation'][:8]}, begun with round {draft['round']} by the owner's"
        told = [line for line in caplog.messages if "this host goes on in" in line]
        assert len(told) == 2 and all(opened in line and "leaves nothing of its own" in line for line in told), told


async def test_several_owners_end_a_wait(autojump_clock: Clock, tmp_path: Path) -> None:
    """SPEC G5: two of three; the founder's key signs the manifest, and recovers nothing."""
    owners = [OwnerKey.create(tmp_path / name) for name in ("1", "2", "3")]
    listed = ", ".join(f'"{owner.peer_id}"' for owner in owners)
    async with shell() as world:
        a = await world.host("a")
        b, c = await world.host("b", a), await world.host("c", a)
        toml = RUN_TOML.format(start_peers=3, rounds=6) + f"[recovery]\nkeys = [{listed}]\nneeded = 2\n"
        founded = await a.ask("init", toml=toml)
        run_id = founded["run_id"]
        assert "2 of the 3 keys that it lists recover the run" in founded["warning"]
        assert founded["owner_key_path"] not in founded["warning"]
        for host in (b, c):
            await host.ask("join", run_id=run_id, peers=[a.address])
        await a.wait("round=2")
        for host in (b, c):
            await host.kill()
        await a.until(lambda run: not run["quorum"]["reached"])
        draft = await a.ask("recovery_draft", run_id=run_id)
        assert draft["key_path"] is None and draft["needed"] == 2
        assert draft["owners"] == [owner.peer_id for owner in owners]
        message = branch_bytes(run_key(run_id), decode_entry(bytes.fromhex(draft["entry"])).record)
        words = {owner.peer_id: owner.sign(message).hex() for owner in sorted(owners, key=lambda o: o.peer_id)}
        one, two = (
            {"run_id": run_id, "entry": draft["entry"], "owners": names, "signatures": [words[name] for name in names]}
            for names in (list(words)[:1], list(words)[:2])
        )
        assert "needs the signatures of 2 owners" in (await refusal(a, "recover", **one)).message
        await a.ask("recover", **two)
        await a.wait("finished")


async def test_voters_that_lost_their_disks_vote_again_by_the_owners_word(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC G5, G9: two of three have their keys alone, and the run asks for two."""
    async with shell() as world:
        toml = RUN_TOML.replace("[swarm]", "[swarm]\nmin_peers = 2")
        run_id, (a, b, c) = await swarm(world, "abc", 9, toml)
        await c.wait("round=2")
        for host in (a, b):
            await host.kill()
            shutil.rmtree(host.state / "runs")
        for host in (a, b):
            await host.start()
            await host.ask("join", run_id=run_id, peers=[c.address])
        for host in (a, b):
            await host.until(lambda run: any("forgot what it voted" in text for text in run["warnings"]))
        draft = await c.ask("recovery_draft", run_id=run_id)
        assert sorted(draft["voters"]) == sorted(host.peer for host in (a, b, c))
        assert sorted(draft["forgot"]) == sorted([a.peer, b.peer])
        await c.ask("recover", **signed(a, run_id, draft))
        await finish_alike([a, b, c], 9)
        told = [line for line in caplog.messages if "begun with round" in line]
        assert len(told) == 3, told  # one line a host: who announced it, and who heard


async def test_the_owner_gives_up_a_round_whose_update_is_lost(autojump_clock: Clock) -> None:
    """SPEC G5: the two others lost their disks; the newest update is gone from the third."""
    async with shell() as world:
        run_id, (a, b, c) = await swarm(world, "abc", 12, RUN_TOML)
        await c.wait("round=3")
        for host in (a, b, c):
            await host.kill()
        newest = max((c.state / "runs" / run_id / "updates").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        newest.unlink()
        for host in (a, b):
            shutil.rmtree(host.state / "runs")
        for host in (c, a, b):
            await host.start()
        for host in (a, b):
            await host.ask("join", run_id=run_id, peers=[c.address])
        for host in (a, b):
            await host.until(lambda run: any("forgot what it voted" in text for text in run["warnings"]))
        for host in (a, b, c):
            await host.until(lambda run: run["round"] == run["head_round"] - 1)
            await host.until(lambda run: any("nobody here has the update" in text for text in run["warnings"]))
        draft = await c.ask("recovery_draft", run_id=run_id)
        assert draft["given_up"] == [draft["round"]]
        assert sorted(draft["voters"]) == sorted(host.peer for host in (a, b, c))
        await c.ask("recover", **signed(a, run_id, draft))
        await finish_alike([a, b, c], 12)
