"""Which whole state this host fetches, if any, and from whom. SPEC K5, K11, K12.

Owns the one that is under way and what is known of tries before. Refuses to know when a state is needed at all, which
is catchup.py's, but for one question: would some state be quicker than the updates up to it?
"""

from collections.abc import Mapping

from intellectd.protocol import limits
from intellectd.protocol.context import Context
from intellectd.protocol.donors import Donors
from intellectd.protocol.effects import FetchSnapshot, Note, OfferDonors, Out
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, state_name
from intellectd.protocol.membership import Membership
from intellectd.protocol.pace import Pace, Way
from intellectd.protocol.window import Window

# A state must be so much quicker than the updates up to it: what was measured wavers, and some of these are under way.
WORTH_A_STATE = 0.9
NO_WAY = float("inf")
NOTHING = (0, b"", 0)
NO_STATE = -2  # as in Beacon.applied
STATES = "states"  # any of them: who has not the one that it offers may offer eight


class States:
    def __init__(self, context: Context, members: Membership, window: Window, donors: Donors, pace: Pace) -> None:
        self._context, self._members, self._window = context, members, window
        self._donors, self._pace = donors, pace
        self.fetching: int | None = None  # a round, under way
        self._serving: tuple[str, ...] = ()  # who was named to serve it
        self._fellows: tuple[str, ...] = ()  # who was named as fetching it, too
        self.void = False  # it is one of a line that was left
        self.own: tuple[int, ...] = ()  # on this disk; 0 stands for the first parameters
        self._kept: tuple[int, bytes, int] = NOTHING  # (round, digest, bytes) of a try that failed, or was cut short

    # ---- news

    def on_held(self, rounds: tuple[int, ...], begun: tuple[int, bytes, int] | None) -> None:
        """What lies on this disk: whole states, and, at the start, what there is of another."""
        self.own = rounds
        if begun is not None:
            self._kept = (-1 if begun[0] == 0 else begun[0], *begun[1:])

    def installed(self, came_bytes: int, idle: bool, now: float) -> None:
        self.fetching, self._kept = None, NOTHING
        self._pace.came(came_bytes, idle, now)

    def missed(self, round_: int, donor: str, kept_bytes: int, now: float) -> None:
        if self.fetching == round_:
            self.fetching = None
        if not self.void:
            self._donors.failed(donor, STATES, now)
        self.void, self._kept = False, (round_, self._window.proven(round_) or b"", kept_bytes)
        self._donors.failed(donor, round_, now)

    def cut(self, round_: int) -> None:
        """The log is left after this round."""
        self.void, self._kept = self.fetching is not None, NOTHING
        self.own = tuple(r for r in self.own if r <= max(0, round_))

    @property
    def places(self) -> list[int]:
        """The rounds after which the states are that lie on this disk."""
        return [-1 if round_ == 0 else round_ for round_ in self.own]

    def reach(self, now: float | None = None) -> int:
        """The newest round whose state can be made of one on this disk that the log proves, by updates here. With a
        time: of none that failed of late."""
        proven, me = self._window.proven, self._context.peer
        own = [place for place in self.places if proven(place) is not None]
        good = own if now is None else [place for place in own if self._donors.good([me], place, now)]
        return max((self._window.reach(place) for place in good), default=NO_STATE)

    # ---- what is asked for

    def ask(self, head: Head, applied: int, now: float) -> list[Out]:
        """The state by which the head is reached soonest, of those that some donor serves and our log proves."""
        offers = self._all_offers(head, now)
        round_ = self._best(self._provable(offers, applied, now), head)
        return [] if round_ is None else self._fetch(head, round_, offers[round_], now)

    def ask_if_quicker(self, head: Head, applied: int, now: float) -> list[Out]:
        """The same if that is sooner than by updates alone (K12). Not for so few rounds that a trainer's work in
        progress may still count: it points at a state that is stepped."""
        by_updates = self.updates_after(applied, head)
        if by_updates is None or head.round - applied <= limits.CARRY_ROUNDS_MAX:
            return []
        offers = self._all_offers(head, now)
        provable = self._provable(offers, applied + limits.CARRY_ROUNDS_MAX, now)
        round_ = self._best(provable, head)
        if round_ is None or self._cost(round_, head) >= WORTH_A_STATE * self._pace.cost(by_updates):
            return []
        rounds = f"the updates of {head.round - applied} rounds"
        note = Note("catchup", f"{state_name(round_)} is here sooner than {rounds}")
        asked = self._fetch(head, round_, offers[round_], now)
        return [note, *asked] if asked else []

    def more_donors(self, head: Head, now: float) -> list[Out]:
        """Of the state that is being fetched: those that were not known, or did not have it, when it began."""
        round_, room = self.fetching, limits.SNAPSHOT_DONORS_MAX - len(self._serving) - len(self._fellows)
        if round_ is None or self.void or room <= 0 or self._context.peer in self._serving:
            return []
        known = (*self._serving, *self._fellows)
        offering = [peer for peer in self._offers(head, now).get(round_, ()) if peer not in known]
        more = tuple(self._donors.good(offering, round_, now)[:room])
        fellows = self._more_fellows(head, round_, (*known, *more), now)
        self._serving, self._fellows = self._serving + more, self._fellows + fellows
        return [OfferDonors(round_, more, fellows)] if more or fellows else []

    # ---- which

    def _offers(self, head: Head, now: float) -> dict[int, list[str]]:
        """By round, who says to serve its state."""
        offers: dict[int, list[str]] = {}
        for peer, beacon in self._members.alive_beacons(now).items():
            if beacon.generation == head.generation or head.round == -1:
                for round_ in beacon.snapshots:  # the first parameters are served as round 0
                    offers.setdefault(-1 if round_ == 0 else round_, []).append(peer)
        return offers

    def _all_offers(self, head: Head, now: float) -> dict[int, list[str]]:
        """Those of this host's own disk come first: they cost nothing."""
        offers = self._offers(head, now)
        for place in self.places:
            own = self._donors.good([self._context.peer], place, now)
            if own:
                offers[place] = own
        return offers

    def _provable(self, offers: dict[int, list[str]], after: int, now: float) -> list[int]:
        """Newest first; of those that somebody has not just failed with, nor with others, if there are any."""
        provable = sorted((r for r in offers if self._window.proven(r) and r > after), reverse=True)
        good = [r for r in provable if self._donors.good(offers[r], r, now)]
        return [r for r in good if self._donors.good(offers[r], STATES, now)] or good or provable

    def _best(self, rounds: list[int], head: Head) -> int | None:
        """Of equals the newest."""
        best, best_cost = None, NO_WAY
        for round_ in rounds:
            cost = self._cost(round_, head)
            if best is None or cost < best_cost:
                best, best_cost = round_, cost
        return best

    def _cost(self, round_: int, head: Head) -> float:
        """Of the way by this state; one from which the updates do not lead to the head is the last resort."""
        after = self.updates_after(round_, head)
        if after is None:
            return NO_WAY
        return self._pace.cost(Way(self._missing_bytes(round_, head), after.update_bytes, after.applies))

    def _missing_bytes(self, round_: int, head: Head, came_bytes: int = 0) -> int:
        """Of a state, which is not here."""
        here = head.state_bytes if (0 if round_ < 0 else round_) in self.own else came_bytes
        if self._kept[:2] == (round_, self._window.proven(round_)):
            here = max(here, self._kept[2])
        return max(0, head.state_bytes - here)

    def left_bytes(self, head: Head, came: Mapping[bytes, int]) -> int:
        """Of the state that is being fetched, if one is. `came`: as far as is known, by digest."""
        if self.fetching is None:
            return 0
        return self._missing_bytes(self.fetching, head, came.get(self._window.proven(self.fetching) or b"", 0))

    def updates_after(self, round_: int, head: Head) -> Way | None:
        """None where that is longer ago than what is remembered of rounds."""
        size = applies = 0
        for r in range(head.round, round_, -1):
            decided = self._window.get(r)
            if decided is None:
                return None
            if decided.record.update_root == NO_HASH or (decided.groups and r < head.round):
                continue  # it changes nothing, or an anchor that the next one replaces (E5)
            applies += 1
            size += 0 if self._window.holds(decided) else decided.record.update_bytes
        return Way(0, size, applies)

    # ---- from whom

    def _fetch(self, head: Head, round_: int, offering: list[str], now: float) -> list[Out]:
        digest, donor = self._window.proven(round_), self._donors.pick(offering, round_, now)
        if donor is None or digest is None:
            return []
        self.fetching = round_
        self._serving = (donor, *self._others(offering, donor, round_, now))
        self._fellows = () if donor == self._context.peer else self._more_fellows(head, round_, self._serving, now)
        self._pace.fetches(now)
        more = f" and {len(self._serving) - 1} more" if len(self._serving) > 1 else ""
        note = Note("catchup", f"fetching {state_name(round_)} from {donor}{more}")
        return [note, FetchSnapshot(round_, digest, donor, self._serving[1:], self._fellows)]

    def _more_fellows(self, head: Head, round_: int, known: tuple[str, ...], now: float) -> tuple[str, ...]:
        """Who has no state either, beside those that are known: it may be fetching this one, and says so when asked."""
        none = [
            peer
            for peer, beacon in self._members.alive_beacons(now).items()
            if beacon.applied == NO_STATE and beacon.generation == head.generation and peer not in known
        ]
        good = self._donors.good(none, round_, now)
        room = limits.SNAPSHOT_DONORS_MAX - len(known)
        return tuple(good if len(good) <= room else self._context.rng.sample(good, room))

    def _others(self, offering: list[str], donor: str, round_: int, now: float) -> tuple[str, ...]:
        """Those that serve it beside the donor; by lot where there are more than a fetch has room for."""
        good = [peer for peer in self._donors.good(offering, round_, now) if peer != donor]
        most = limits.SNAPSHOT_DONORS_MAX - 1
        return tuple(good if len(good) <= most else self._context.rng.sample(good, most))
