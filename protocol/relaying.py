"""Peers that others hear and this host does not, and what is passed on for whom. SPEC W8.

Owns who was heard directly, and the budgets. A member that both can reach carries the signed envelope, one hop, in
both directions. Refuses to know what an envelope says, beyond whose it is.
"""

from collections.abc import Sequence
from typing import TypeVar

from intellectd.protocol import limits
from intellectd.protocol.context import Context
from intellectd.protocol.effects import Out, PeerFault, Through, To
from intellectd.protocol.ids import At
from intellectd.protocol.inbox import receive
from intellectd.protocol.membership import Membership
from intellectd.protocol.messages import AnyMessage, BadEnvelope, BadMessage, Beacon, Plan, Relay, Spread, open_envelope

V = TypeVar("V")
OWN = ""  # the budget of what this host itself sends by way of others


class Relaying:
    def __init__(self, context: Context, members: Membership) -> None:
        self._context, self._members = context, members
        self._direct: dict[str, float] = {}  # when a peer itself delivered something last
        self._news: dict[str, float] = {}  # when another last showed that a peer is alive
        self.life: dict[str, int] = {}  # of each peer, of which a beacon came in ours, not kept by a third (A13)
        self._used: dict[str, tuple[int, int]] = {}  # (second, so many in it), by whom it was done for

    # ---- what is heard

    def on_direct(self, peer: str, now: float, message: AnyMessage | None = None) -> None:
        _refresh(self._direct, peer, now)
        self._news.pop(peer, None)
        self._hear(peer, message)

    def _hear(self, peer: str, message: AnyMessage | None) -> None:
        if isinstance(message, Beacon):
            self._members.news |= self.life.get(peer) != message.incarnation
            _refresh(self.life, peer, message.incarnation)

    def on_news(self, peer: str, now: float) -> None:
        """Another member passed on a newer beacon of this peer, or a message of it."""
        _refresh(self._news, peer, now)

    def unheard(self, peer: str, now: float) -> bool:
        """Alive to others, and not to us, who should hear it: for suspect_s nothing came from it directly."""
        if peer not in self._news or not self._members.expects(peer) or not self._members.has_listened(now):
            return False
        heard_s = now - self._direct.get(peer, float("-inf"))
        return now - self._news[peer] <= limits.RELAY_NEWS_S_MAX and heard_s >= self._context.config.timers.suspect_s

    # ---- what is passed on

    def untangled(self, out: Sequence[Out], now: float) -> list[Out]:
        """What is to go through somebody unheard goes to each directly: a relay carries no spread (W11)."""
        plain: list[Out] = []
        for item in out:
            through = isinstance(item, Through) and self.unheard(item.via, now)
            plain += [To(peer, item.message) for peer in item.to] if isinstance(item, Through) and through else [item]
        return plain

    def around(self, peer: str, data: bytes, now: float) -> list[To]:
        """The same envelope once more, by way of a member that we do hear."""
        if not self._news or len(data) > limits.BLOB_BYTES_MAX or not self.unheard(peer, now):
            return []
        ways = [p for p in self._members.alive_beacons(now) if p != peer and not self.unheard(p, now)]
        if not ways or not self._within_budget(OWN, now):
            return []
        return [To(self._context.rng.choice(ways), Relay(peer, data))]

    def forward(self, sender: str, message: Relay, now: float) -> list[Out]:
        """For `sender`, to a peer that is alive here. What it did not sign itself is its fault."""
        try:
            received = self._open(message, sender)
        except BadMessage as error:
            return [PeerFault(sender, error.kind, f"relay: {error}")]
        there = message.to in self._members.alive_beacons(now) and not self.unheard(message.to, now)
        return [To(message.to, message)] if received and there and self._within_budget(sender, now) else []

    def arrived(self, sender: str, message: Relay, now: float) -> tuple[list[Out], tuple[str, AnyMessage] | None]:
        """(a fault of who carried it, or the author and its message)."""
        try:
            received = self._open(message, open_envelope(message.envelope).sender)
        except BadMessage as error:
            return [PeerFault(sender, error.kind, f"relay: {error}")], None
        if received is None:
            return [], None
        author, inner = received
        # Who kept an old beacon could revive a dead peer with it: only from its own mouth is a clock set back (B1).
        if isinstance(inner, Beacon) and self._members.of_earlier_life(author, inner):
            return [], None
        self.on_news(author, now)
        if self._members.audience.seats(sender):  # a voter passes on what has just come, as any does that keeps to W8
            self._hear(author, inner)
        return [], received

    def spread(self, sender: str, message: Spread, at: At, now: float) -> list[Out]:
        """A voter's plan for the decision `at` that stands here, to the members that it left to this voter."""
        try:
            received = self._open(message, sender)
        except BadMessage as error:
            return [PeerFault(sender, error.kind, f"spread: {error}")]
        if received is None or not isinstance(received[1], Plan):
            return [PeerFault(sender, "sender", "spread: only a plan is passed on to many")]
        seats, peers = self._members.audience.seats, self._members.peers
        if received[1].at != at or not (seats(sender) and seats(self._context.peer)):
            return []  # one of us is at another head
        if not self._within_budget(f"spread {sender}", now, limits.SPREADS_PER_S_MAX):
            return []
        return [To(peer, Relay(peer, message.envelope)) for peer in dict.fromkeys(message.to) if peer in peers]

    # ---- inside

    def _open(self, message: Relay | Spread, author: str) -> tuple[str, AnyMessage] | None:
        received = receive(self._context, author, message.envelope, introduced=False)
        if received is not None and isinstance(received[1], Relay | Spread):
            raise BadEnvelope("a relay in a relay")
        return received

    def _within_budget(self, whose: str, now: float, most: int = limits.RELAYS_PER_S_MAX) -> bool:
        second, count = self._used.get(whose, (0, 0))
        count = count + 1 if second == int(now) else 1
        _refresh(self._used, whose, (int(now), count))
        return count <= most


def _refresh(table: dict[str, V], peer: str, value: V) -> None:
    """The newest stands last, and of too many the one goes that was not renewed for longest: members are no more."""
    table.pop(peer, None)
    table[peer] = value
    if len(table) > limits.PEERS_MAX:
        del table[next(iter(table))]
