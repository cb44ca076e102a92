"""The record that this host's history must contain, if its operator named one. SPEC K14.

Owns where it stands, and who has shown a whole history without it. Refuses to know how a line is read and left.
"""

from collections.abc import Mapping

from intellectd.protocol import limits
from intellectd.protocol.head import Head
from intellectd.protocol.messages import Beacon
from intellectd.protocol.moments import LONG_AGO
from intellectd.protocol.trail import Trail

READING = ("joining", "catching-up")  # states of peers that stand at old points of a line: of which tells nobody


class Pin:
    def __init__(self, wanted: bytes | None) -> None:
        """`wanted`: hash of a record, or of the manifest; None: any history will do."""
        self.wanted = wanted
        self._round: int | None = None
        self._refused: dict[str, float] = {}  # until when
        self._times = 0  # lines that were left
        self._leaves_at = LONG_AGO  # the next one not before then: each is read from its beginning
        self.told = False

    @property
    def found(self) -> bool:
        return self.wanted is None or self._round is not None

    def parts_before(self, round_: int) -> bool:
        """Would a line that leaves ours after this round lack the record?"""
        return self._round is not None and round_ < self._round

    def add(self, head: Head) -> None:
        if head.hash == self.wanted:
            self._round, self.told = head.round, False

    def cut(self, round_: int) -> None:
        if self._round is not None and self._round > round_:
            self._round = None

    def hears(self, peer: str, now: float) -> bool:
        return self.found or self._refused.get(peer, now) <= now

    def elsewhere(self, trail: Trail, alive: Mapping[str, Beacon], now: float) -> list[str]:
        """Those of the living who are not known to stand on this line, and were not refused lately; not soon after
        another line was left."""
        if now < self._leaves_at:
            return []
        return [
            peer
            for peer, beacon in alive.items()
            if beacon.head_round >= 0 and beacon.state not in READING and self.hears(peer, now)
            if not trail.stands(beacon.head_round, beacon.head)
        ]

    def refuse(self, peers: list[str], now: float) -> float:
        """All of them showed the line that is left. Until when they are not asked."""
        doublings = min(self._times, limits.EXCLUSION_DOUBLINGS_MAX)
        until = self._leaves_at = now + limits.DISTRUST_MIN_S * 2.0**doublings
        self._refused = {**{p: end for p, end in self._refused.items() if end > now}, **dict.fromkeys(peers, until)}
        self._times += 1
        return until
