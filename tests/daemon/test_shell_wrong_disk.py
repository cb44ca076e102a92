"""A disk that gives back other bytes than it was given, under a state that is being fetched, or that is served."""

import pytest
import trio.testing

from intellectd.daemon.runs import state_fetch
from intellectd.daemon.runs.state_fetch import CHECKS_MAX, StateFetch
from intellectd.daemon.store.incoming import Incoming, InMemory
from tests.daemon.shell_world import shell
from tests.daemon.test_shell_donors import joined_late
from tests.daemon.test_shell_swarm import finish_alike, swarm

Clock = trio.testing.MockClock


def spoils(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """So often a byte of what was fetched and proven has changed when it is looked at once more."""
    honest, left = StateFetch._still_right, [times]

    def check(self: StateFetch, incoming: Incoming | InMemory, hashes: tuple[bytes, ...]) -> bool:
        if left[0]:
            left[0] -= 1
            incoming.data[5] ^= 1
        return honest(self, incoming, hashes)

    monkeypatch.setattr(state_fetch.StateFetch, "_still_right", check)
    return left


@pytest.mark.parametrize("times", [1, CHECKS_MAX])
async def test_a_piece_that_was_damaged_on_this_hosts_disk_is_fetched_again(
    times: int, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC K11. Again and again it is the disk: that is said, and another try is made later."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=12)
        await hosts[0].wait("round=6")
        left = spoils(monkeypatch, times)
        late = await joined_late(world, hosts, run_id)
        await late.wait("synced")
        told = [text for text in caplog.messages if "the disk gives back other bytes than it was given" in text]
        assert left == [0] and bool(told) == (times == CHECKS_MAX)
        await finish_alike([*hosts, late], 12)


async def test_a_state_that_was_damaged_on_a_donors_disk_comes_from_another(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=16)
        await hosts[0].wait("round=10")
        for path in (hosts[0].state / "runs" / run_id / "snapshots").iterdir():
            body = bytearray(path.read_bytes())
            body[-100] ^= 1
            path.write_bytes(body)
        late = await joined_late(world, hosts, run_id)
        await late.wait("synced")
        await finish_alike([*hosts, late], 16)
