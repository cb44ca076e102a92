"""From whatever state this host has to the head of the log: records, snapshot, replay. SPEC K*.

Owns what is missing and whom to ask for it. One path for all: a joiner, a restart, a missed commit, a vote that
waits for bytes. Refuses to know how bytes travel; verification of records is records.py's, of bytes the shell's,
against the digests that this machine names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from intellectd.protocol import limits
from intellectd.protocol.context import Context
from intellectd.protocol.donors import Donors, Retry
from intellectd.protocol.effects import AskEntries, FetchSnapshot, FetchUpdate, Note, OfferDonors, Out
from intellectd.protocol.entries import Entry
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, state_name
from intellectd.protocol.membership import Membership
from intellectd.protocol.moments import soonest
from intellectd.protocol.window import Decided, Window

NO_STATE = -2  # as in Beacon.applied
RECORDS = "records"


@dataclass(frozen=True)
class Wanted:
    """An update that is needed before it is decided: `signers` have its bytes, `others` may."""

    root: bytes
    update_bytes: int
    signers: list[str]
    others: list[str]


class Catchup:
    def __init__(self, context: Context, membership: Membership, applied: int) -> None:
        self._context, self._members = context, membership
        self.applied = applied
        self.window = Window(context.peer, context.manifest.state_digest)
        self.applying: int | None = None
        self.awaited_transfer = NO_HASH  # our own transfer may still bring the bytes of the newest record
        self._asking: str | None = None  # an AskEntries under way
        self._fetching: bytes | int | None = None  # an update's root or a snapshot's round, under way
        self._serving: tuple[str, ...] = ()  # who was named to serve the snapshot that is being fetched
        self.own_snapshots: tuple[int, ...] = ()  # on this disk; 0 stands for the first parameters
        self._void = False  # the state that is being fetched is one of a line that was left
        self._donors = Donors(context.rng)
        self._ask_retry, self._fetch_retry = Retry(), Retry()
        self._misses = 0  # of updates, since one arrived
        self._ahead_at: tuple[int, Head] | None = None  # as of which turn `_ahead_there` was looked up
        self._ahead_there: dict[str, int] = {}

    @property
    def has_state(self) -> bool:
        return self.applied > NO_STATE

    @property
    def held(self) -> dict[bytes, bool]:
        """Updates on disk here."""
        return self.window.held

    def settled(self, head: Head) -> bool:
        """Is this host's state the head's, with nothing under way to change it?"""
        return self.applied == head.round and self.applying is None

    # ---- news

    def on_decided(self, entry: Entry) -> None:
        """A record was appended to the log."""
        self.window.add(entry)

    @property
    def reach(self) -> int:
        """The newest round whose state this host can make by itself, of what lies on its disk."""
        at = self.applied
        while self.has_state and (next_ := self.window.get(at + 1)) and (next_.groups or self.window.holds(next_)):
            at += 1
        return at

    def found_nowhere(self, head: Head, now: float) -> int | None:
        """The next round to apply, if its update is neither here nor at anybody of this line who is heard."""
        missing = self.window.get(self.applied + 1) if self.has_state else None
        if missing is None or missing.groups or self.window.holds(missing) or not self._members.has_listened(now):
            return None
        alive = self._members.alive_beacons(now).values()
        there = any(b.generation == head.generation and b.applied > self.applied for b in alive)
        return None if there else missing.record.round

    def on_applied(self, round_: int) -> bool:
        """False when that was not what we waited for: the state has been replaced meanwhile."""
        if round_ != self.applying:
            return False
        self.applied, self.applying = round_, None
        return True

    def on_snapshot(self, round_: int) -> bool:
        """False when it was asked for before another line of history was taken: it is of no use."""
        self._fetched()
        if self._void:
            self._void = False
            self.drop_state()
            return False
        self.applied, self.applying = round_, None
        return True

    def on_snapshot_missed(self, round_: int, donor: str, now: float) -> None:
        self._void = False
        self._missed(donor, round_, now)

    def on_update_held(self, root: bytes) -> None:
        self.window.hold(root)
        if self._fetching == root:
            self._fetched()

    def on_update_missed(self, root: bytes, donor: str, now: float) -> None:
        """Not there; also said of an update that was thought to be on disk here and is not."""
        self.window.lost(root)
        decided = self.window.get(self.applying) if self.applying is not None else None
        if decided is not None and root in decided.roots:
            self.applying = None
        self._misses += 1
        self._missed(donor, root, now)

    def on_entries(self, useful: bool, now: float) -> None:
        asked, self._asking = self._asking, None
        if useful:
            self._ask_retry.succeeded()
        else:
            self._ask_retry.failed(now)
            self._donors.failed(asked or "", RECORDS, now)

    def drop_state(self) -> None:
        """Our state is not the agreed one: begin again from a snapshot."""
        self.applied, self.applying = NO_STATE, None

    def on_branch(self) -> None:
        """What was asked for is an answer about another generation: it is not waited for."""
        self._asking = None

    def cut(self, round_: int) -> bool:
        """The log is left after this round. False when the state went further and is of no use now."""
        self.window.cut(round_)
        self._asking, self._void = None, isinstance(self._fetching, int)
        self.own_snapshots = tuple(r for r in self.own_snapshots if r <= max(0, round_))
        good = max(self.applied, self.applied if self.applying is None else self.applying) <= round_
        if not good:
            self.drop_state()
        return good

    # ---- what is due

    def evaluate(self, head: Head, now: float, wanted: Wanted | None = None) -> tuple[list[Out], Decided | None]:
        """(requests to make, the next round to apply now or None)."""
        out = self._ask_records(head, now) + self._more_donors(head, now)
        if self.applying is not None:
            return out, None
        missing = self.window.get(self.applied + 1) if self.has_state else None
        ready = missing is not None and (self.window.holds(missing) or self._does_without(missing, head, now))
        if missing is not None and ready and not isinstance(self._fetching, int):
            self.applying = missing.record.round
            return out, missing
        if self._fetching is not None or now < self._fetch_retry.at:
            return out, None
        if not self.has_state or (missing is None and self.applied < head.round):
            return out + self._ask_snapshot(head, now), None
        if missing is not None:
            return out + self._ask_update(head, missing, now), None
        return out + self._ask_wanted(wanted, now), None

    def deadline(self, now: float) -> float:
        return soonest([self._ask_retry.at, self._fetch_retry.at], now)

    # ---- requests

    def _ahead(self, head: Head, now: float) -> dict[str, int]:
        alive, known = self._members.alive_beacons(now), self._ahead_at
        if known is None or known[0] != self._members.turns or known[1] is not head:
            self._ahead_at = (self._members.turns, head)
            round_, ours = head.round, head.generation
            self._ahead_there = {
                peer: beacon.head_round
                for peer, beacon in alive.items()
                if beacon.head_round > round_ and beacon.generation == ours  # of a thousand few are ahead
            }
        return self._ahead_there

    def _ask_records(self, head: Head, now: float) -> list[Out]:
        if self._asking is not None or now < self._ask_retry.at:
            return []
        ahead = self._ahead(head, now)
        # A peer that only boasts to be far ahead has failed us once; then the others are asked.
        good = self._donors.good(list(ahead), RECORDS, now) or list(ahead)
        if not good:
            return []
        best = max(ahead[peer] for peer in good)
        self._asking = self._context.rng.choice([peer for peer in good if ahead[peer] == best])
        return [AskEntries(self._asking, head.generation, head.round + 1)]

    def _ask_update(self, head: Head, decided: Decided, now: float) -> list[Out]:
        if decided.groups:
            return self._ask_group(decided, now)
        record = decided.record
        if record.transfer == self.awaited_transfer:
            return []
        have = {
            peer: beacon.updates_from
            for peer, beacon in self._members.alive_beacons(now).items()
            if beacon.generation == head.generation and beacon.applied >= record.round
        }
        keep = [peer for peer, updates_from in have.items() if updates_from <= record.round]
        if (have and not keep) or self._misses >= limits.UPDATE_MISSES_MAX:
            # Pruned wherever we can ask: only a snapshot leads on.
            snapshot = self._ask_snapshot(head, now)
            if snapshot:
                return snapshot
        return self._fetch_update(record.update_root, record.update_bytes, self._donor(keep, record.update_root, now))

    # ---- of gossip rounds (E5)

    def _does_without(self, decided: Decided, head: Head, now: float) -> bool:
        """A gossip round changes this host's anchor alone. It does without if a later record is there, if nobody here
        has any of its groups' updates, or if those that it asked for did not come: nobody is stuck."""
        if not decided.groups or self._awaits(decided):
            return False
        if decided.record.round < head.round or self._misses >= limits.UPDATE_MISSES_MAX * self._tried(decided):
            return True
        return self._members.has_listened(now) and not any(self._there(m, now) for _, m in decided.groups)

    def _awaits(self, decided: Decided) -> bool:
        """Our own transfer may still bring it."""
        return decided.transfer != NO_HASH and decided.transfer == self.awaited_transfer

    def _tried(self, decided: Decided) -> int:
        return min(len(decided.groups), limits.GROUPS_TRIED_MAX)

    def _there(self, members: Sequence[str], now: float) -> list[str]:
        alive = self._members.alive_beacons(now)
        return [peer for peer in members if peer in alive]

    def _ask_group(self, decided: Decided, now: float) -> list[Out]:
        """The update of the next group whose members are here; each has its tries."""
        if self._awaits(decided):
            return []
        turn = self._misses // limits.UPDATE_MISSES_MAX
        for root, members in [*decided.groups[turn:], *decided.groups[:turn]]:
            here = self._there(members, now)
            if here:
                return self._fetch_update(root, decided.record.update_bytes, self._donor(here, root, now))
        return []

    def _ask_wanted(self, wanted: Wanted | None, now: float) -> list[Out]:
        if wanted is None:
            return []
        alive = self._members.alive_beacons(now)
        signers = [peer for peer in dict.fromkeys(wanted.signers) if peer in alive]
        others = [peer for peer in dict.fromkeys(wanted.others) if peer in alive and peer not in signers]
        good = self._donors.good(signers, wanted.root, now) or self._donors.good(others, wanted.root, now)
        donor = self._donor(good or [*signers, *others], wanted.root, now)
        return self._fetch_update(wanted.root, wanted.update_bytes, donor)

    def _fetch_update(self, root: bytes, update_bytes: int, donor: str | None) -> list[Out]:
        if donor is None:
            return []
        self._fetching = root
        return [FetchUpdate(root, update_bytes, donor)]

    def _ask_snapshot(self, head: Head, now: float) -> list[Out]:
        """The newest state that some donor serves and our log proves; not before the log is as long as it gets."""
        if self._ahead(head, now) and not self._ask_retry.failing:
            return []
        offers = self._offers(head, now)
        for round_ in self.own_snapshots:
            own = self._donors.good([self._context.peer], -1 if round_ == 0 else round_, now)
            if own:
                offers[-1 if round_ == 0 else round_] = own
        provable = sorted((r for r in offers if self.window.proven(r) and r > self.applied), reverse=True)
        fresh = [r for r in provable if self._donors.good(offers[r], r, now)]
        for round_ in (fresh or provable)[:1]:
            digest, donor = self.window.proven(round_), self._donor(offers[round_], round_, now)
            if donor is not None and digest is not None:
                self._fetching = round_
                self._serving = (donor, *self._others(offers[round_], donor, round_, now))
                more = f" and {len(self._serving) - 1} more" if len(self._serving) > 1 else ""
                note = Note("catchup", f"fetching {state_name(round_)} from {donor}{more}")
                return [note, FetchSnapshot(round_, digest, donor, self._serving[1:])]
        return []

    def _offers(self, head: Head, now: float) -> dict[int, list[str]]:
        """By round, who says to serve its state."""
        offers: dict[int, list[str]] = {}
        for peer, beacon in self._members.alive_beacons(now).items():
            if beacon.generation == head.generation or head.round == -1:
                for round_ in beacon.snapshots:  # the first parameters are served as round 0
                    offers.setdefault(-1 if round_ == 0 else round_, []).append(peer)
        return offers

    def _more_donors(self, head: Head, now: float) -> list[Out]:
        """Of the state that is being fetched: those that were not known, or did not have it, when it began."""
        round_, room = self._fetching, limits.SNAPSHOT_DONORS_MAX - len(self._serving)
        if not isinstance(round_, int) or room <= 0 or self._context.peer in self._serving:
            return []
        offering = [peer for peer in self._offers(head, now).get(round_, ()) if peer not in self._serving]
        more = tuple(self._donors.good(offering, round_, now)[:room])
        self._serving += more
        return [OfferDonors(round_, more)] if more else []

    def _others(self, offering: list[str], donor: str, round_: int, now: float) -> tuple[str, ...]:
        """Those that serve it beside the donor; by lot where there are more than a fetch has room for."""
        good = [peer for peer in self._donors.good(offering, round_, now) if peer != donor]
        most = limits.SNAPSHOT_DONORS_MAX - 1
        return tuple(good if len(good) <= most else self._context.rng.sample(good, most))

    def _donor(self, donors: list[str], what: object, now: float) -> str | None:
        return self._donors.pick(donors, what, now)

    # ---- inside

    def _fetched(self) -> None:
        self._fetching, self._misses = None, 0
        self._fetch_retry.succeeded()

    def _missed(self, donor: str, what: object, now: float) -> None:
        if self._fetching == what:
            self._fetching = None
        self._donors.failed(donor, what, now)
        self._fetch_retry.failed(now)
