"""A bit that flips in the memory of one host, while too few others are there to say that it is wrong. SPEC A4, K6."""

import pytest
import torch
import trio.testing

from tests.daemon.shell_world import Host, Shell, shell
from tests.daemon.test_shell_swarm import finish_alike, swarm

ROUNDS = 14


def flip(world: Shell, host: Host) -> None:
    """The highest bit of the mantissa of one of the agreed parameters."""
    theta = world.service(host).state.theta
    assert theta is not None
    theta.view(torch.int32)[3] ^= 1 << 22


async def test_two_of_three_that_differ_come_to_one_state_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can tell which of them is wrong, and the third is gone for good."""
    async with shell() as world:
        _, hosts = await swarm(world, "abc", rounds=ROUNDS)
        await hosts[0].wait("round=4")
        flip(world, hosts[1])
        await hosts[2].kill()
        await finish_alike(hosts[:2], ROUNDS)
        assert any(": of 3 voters no quorum agrees, and" in line for line in caplog.messages)
        assert any("this host works its own out anew" in line for line in caplog.messages)


@pytest.mark.parametrize("which", [0, 1])
async def test_of_two_whichever_is_wrong_comes_back(
    which: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The founder, who is the senior one and a quorum by itself, is not right by that."""
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=ROUNDS)
        await hosts[0].wait("round=4")
        flip(world, hosts[which])
        await finish_alike(hosts, ROUNDS)
        assert any("this host works its own out anew" in line for line in caplog.messages)
        assert not any("computes other states" in line for line in caplog.messages)
