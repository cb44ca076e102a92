"""When bootstrap addresses are tried, on a clock that jumps."""

import trio
from trio.testing import MockClock

from intellectd.daemon.p2p.addresses import Address
from intellectd.daemon.p2p.bootstrap import Bootstrapper
from intellectd.daemon.p2p.limits import BOOTSTRAP_SECONDS_MAX
from tests.daemon.net_world import dead_address

MET_MAX = 1000  # who meets somebody so often in no time does nothing else


async def test_who_answers_and_hangs_up_is_met_ever_more_seldom(autojump_clock: MockClock) -> None:
    """A node that is full, or that has banned this host: it was dialled again as fast as it hung up."""
    met: list[float] = []
    live: list[str] = []

    async def meet(address: Address) -> None:
        met.append(trio.current_time())
        assert len(met) < MET_MAX
        live.append(address.peer)
        await trio.lowlevel.checkpoint()
        if address.port == 9:
            live.remove(address.peer)
            bootstrapper.hurry()

    async with trio.open_nursery() as nursery:
        bootstrapper = Bootstrapper("own", meet, lambda: live, nursery)
        bootstrapper.add([dead_address(9)])
        nursery.start_soon(bootstrapper.run)
        await trio.sleep(60 * BOOTSTRAP_SECONDS_MAX)
        assert 30 < len(met) < 150
        at = trio.current_time()
        bootstrapper.add([dead_address(11)])
        await trio.sleep(0.001)
        assert met[-1] == at, "a new address is tried at once"
        nursery.cancel_scope.cancel()


async def test_the_last_connection_is_missed_at_once(autojump_clock: MockClock) -> None:
    met: list[float] = []
    live: list[str] = []

    async def meet(address: Address) -> None:
        met.append(trio.current_time())
        live.append(address.peer)

    async with trio.open_nursery() as nursery:
        bootstrapper = Bootstrapper("own", meet, lambda: live, nursery)
        bootstrapper.add([dead_address(9)])
        nursery.start_soon(bootstrapper.run)
        for count in range(2, 5):
            await trio.sleep(300.0)
            live.clear()
            bootstrapper.hurry()
            await trio.sleep(0.001)
            assert len(met) == count
        nursery.cancel_scope.cancel()
