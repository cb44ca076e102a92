"""Who is in the run and alive: beacons in, suspicion out. SPEC B*.

Owns the table of peers. Liveness never decides safety: a suspect is only left out of the next roster. Refuses
to know rounds beyond what a beacon says, sockets and clocks.
"""

import itertools
from dataclasses import dataclass

from intellectd.protocol import limits
from intellectd.protocol.audience import Audience
from intellectd.protocol.context import Context
from intellectd.protocol.effects import AskMembers, Effect, Learn, Note, Out, To, Trust
from intellectd.protocol.head import Head
from intellectd.protocol.links import Links
from intellectd.protocol.messages import Beacon

ABLE_STATES = ("waiting", "training", "ready")  # synced, with a trainer attached (SPEC B4)


@dataclass
class PeerView:
    """What we know of one peer. `beacon` is None until it spoke to us itself or was introduced."""

    addresses: tuple[str, ...]
    known_at: float  # since when, or since somebody showed a newer beacon of it
    beacon: Beacon | None = None
    envelope: bytes = b""
    heard_at: float | None = None
    over: tuple[int, ...] = ()  # incarnations that were followed by lower ones: others may still pass them on


class Membership:
    def __init__(self, context: Context, now: float) -> None:
        self._context = context
        self._timers = context.config.timers
        self.peers: dict[str, PeerView] = {}
        self.incarnation = 0  # the newest of this host that was heard of, as its own is when it starts
        self._listening_since = now
        self._handled_at = now
        self.audience = Audience(context.peer, self._timers, context.rng)
        self._voters: dict[str, None] = {}  # of the head: never forgotten
        self._names: list[str] = []  # of `peers`, for lots
        self._head = b""
        self._alive: dict[str, Beacon] = {}
        self.alive_until = now  # when the first of them falls silent
        self._anew = True  # all that ever spoke are to be counted, not only those
        self._next_beacon_at = now
        self._exchange_s = limits.PEER_EXCHANGE_MIN_S
        self._next_exchange_at = now + self._exchange_s
        self._trusted: dict[str, tuple[str, str, bytes]] = {}  # (peer, bulk address, certificate)
        self._moved = False  # has that changed since the bulk plane was told?
        self.links = Links(context.peer)  # what is known of ways to them
        self.own_envelope = b""  # of this host's newest beacon
        self.turns = 0  # changes of who is alive, and of what they say but for transfers and links
        self.news = True  # has anybody said anything new, or come to life? The node sets it back

    def awake(self, now: float) -> None:
        """Called with every event. If this host slept (it was stopped, or starved), the others' silence is its own
        deafness: it listens anew from here (B6)."""
        if now - self._handled_at > self._timers.suspect_s:
            self._listening_since = self.alive_until = now
            self._anew = self.news = True
        self._handled_at = now

    def follow(self, head: Head, now: float) -> None:
        """Another head: others lead and vote."""
        self._voters = dict.fromkeys(head.voters)
        self.audience.follow(head)
        if any(voter not in self.peers for voter in head.voters if voter != self._context.peer):
            self._exchange_s = limits.PEER_EXCHANGE_MIN_S
            self._next_exchange_at = min(self._next_exchange_at, now + self._exchange_s)

    @property
    def sparse(self) -> bool:
        """Are there too many for everybody to tell everybody? (B9)"""
        return self.audience.sparse(len(self.peers))

    def expects(self, peer: str) -> bool:
        """Should this host hear that one itself?"""
        return self.audience.expects(peer, len(self.peers))

    # ---- judgements

    def overdue(self, peer: str, now: float) -> bool:
        """Have two beacons not come, of a peer that tells this host how far it is? (A10)"""
        tells = self.expects(peer) or self._context.peer in self.audience.first()
        return tells and self.heard_s(peer, now) > 2 * self._timers.beacon_s

    def heard_s(self, peer: str, now: float) -> float:
        """Seconds since the peer was last heard, or since we began to listen."""
        if peer == self._context.peer:
            return 0.0
        view = self.peers.get(peer)
        heard_at = view.heard_at if view is not None and view.heard_at is not None else self._listening_since
        return now - max(heard_at, self._listening_since)

    def heard_at(self, peer: str) -> float:
        """When it spoke itself last; never, if only others spoke of it."""
        view = self.peers.get(peer)
        return view.heard_at if view is not None and view.heard_at is not None else float("-inf")

    def listened_s(self, now: float) -> float:
        """Since this host was last deaf."""
        return now - self._listening_since

    def has_listened(self, now: float) -> bool:
        """Long enough to have heard whoever is alive."""
        return now >= self.listened_at

    @property
    def listened_at(self) -> float:
        """When that is so."""
        return self._listening_since + self._timers.suspect_s

    def alive(self, peer: str, now: float) -> bool:
        """It told us itself, less than suspect_s ago."""
        return peer in self.alive_beacons(now) or peer == self._context.peer

    def silent(self, peer: str, now: float) -> bool:
        return self.heard_s(peer, now) >= self._timers.expel_s

    def beacon(self, peer: str) -> Beacon | None:
        view = self.peers.get(peer)
        return view.beacon if view else None

    def alive_beacons(self, now: float) -> dict[str, Beacon]:
        """The newest beacons of the others that are alive, in the order in which they came to life. Not to be
        changed."""
        if now >= self.alive_until:  # asked several times an event: a thousand peers are seldom looked through
            views = ((p, self.peers.get(p)) for p in (sorted(self.peers) if self._anew else self._alive))
            heard = {p: (self._heard_at(view), view.beacon) for p, view in views if view is not None}
            since = now - self._timers.suspect_s
            self._alive = {p: beacon for p, (at, beacon) in heard.items() if at > since and beacon}
            first = min((at for at, _ in heard.values() if at > since), default=float("inf"))
            self.alive_until, self._anew = first + self._timers.suspect_s, False
            self.turns += 1
        return self._alive

    # ---- events

    def learn(self, peer: str, addresses: tuple[str, ...], now: float) -> list[Out]:
        """Hearsay: what the peer itself said stands before it (B5)."""
        view, out = self._view(peer, now)
        if view is None or all(address in view.addresses for address in addresses):
            return out
        said = tuple(view.beacon.addresses) if view.beacon is not None else ()
        view.addresses = _first(said, addresses, view.addresses)
        return [*out, Learn(peer, (*said, *addresses))]

    def _view(self, peer: str, now: float) -> tuple[PeerView | None, list[Out]]:
        """Of another one, a new one too if there is room."""
        view = self.peers.get(peer)
        if view is not None or peer == self._context.peer:
            return view, []
        if len(self.peers) >= limits.PEERS_MAX and not self._make_room(now):
            return None, [Note("peer_table_full", f"{peer} not added: {limits.PEERS_MAX} peers known", "warning")]
        view = self.peers[peer] = PeerView((), now)
        self._names, self.news = [], True
        if not self.sparse:
            self.soon(now)  # a newcomer should not wait for our next beacon to know us
        return view, []

    def on_beacon(self, peer: str, beacon: Beacon, envelope: bytes, now: float, introduced: bool) -> list[Out]:
        """Take a newer beacon. An introduced one (from another member) tells where, but proves no life."""
        view, out = self._view(peer, now)
        if view is None:
            return self._double(beacon) if peer == self._context.peer else out
        old = view.beacon
        if old is not None and not self._newer(peer, beacon, old, now, introduced):
            return out
        if (old is None or not self.alive(peer, now)) and not self.sparse:
            self.soon(now)
        if old is None or not repeats(beacon, old):
            self.news = True
            self.turns += 1
        out += self._own_word(peer, view, beacon)
        older = [old.incarnation] if old is not None and beacon.incarnation < old.incarnation else []
        view.over = (*view.over, *older)[-limits.LIVES_OVER_MAX :]
        view.beacon, view.envelope = beacon, envelope
        if not introduced:
            if view.heard_at is None or not self.alive(peer, now):
                if not self.alive_beacons(now):
                    self._next_exchange_at = now  # the first one we meet: it knows others
                if view.heard_at is None or not self.sparse:  # elsewhere most fall silent between their turns
                    text = f"{peer} is here ({beacon.state}, {_rounds(beacon.head_round)})"
                    out.append(Note("peer_alive", text))
            view.heard_at = now
        view.known_at = now
        if peer in self._alive:
            self._alive[peer] = beacon
        elif not introduced:
            self._alive[peer], self.news = beacon, True
            self.turns += 1
            self.alive_until = min(self.alive_until, now + self._timers.suspect_s)
        if beacon.certificate and (old is None or (old.bulk, old.certificate) != (beacon.bulk, beacon.certificate)):
            self._trusted[peer], self._moved = (peer, beacon.bulk, beacon.certificate), True
        elif not beacon.certificate:
            self._distrust(peer)
        return out

    def _double(self, beacon: Beacon) -> list[Out]:
        """Signed with this host's key, by whoever has it, and told once of each life (B1)."""
        if beacon.incarnation <= self.incarnation:
            return []
        self.incarnation = beacon.incarnation
        text = (
            "another daemon has this host's identity and began after it, as with a copy of its state directory: stop "
            "one of them, for two would vote twice; or this host's clock was set back, and its disk lost since"
        )
        return [Note("double", text, "error")]

    def _own_word(self, peer: str, view: PeerView, beacon: Beacon) -> list[Out]:
        """Where the peer is, if it says something else than before."""
        said = tuple(beacon.addresses)
        if not said or (view.beacon is not None and tuple(view.beacon.addresses) == said):
            return []
        view.addresses = _first(said, view.addresses)
        return [Learn(peer, said, own_word=True)]

    def envelopes(self) -> list[bytes]:
        """The newest beacons, to introduce others with: the voters', and of the rest those known last or, where there
        are too many, some by lot (B5)."""
        known = [(view.known_at, peer, view.envelope) for peer, view in self.peers.items() if view.envelope]
        voters = [item for item in known if item[1] in self._voters]
        rest = [item for item in known if item[1] not in self._voters]
        room = limits.MEMBERS_TOLD_MAX - len(voters)
        if len(rest) > room:
            rest = self._context.rng.sample(sorted(rest), room)
        return [envelope for _, _, envelope in (*sorted(voters, reverse=True), *sorted(rest, reverse=True))]

    def introduction(self, peer: str) -> bytes:
        """The beacon to introduce this peer with; b"" if it is not known."""
        view = self.peers.get(peer)
        return self.own_envelope if peer == self._context.peer else view.envelope if view else b""

    def soon(self, now: float) -> None:
        """Something in our beacon changed: send it before its time."""
        if now + limits.REBEACON_MIN_S < self._next_beacon_at:
            self._next_beacon_at, self.news = now + limits.REBEACON_MIN_S, True

    def beacon_due(self, now: float) -> bool:
        return now >= self._next_beacon_at

    def send_beacon(self, beacon: Beacon, waits_s: float, journal: bool, now: float) -> list[Out]:
        """`waits_s`: for how long this host's delta has been ready; `journal`: it could vote here."""
        self._next_beacon_at = now + self._timers.beacon_s * (0.8 + 0.4 * self._context.rng.random())
        alive, record = self.alive_beacons(now), beacon.head != self._head
        self._head = beacon.head
        self._names = self._names or sorted(self.peers)
        told = self.audience.choose(self.peers, self._names, alive, waits_s, journal, record, now)
        return [To(peer, beacon) for peer in told]

    def tick(self, now: float) -> list[Out]:
        if now < self._next_exchange_at:
            return []
        return [*self._forget(now), *self._exchange(now)]

    def _forget(self, now: float) -> list[Out]:
        """Looked through with each exchange: what is forgotten has been silent for far longer."""
        out: list[Out] = []
        for peer in sorted(self.peers):
            silent_s = now - max(self._last(self.peers[peer]), self._listening_since)
            if silent_s > limits.FORGET_PEER_S and peer not in self._voters:
                del self.peers[peer]
                self._names = []
                self._alive.pop(peer, None)
                self.news, self.turns = True, self.turns + 1
                self._distrust(peer)
                out.append(Note("peer_forgotten", f"{peer} silent for {silent_s:.0f} s, forgotten"))
        return out

    def _exchange(self, now: float) -> list[Out]:
        """Ask one peer whom it knows: often while we are new, so that those who joined through one host meet (B5)."""
        self._next_exchange_at = now + self._exchange_s * (0.8 + 0.4 * self._context.rng.random())
        alive = list(self.alive_beacons(now))
        if not alive:
            return []
        longest = limits.PEER_EXCHANGE_SPARSE_S if self.sparse else limits.PEER_EXCHANGE_S
        self._exchange_s = min(2 * self._exchange_s, longest)
        return [AskMembers(self._context.rng.choice(alive))]

    def deadline(self) -> float:
        return min(self._next_beacon_at, self._next_exchange_at)

    def _newer(self, peer: str, beacon: Beacon, old: Beacon, now: float, introduced: bool) -> bool:
        """By (incarnation, sequence). A silent peer that speaks to us itself may also have been born anew with a
        clock set back: nobody else can send in its name (B1)."""
        if beacon.incarnation == old.incarnation:
            return beacon.sequence > old.sequence
        anew = not introduced and not self.alive(peer, now)
        return anew or not self.of_earlier_life(peer, beacon)

    def of_earlier_life(self, peer: str, beacon: Beacon) -> bool:
        """Than the newest that is known, as far as is known of clocks that were set back."""
        view, said = self.peers.get(peer), beacon.incarnation
        if view is None or view.beacon is None or said == view.beacon.incarnation:
            return False
        return said < view.beacon.incarnation or said in view.over

    def _heard_at(self, view: PeerView) -> float:
        """When it was last heard, or we began to listen; for one that never spoke itself, never."""
        return max(view.heard_at, self._listening_since) if view.heard_at is not None else float("-inf")

    def _last(self, view: PeerView) -> float:
        return max(view.heard_at or view.known_at, view.known_at)

    def _make_room(self, now: float) -> bool:
        """A full table gives up whoever has not been heard for longest, and never a voter or somebody alive."""
        spare = [p for p in self.peers if p not in self._voters and not self.alive(p, now)]
        if not spare:
            return False
        # Those that only somebody else spoke of go first: names are cheap to invent.
        last = min(spare, key=lambda p: (self.peers[p].heard_at is not None, self._last(self.peers[p]), p))
        del self.peers[last]
        self._names = []
        self._distrust(last)
        return True

    def retrust(self) -> list[Effect]:
        """Whom the bulk plane trusts, if that has changed."""
        if not self._moved:
            return []
        self._moved = False
        return [Trust(tuple(self._trusted.values()))]

    def _distrust(self, peer: str) -> None:
        self._moved = self._trusted.pop(peer, None) is not None or self._moved


def _first(*addresses: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(itertools.chain(*addresses)))[: limits.ADDRESSES_MAX]


def repeats(beacon: Beacon, before: Beacon) -> bool:
    """Does it say what that one said, but for how far a transfer is, and for links, which make nothing due?"""
    return (
        beacon.head == before.head
        and beacon.applied == before.applied
        and beacon.state == before.state
        and beacon.ready == before.ready
        and beacon.lineage == before.lineage
        and beacon.snapshots == before.snapshots
        and beacon.updates_from == before.updates_from
        and beacon.leaving == before.leaving
        and beacon.voted == before.voted
        and beacon.incarnation == before.incarnation
        and beacon.generation == before.generation
        and beacon.head_round == before.head_round
        and beacon.addresses == before.addresses
        and beacon.bulk == before.bulk
        and beacon.certificate == before.certificate
    )


def _rounds(head_round: int) -> str:
    return f"round {head_round}" if head_round > 0 else "no round decided yet"
