"""Whether a peer speaks this host's wire version: compared on every stream, of ours and of the peer's.

Owns what is said of one that does not: once for each peer and version, with what to do, however often the two meet, as
they go on trying until one is upgraded. Refuses to hang up.
"""

import logging
from collections.abc import Callable

from intellectd.daemon.net import WireVersionMismatch
from intellectd.daemon.p2p.limits import PEERS_KNOWN_MAX
from intellectd.daemon.p2p.wire import Preamble

log = logging.getLogger("intellectd.p2p")


class Versions:
    def __init__(self, ours: Preamble) -> None:
        self.ours = ours
        self._told: dict[str, int] = {}  # the version that was told of, by peer; who was told of last stands last
        self.on_mismatch: list[Callable[[], None]] = []

    def refused(self, peer: str) -> str:
        """Why the peer was refused when the two met last, and what to do; empty if it was not."""
        wire, ours = self._told.get(peer), self.ours.wire
        if wire is None:
            return ""
        return f"their wire version is {wire}, this host's {ours}: upgrade {'theirs' if wire < ours else 'this host'}"

    def compare(self, peer: str, theirs: Preamble) -> WireVersionMismatch | None:
        """None if the two understand each other."""
        ours = self.ours
        if theirs.wire == ours.wire:
            self._told.pop(peer, None)
            return None
        older = peer if theirs.wire < ours.wire else "this host"
        text = (
            f"{peer} ({theirs.software}) speaks wire version {theirs.wire}, this host ({ours.software}) speaks "
            f"{ours.wire}: upgrade {older}"
        )
        if self._told.pop(peer, None) != theirs.wire:
            log.warning("refused %s", text)
        self._told[peer] = theirs.wire
        if len(self._told) > PEERS_KNOWN_MAX:
            del self._told[next(iter(self._told))]
        for handler in self.on_mismatch:
            handler()
        return WireVersionMismatch(text)
