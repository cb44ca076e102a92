"""A host's state directory after ten rounds, made once by the real daemon and copied for each test that damages it."""

import atexit
import functools
import shutil
from pathlib import Path

import trio
import trio.testing

from tests.daemon.ram import ram_folder
from tests.daemon.shell_world import shell

ROUNDS = 10


def copy_run(target: Path) -> None:
    shutil.copytree(_made(), target)


@functools.cache
def _made() -> Path:
    context = ram_folder()
    state = context.__enter__() / "state"
    atexit.register(context.__exit__, None, None, None)

    async def make() -> None:
        async with shell() as world:
            host = await world.host("a")
            await host.init(1, ROUNDS)
            await host.wait("finished")
            await host.end()
            shutil.copytree(host.state, state)

    trio.run(make, clock=trio.testing.MockClock(autojump_threshold=0))
    return state
