"""Who is in the run and alive: beacons in, suspicion out. SPEC B*.

Owns the table of peers. Liveness never decides safety: a suspect is only left out of the next ring. Refuses
to know rounds beyond what a beacon says, sockets and clocks.
"""

from dataclasses import dataclass

from intellectd.protocol import limits
from intellectd.protocol.context import Context
from intellectd.protocol.effects import AskMembers, Learn, Note, Out, To, Trust
from intellectd.protocol.messages import Beacon

ABLE_STATES = ("waiting", "training", "ready")  # synced, with a trainer attached (SPEC B4)


@dataclass
class PeerView:
    """What we know of one peer. `beacon` is None until it spoke to us itself or was introduced."""

    addresses: tuple[str, ...]
    known_at: float
    beacon: Beacon | None = None
    envelope: bytes = b""
    heard_at: float | None = None


class Membership:
    def __init__(self, context: Context, now: float) -> None:
        self._context = context
        self._timers = context.config.timers
        self.peers: dict[str, PeerView] = {}
        self._listening_since = now
        self._handled_at = now
        self._voters: list[str] = []  # of the head: never forgotten
        self._alive: dict[str, Beacon] = {}
        self._alive_until = now  # when the first of them falls silent; before that they are counted anew
        self._next_beacon_at = now
        self._exchange_s = limits.PEER_EXCHANGE_MIN_S
        self._next_exchange_at = now + self._exchange_s
        self._trusted: tuple[tuple[str, str, bytes], ...] = ()

    def awake(self, now: float) -> None:
        """Called with every event. If this host slept (it was stopped, or starved), the others' silence is its own
        deafness: it listens anew from here (B6)."""
        if now - self._handled_at > self._timers.suspect_s:
            self._listening_since = self._alive_until = now
        self._handled_at = now

    def seat(self, voters: list[str]) -> None:
        self._voters = voters

    # ---- judgements

    def heard_s(self, peer: str, now: float) -> float:
        """Seconds since the peer was last heard, or since we began to listen."""
        if peer == self._context.peer:
            return 0.0
        view = self.peers.get(peer)
        heard_at = view.heard_at if view is not None and view.heard_at is not None else self._listening_since
        return now - max(heard_at, self._listening_since)

    def listened_s(self, now: float) -> float:
        """Since this host was last deaf."""
        return now - self._listening_since

    def has_listened(self, now: float) -> bool:
        """Long enough to have heard whoever is alive."""
        return self.listened_s(now) >= self._timers.suspect_s

    def alive(self, peer: str, now: float) -> bool:
        """It told us itself, less than suspect_s ago."""
        return peer in self.alive_beacons(now) or peer == self._context.peer

    def silent(self, peer: str, now: float) -> bool:
        return self.heard_s(peer, now) >= self._timers.expel_s

    def beacon(self, peer: str) -> Beacon | None:
        view = self.peers.get(peer)
        return view.beacon if view else None

    def alive_beacons(self, now: float) -> dict[str, Beacon]:
        """The newest beacons of the others that are alive, by peer id in sorted order. Not to be changed."""
        if now >= self._alive_until:  # asked several times an event: a thousand peers are seldom looked through
            heard = {p: self._heard_at(v) for p, v in sorted(self.peers.items())}
            last = {p: at for p, at in heard.items() if at > now - self._timers.suspect_s}
            self._alive = {p: beacon for p in last if (beacon := self.peers[p].beacon)}
            self._alive_until = min(last.values(), default=float("inf")) + self._timers.suspect_s
        return self._alive

    # ---- events

    def learn(self, peer: str, addresses: tuple[str, ...], now: float) -> list[Out]:
        if peer == self._context.peer:
            return []
        view = self.peers.get(peer)
        if view is None:
            if len(self.peers) >= limits.PEERS_MAX and not self._make_room(now):
                return [Note("peer_table_full", f"{peer} not added: {limits.PEERS_MAX} peers known", "warning")]
            self.peers[peer] = PeerView(addresses, now)
            self.soon(now)  # a newcomer should not wait for our next beacon to know us
        elif set(addresses) <= set(view.addresses):
            return []
        else:
            view.addresses = tuple(dict.fromkeys((*addresses, *view.addresses)))[: limits.ADDRESSES_MAX]
        return [Learn(peer, addresses)] if addresses else []

    def on_beacon(self, peer: str, beacon: Beacon, envelope: bytes, now: float, introduced: bool) -> list[Out]:
        """Take a newer beacon. An introduced one (from another member) tells where, but proves no life."""
        out = self.learn(peer, tuple(beacon.addresses), now)
        view = self.peers.get(peer)
        if view is None:
            return out
        old = view.beacon
        if old is not None and not self._newer(peer, beacon, old, now, introduced):
            return out
        if old is None or not self.alive(peer, now):
            self.soon(now)
        view.beacon, view.envelope = beacon, envelope
        if not introduced:
            if view.heard_at is None or not self.alive(peer, now):
                if not self.alive_beacons(now):
                    self._next_exchange_at = now  # the first one we meet: it knows others
                out.append(Note("peer_alive", f"{peer} is here ({beacon.state}, {_rounds(beacon.head_round)})"))
            view.heard_at = now
        if peer in self._alive:
            self._alive[peer] = beacon
        elif not introduced:
            self._alive_until = now
        moved = old is None or (old.bulk, old.certificate) != (beacon.bulk, beacon.certificate)
        return out + (self._retrust() if moved else [])

    def envelopes(self) -> list[bytes]:
        """The newest beacons, to introduce others with; those of the living first, should not all fit."""
        known = [(view.heard_at or 0.0, peer, view.envelope) for peer, view in self.peers.items() if view.envelope]
        return [envelope for _, _, envelope in sorted(known, reverse=True)]

    def soon(self, now: float) -> None:
        """Something in our beacon changed: send it before its time."""
        self._next_beacon_at = min(self._next_beacon_at, now + limits.REBEACON_MIN_S)

    def beacon_due(self, now: float) -> bool:
        return now >= self._next_beacon_at

    def send_beacon(self, beacon: Beacon, now: float) -> list[Out]:
        self._next_beacon_at = now + self._timers.beacon_s * (0.8 + 0.4 * self._context.rng.random())
        targets = sorted(self.peers)
        if len(targets) > limits.BEACON_FANOUT_MAX:
            targets = sorted(self._context.rng.sample(targets, limits.BEACON_FANOUT_MAX))
        return [To(peer, beacon) for peer in targets]

    def tick(self, now: float) -> list[Out]:
        out: list[Out] = []
        for peer in sorted(self.peers):
            silent_s = now - max(self._last(self.peers[peer]), self._listening_since)
            if silent_s > limits.FORGET_PEER_S and peer not in self._voters:
                del self.peers[peer]
                self._alive_until = now
                out.append(Note("peer_forgotten", f"{peer} silent for {silent_s:.0f} s, forgotten"))
        if now >= self._next_exchange_at:
            out += self._exchange(now)
        return out + self._retrust()

    def _exchange(self, now: float) -> list[Out]:
        """Ask one peer whom it knows: often while we are new, so that those who joined through one host meet (B5)."""
        self._next_exchange_at = now + self._exchange_s * (0.8 + 0.4 * self._context.rng.random())
        alive = list(self.alive_beacons(now))
        if not alive:
            return []
        self._exchange_s = min(2 * self._exchange_s, limits.PEER_EXCHANGE_S)
        return [AskMembers(self._context.rng.choice(alive))]

    def deadline(self) -> float:
        return min(self._next_beacon_at, self._next_exchange_at)

    def _newer(self, peer: str, beacon: Beacon, old: Beacon, now: float, introduced: bool) -> bool:
        """By (incarnation, sequence). A silent peer that speaks to us itself may also have been born anew with a
        clock set back: nobody else can send in its name (B1)."""
        reborn = not introduced and beacon.incarnation != old.incarnation and not self.alive(peer, now)
        return reborn or (beacon.incarnation, beacon.sequence) > (old.incarnation, old.sequence)

    def _heard_at(self, view: PeerView) -> float:
        """When it was last heard, or we began to listen; for one that never spoke itself, never."""
        return max(view.heard_at, self._listening_since) if view.heard_at is not None else float("-inf")

    def _last(self, view: PeerView) -> float:
        return view.heard_at if view.heard_at is not None else view.known_at

    def _make_room(self, now: float) -> bool:
        """A full table gives up whoever has not been heard for longest, and never a voter or somebody alive."""
        spare = [p for p in self.peers if p not in self._voters and not self.alive(p, now)]
        if not spare:
            return False
        # Those that only somebody else spoke of go first: names are cheap to invent.
        del self.peers[min(spare, key=lambda p: (self.peers[p].heard_at is not None, self._last(self.peers[p]), p))]
        return True

    def _retrust(self) -> list[Out]:
        trusted = tuple(
            (peer, view.beacon.bulk, view.beacon.certificate)
            for peer, view in sorted(self.peers.items())
            if view.beacon is not None and view.beacon.certificate
        )
        if trusted == self._trusted:
            return []
        self._trusted = trusted
        return [Trust(trusted)]


def _rounds(head_round: int) -> str:
    return f"round {head_round}" if head_round > 0 else "no round decided yet"
