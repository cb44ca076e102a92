"""Which link is looked at while nothing else is sent: one at a time, seldom, each in its turn. SPEC B14.

Owns the moment and the order, which is another for each host, so that no peer is looked at by all. Refuses to know how
a link is measured.
"""

from collections.abc import Mapping, Sequence

from intellectd.protocol import limits
from intellectd.protocol.audience import place
from intellectd.protocol.effects import Out, ProbeLink
from intellectd.protocol.links import Links
from intellectd.protocol.messages import Beacon

CIRCLE = 2.0**64


class Prober:
    def __init__(self, me: str, dialable: bool, now: float) -> None:
        self._me, self._dialable = me, dialable
        self._at = now + limits.PROBE_S * (1.0 + place(me) / CIRCLE)  # hosts that start together begin apart
        self._tried: dict[str, float] = {}

    def look(
        self, roster: Sequence[str], alive: Mapping[str, Beacon], links: Links, idle: bool, now: float
    ) -> list[Out]:
        """Asked with each beacon of this host's own. `idle`: no transfer is under way or about to begin here."""
        if now < self._at or not idle:
            return []
        self._at = now + limits.PROBE_S
        self._tried = {p: at for p, at in self._tried.items() if now - at < limits.LINK_KEPT_S}
        found = [p for p in roster if p != self._me and self._is_due(p, alive.get(p), links, now)]
        if not found:
            return []
        here = place(self._me)
        chosen = min(found, key=lambda p: (place(p) - here) % 2**64)
        self._tried[chosen] = now
        return [ProbeLink(chosen)]

    def _is_due(self, peer: str, beacon: Beacon | None, links: Links, now: float) -> bool:
        """Nothing is known of it, it was not tried lately, and it is there, can be reached and sends nothing."""
        if beacon is None or beacon.transfer is not None or not beacon.certificate or beacon.leaving:
            return False
        reachable = self._dialable or bool(beacon.bulk)
        return reachable and peer not in self._tried and not links.knows(peer, now)
