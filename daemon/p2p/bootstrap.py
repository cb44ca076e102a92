"""Getting to know the first peer, and meeting the others again.

Owns when bootstrap addresses are tried: at once in parallel, again with jitter until somebody answers, and
then once a minute for those that never did. Who answers and hangs up is met ever more seldom. Refuses to know how one
dials.
"""

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from intellectd.daemon.net import NetworkError
from intellectd.daemon.p2p.addresses import Address, parse_dialable
from intellectd.daemon.p2p.limits import (
    BOOTSTRAP_ADDRESSES_MAX,
    BOOTSTRAP_AGAIN_SECONDS,
    BOOTSTRAP_SECONDS_MAX,
    BOOTSTRAP_SECONDS_MIN,
)

log = logging.getLogger("intellectd.p2p")


class Bootstrapper:
    """`meet` connects to one address and returns when the peer there is part of the directory."""

    def __init__(
        self,
        own_peer: str,
        meet: Callable[[Address], Awaitable[None]],
        connected: Callable[[], list[str]],
        nursery: trio.Nursery,
    ) -> None:
        self._own_peer = own_peer
        self._meet = meet
        self._connected = connected
        self._nursery = nursery
        self._addresses: dict[str, Address] = {}
        self._trying: dict[str, Address] = {}
        self._silent: dict[str, None] = {}  # addresses of which it was said that they do not answer
        self._news, self._more = trio.Event(), trio.Event()

    def add(self, addresses: list[str]) -> None:
        """Raises BadAddress before anything is changed."""
        for address in [parse_dialable(text) for text in addresses]:
            # A list shared by all hosts of a run holds our own address too.
            if address.peer != self._own_peer and len(self._addresses) < BOOTSTRAP_ADDRESSES_MAX:
                self._addresses[str(address)] = address
        self._more.set()
        self.hurry()

    def hurry(self) -> None:
        """New addresses, or the last connection is gone: do not wait for the next attempt."""
        self._news.set()

    async def run(self) -> None:
        attempt = losses = 0
        while True:
            self._news, self._more = trio.Event(), trio.Event()
            self._try_all()
            if self._connected():
                attempt, pause_s = 0, BOOTSTRAP_AGAIN_SECONDS
            else:
                pause_s = min(BOOTSTRAP_SECONDS_MAX, BOOTSTRAP_SECONDS_MIN * 2 ** min(attempt, 16))
                attempt += 1
            # Jitter: hosts that were started by one script do not come back in step.
            with trio.move_on_after(pause_s * random.uniform(0.5, 1.0)) as pause:
                await self._news.wait()
            losses = 0 if pause.cancelled_caught else losses + 1
            if losses > 1:  # one after the other: full, say, or it wants none of us
                pause_s = min(BOOTSTRAP_SECONDS_MAX, BOOTSTRAP_SECONDS_MIN * 2 ** min(losses - 2, 16))
                with trio.move_on_after(pause_s * random.uniform(0.5, 1.0)):
                    await self._more.wait()

    def _try_all(self) -> None:
        """Each in its own task, and nobody waits for them: a dead address delays no other."""
        connected = self._connected()
        for text, address in self._addresses.items():
            if address.peer not in connected and text not in self._trying:
                self._trying[text] = address
                self._nursery.start_soon(self._try, address)

    async def _try(self, address: Address) -> None:
        try:
            await self._meet(address)
            self._silent.pop(str(address), None)
        except NetworkError as error:
            # A peer known from last time may be gone for good: once is enough, in whichever words it fails next.
            level = logging.DEBUG if str(address) in self._silent else logging.INFO
            log.log(level, "bootstrap address %s: %s", address, error)
            self._silent[str(address)] = None
        except Exception:  # of libp2p's insides; the next attempt may go better
            log.exception("bootstrap address %s failed", address)
        finally:
            del self._trying[str(address)]
