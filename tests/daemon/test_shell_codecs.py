"""Whole daemons in runs with each codec: by direct exchanges, with error feedback, through omissions and crashes.

SPEC C6, C7, P10.
"""

import pytest
import torch
import trio.testing

from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name, update_codec
from intellectd.protocol.ids import NO_HASH
from tests.daemon.shell_trainer import LAYOUT
from tests.daemon.shell_world import RUN_TOML, Host, Shell, shell
from tests.daemon.test_shell_swarm import finish_alike, rosters, swarm

Clock = trio.testing.MockClock


def toml_of(codec: str, feedback: bool, start_peers: int, rounds: int) -> str:
    text = RUN_TOML.format(start_peers=start_peers, rounds=rounds)
    return f'{text}[outer]\ncodec = "{codec}"\nerror_feedback = {str(feedback).lower()}\n'


def newest_delta(world: Shell, host: Host) -> bytes:
    """The root of its delta that was decided last."""
    entries = world.service(host).store.entries()
    mine = [c.delta_root for e in entries for c in e.blob.contributions if c.peer == host.peer]
    return mine[-1] if mine else NO_HASH


def lost(world: Shell, host: Host, root: bytes) -> torch.Tensor | None:
    memory = world.service(host).store.residuals.read(root, LAYOUT.elements)
    return None if memory is None else ops.as_bytes(memory).view(torch.float32)


@pytest.mark.parametrize(("codec", "feedback"), [("int4", False), ("e3m0", True), ("topk", True), ("int8", True)])
async def test_daemons_end_alike_whatever_the_codec(codec: str, feedback: bool, autojump_clock: Clock) -> None:
    """And one that comes late, by the updates that they kept."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=7, toml=toml_of(codec, feedback, 3, 7))
        await hosts[1].wait("round=2")
        late = await world.host("late", hosts[1])
        await late.ask("join", run_id=run_id, peers=[hosts[1].address])
        await finish_alike([*hosts, late], 7)
        assert late.peer in (await rosters(hosts[0], run_id))[7]
        records = [entry.record for entry in world.service(hosts[0]).store.entries()]
        size = update_codec(codec_by_name(codec)).encoded_bytes(LAYOUT.elements)
        assert {(r.codec, r.update_bytes) for r in records[1:]} == {(codec, size)}
        assert {r.schedule for r in records[1:]} == {"direct"}
        for host in hosts:
            error = lost(world, host, newest_delta(world, host))
            assert (error is not None) == feedback
            assert error is None or bool(error.any())


async def test_who_is_left_out_keeps_its_error(autojump_clock: Clock) -> None:
    """It carries its delta over, and what the one before lost is added to the next as if nothing had been."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=6, toml=toml_of("topk", True, 3, 6))
        slow = hosts[2]
        assert slow.trainer is not None
        slow.trainer.slow_rounds = {3: 16.0}
        await hosts[0].wait("round=3")
        before = newest_delta(world, slow)
        error = lost(world, slow, before)
        assert error is not None and bool(error.any())
        error = error.clone()
        await slow.wait("round=3")
        again = lost(world, slow, before)
        assert newest_delta(world, slow) == before and again is not None and torch.equal(again, error)
        await finish_alike(hosts, 6)
        assert slow.peer not in (await rosters(hosts[0], run_id))[3]
        assert newest_delta(world, slow) != before and lost(world, slow, newest_delta(world, slow)) is not None


async def test_the_error_is_read_after_a_crash_and_may_be_lost(autojump_clock: Clock) -> None:
    """A daemon that starts again finds it beside its log; one whose file is gone begins with none. Both go on."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=9, toml=toml_of("topk", True, 3, 9))
        found = []
        for back, loses in ((hosts[1], False), (hosts[2], True)):
            await back.wait(f"round={3 if not loses else 6}")
            root = newest_delta(world, back)
            await back.kill()
            folder = back.state / "runs" / run_id / "feedback"
            assert (folder / f"{root.hex()}.f32").exists()
            if loses:
                for file in folder.iterdir():
                    file.unlink()
            await back.start()
            found.append(lost(world, back, root) is not None)
        assert found == [True, False]
        await finish_alike(hosts, 9)
        assert all(lost(world, host, newest_delta(world, host)) is not None for host in hosts)


async def test_with_feedback_the_daemon_encodes_though_a_trainer_could(autojump_clock: Clock) -> None:
    """What encoding loses lies with the daemon; without feedback a trainer may encode in 4 bits, too."""
    for feedback in (False, True):
        async with shell() as world:
            first = await world.host("a")
            assert first.trainer is not None
            first.trainer.encodes = True
            await first.init(1, 3, toml_of("int4", feedback, 1, 3))
            await finish_alike([first], 3)
            assert bool(first.trainer.encoded) != feedback
