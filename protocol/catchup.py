"""From whatever state this host has to the head of the log: records, state, updates. SPEC K*.

Owns what is missing and what is applied next. One path for all: a joiner, a restart, a missed commit, a vote that
waits for bytes. `states.py` and `updates.py` own whom to ask for either. Refuses to know how bytes travel; verification
of records is records.py's, of bytes the shell's, against the digests that this machine names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from intellectd.protocol import limits
from intellectd.protocol.context import Context
from intellectd.protocol.donors import Donors, Retry
from intellectd.protocol.effects import AskEntries, Note, Out, PeerFault
from intellectd.protocol.entries import Entry
from intellectd.protocol.events import DonorFault, SnapshotMissed, UpdateMissed
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH
from intellectd.protocol.membership import Membership
from intellectd.protocol.moments import NEVER, soonest
from intellectd.protocol.pace import Left, Pace, Way
from intellectd.protocol.pin import Pin
from intellectd.protocol.states import States
from intellectd.protocol.updates import Updates
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
    def __init__(self, context: Context, membership: Membership, applied: int, pin: bytes | None = None) -> None:
        self._context, self._members, self.pin = context, membership, Pin(pin)
        self.applied = applied
        self.window = Window(context.peer, context.manifest.state_digest)
        self.applying: int | None = None
        self.awaited_transfer = NO_HASH  # our own transfer may still bring the bytes of the newest record
        self._asking: str | None = None  # an AskEntries under way
        self._donors, self.pace = Donors(context.rng), Pace()
        self.states = States(context, membership, self.window, self._donors, self.pace)
        self.updates = Updates(context, self._donors, self.pace)
        self._ask_retry, self._fetch_retry = Retry(), Retry()
        self._told_slow = False
        self._ahead_at: tuple[int, Head] | None = None  # as of which turn `_ahead_there` was looked up
        self._ahead_there: dict[str, int] = {}
        self._boasts: dict[str, None] = {}  # who of these gave nothing when it was asked for that last

    @property
    def has_state(self) -> bool:
        return self.applied > NO_STATE

    @property
    def held(self) -> dict[bytes, bool]:
        """Updates on disk here."""
        return self.window.held

    @property
    def joins(self) -> bool:
        """There is no state here, or none that may be used."""
        return not self.has_state or not self.pin.found

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
        return self.window.reach(self.applied) if self.has_state else self.states.reach()

    def can_rework(self, head: Head, now: float) -> bool:
        """Is the head's state, which nothing has proven yet, to be had again from what is proven and on this disk?"""
        return self.window.proven(head.round) is None and self.states.reach(now) == head.round

    def found_nowhere(self, head: Head, now: float) -> int | None:
        """The next round to apply, if its update is neither here nor at anybody of this line who is heard."""
        missing = self.window.get(self.applied + 1) if self.has_state else None
        if missing is None or missing.groups or self.window.holds(missing) or not self._members.has_listened(now):
            return None
        alive = self._members.alive_beacons(now).values()
        there = any(b.generation == head.generation and b.applied > self.applied for b in alive)
        return None if there else missing.record.round

    def on_applied(self, round_: int, now: float) -> bool:
        """False when that was not what we waited for: the state has been replaced meanwhile."""
        if round_ != self.applying:
            return False
        self.applied, self.applying = round_, None
        self.updates.done(round_)
        self.pace.applied(now)
        return True

    def on_snapshot(self, round_: int, came_bytes: int, now: float) -> bool:
        """False when it was asked for before another line of history was taken: it is of no use."""
        self.states.installed(came_bytes, self.updates.idle, now)
        self._fetch_retry.succeeded()
        if self.states.void:
            self.states.void = False
            self.drop_state()
            return False
        self.applied, self.applying = round_, None
        self.updates.done(round_)
        return True

    def on_snapshot_missed(self, event: SnapshotMissed, now: float) -> list[Out]:
        self.states.missed(event.round, event.donor, event.kept_bytes, now)
        self.pace.came(0, self.updates.idle, now)
        self._fetch_retry.failed(now)
        return [Note("snapshot_missed", f"state from {event.donor}: {event.reason}", "warning")]

    def on_donor_fault(self, event: DonorFault, now: float) -> list[Out]:
        """The fetch goes on without it; the next one asks it last."""
        self._donors.failed(event.donor, event.round, now)
        return [PeerFault(event.donor, "piece", event.reason)]

    def on_update_held(self, root: bytes, now: float) -> None:
        self.window.hold(root)
        if self.updates.held(root, self.states.fetching is None, now):
            self._fetch_retry.succeeded()

    def on_update_missed(self, event: UpdateMissed, now: float) -> list[Out]:
        """Not there; also said of an update that was thought to be on disk here and is not."""
        root = event.root
        self.window.lost(root)
        decided, applying = self.window.get(self.applying) if self.applying is not None else None, None
        if decided is not None and root in decided.roots:
            applying, self.applying = self.applying, None
        self.updates.missed(root, event.donor, applying, self.states.fetching is None, now)
        self._fetch_retry.failed(now)
        return [Note("update_missed", f"update from {event.donor}: {event.reason}", "warning")]

    def on_entries(self, useful: bool, now: float) -> None:
        asked, self._asking = self._asking, None
        if useful:
            self._ask_retry.succeeded()
            self._boasts.pop(asked or "", None)
        else:
            self._ask_retry.failed(now)
            self._donors.failed(asked or "", RECORDS, now)
            self._boasts |= {asked: None} if asked in self._ahead_there else {}

    def drop_state(self) -> None:
        """Our state is not the agreed one: begin again from a snapshot."""
        self.applied, self.applying = NO_STATE, None

    def on_branch(self) -> None:
        """What was asked for is an answer about another generation: it is not waited for."""
        self._asking = None

    def cut(self, round_: int) -> bool:
        """The log is left after this round. False when the state went further and is of no use now."""
        self.window.cut(round_)
        self.pin.cut(round_)
        self.states.cut(round_)
        self.updates.done(max(round_, 0))
        self._asking = None
        good = max(self.applied, self.applied if self.applying is None else self.applying) <= round_
        if not good:
            self.drop_state()
        return good

    # ---- what is due

    def evaluate(
        self, head: Head, now: float, wanted: Wanted | None = None, bound: bool = False
    ) -> tuple[list[Out], Decided | None]:
        """(requests to make, the next round to apply now or None). `bound`: for another line, no more of this one."""
        if not self._ahead(head, now) and self._members.has_listened(now):
            self.pace.level(head.round, now)
        asked = [] if bound else self._ask_records(head, now)
        if not self.pin.found:
            return asked, None
        out = asked + self.states.more_donors(head, now) + self._say_slow(head)
        missing = self.window.get(self.applied + 1) if self.has_state and self.applying is None else None
        ready = missing is not None and (self.window.holds(missing) or self._does_without(missing, head, now))
        if missing is not None and ready and self.states.fetching is None:
            self.applying = missing.record.round
            self.pace.begins_to_apply(now)
            return out, missing
        if now >= self._fetch_retry.at:
            out += self._fetch(head, now) or self._ask_wanted(head, wanted, now)
        return out, None

    def deadline(self, now: float) -> float:
        return soonest([self._ask_retry.at, self._fetch_retry.at, self.updates.late_at], now)

    # ---- requests

    def _ahead(self, head: Head, now: float) -> dict[str, int]:
        alive, known = self._members.alive_beacons(now), self._ahead_at
        if known is None or known[0] != self._members.turns or known[1] is not head:
            self._ahead_at = (self._members.turns, head)
            round_, ours = head.round, head.generation
            self._ahead_there = {
                peer: beacon.head_round
                for peer, beacon in alive.items()
                # Of a thousand few are ahead.
                if beacon.head_round > round_ and beacon.generation == ours and self.pin.hears(peer, now)
            }
            self._boasts = {peer: None for peer in self._boasts if peer in self._ahead_there}
        return self._ahead_there

    def ahead(self, head: Head, now: float) -> dict[str, int]:
        """Who has more of the log, and how much, as far as that is not only claimed: whoever gave nothing when it was
        asked is heeded again when it gives something."""
        return {peer: round_ for peer, round_ in self._ahead(head, now).items() if peer not in self._boasts}

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

    def reads(self, head: Head, now: float) -> bool:
        """Is there more of the log to be had, as far as anybody shows and gives it?"""
        return self._asking is not None or (bool(self._ahead(head, now)) and not self._ask_retry.failing)

    def _reads_far(self, head: Head, now: float) -> bool:
        """Does the log go on by so much that which way is the shortest cannot be told yet?"""
        if self._ask_retry.failing:
            return False
        ahead = self._ahead(head, now)
        near = max(head.round, self.applied + limits.CARRY_ROUNDS_MAX)
        return any(ahead[peer] > near for peer in self._donors.good(list(ahead), RECORDS, now))

    def _fetch(self, head: Head, now: float) -> list[Out]:
        """A state where one is needed or quicker, and the updates after the state that is here or on its way."""
        under_way = self.states.fetching
        if under_way is None and (not self.has_state or self._before_window(head)):
            # Not before the log is as long as it gets.
            return [] if self._ahead(head, now) and not self._ask_retry.failing else self._ask_state(head, now)
        if under_way is None and self.applied < head.round:
            if self._reads_far(head, now):
                return []
            asked = self.states.ask_if_quicker(head, self.applied, now) or self._ask_pruned(head, now)
            if asked:
                return asked
        return self._ask_updates(self.applied if under_way is None else under_way, head, now)

    def _before_window(self, head: Head) -> bool:
        return self.applied < head.round and self.window.get(self.applied + 1) is None

    def _ask_state(self, head: Head, now: float) -> list[Out]:
        return self.states.ask(head, self.applied, now)

    def _having(self, head: Head, round_: int, now: float) -> tuple[list[str], bool]:
        """(who says to have this round's update, is there anybody who has applied it)."""
        have = {
            peer: beacon.updates_from
            for peer, beacon in self._members.alive_beacons(now).items()
            if beacon.generation == head.generation and beacon.applied >= round_
        }
        return [peer for peer, updates_from in have.items() if updates_from <= round_], bool(have)

    def _ask_pruned(self, head: Head, now: float) -> list[Out]:
        """The next update is pruned wherever we can ask, or nobody gives it: only a state leads on."""
        missing = self.window.get(self.applied + 1)
        if missing is None or missing.groups or self._comes(missing) or self.window.holds(missing):
            return []
        keep, applied = self._having(head, missing.record.round, now)
        gone = (applied and not keep) or self.updates.misses(missing.record.round) >= limits.UPDATE_MISSES_MAX
        if not gone or (self._ahead(head, now) and not self._ask_retry.failing):
            return []
        return self._ask_state(head, now)

    def _ask_updates(self, base: int, head: Head, now: float) -> list[Out]:
        """Those after `base`, so many at once that several donors have something to give (K13)."""
        out: list[Out] = []
        self.updates.late_at = NEVER
        ahead = min(
            limits.UPDATES_AHEAD_MAX, max(limits.UPDATES_AHEAD_MIN, head.state_bytes // max(1, head.update_bytes))
        )
        for round_ in range(base + 1, min(base + ahead, head.round) + 1):
            decided = self.window.get(round_)
            if decided is None:
                break
            record = decided.record
            if self.window.holds(decided) or self._comes(decided):
                continue
            if decided.groups:
                out += self._ask_group(decided, head, now) if round_ == self.applied + 1 else []
                continue
            under_way, is_next = record.update_root in self.updates, round_ == self.applied + 1
            if under_way and not is_next:
                continue
            having = self._having(head, round_, now)[0]  # it looks through all peers
            if under_way:
                out += self.updates.ask_elsewhere(record.update_root, having, now)
            else:
                out += self.updates.ask(round_, record.update_root, record.update_bytes, having, now)
        return out

    def _comes(self, decided: Decided) -> bool:
        """Our own transfer may still bring it."""
        return decided.transfer != NO_HASH and decided.transfer == self.awaited_transfer

    # ---- of gossip rounds (E5)

    def _does_without(self, decided: Decided, head: Head, now: float) -> bool:
        """A gossip round changes this host's anchor alone. It does without if a later record is there, if nobody here
        has any of its groups' updates, or if those that it asked for did not come: nobody is stuck."""
        if not decided.groups or self._comes(decided):
            return False
        round_ = decided.record.round
        if round_ < head.round or self.updates.misses(round_) >= limits.UPDATE_MISSES_MAX * self._tried(decided):
            return True
        return self._members.has_listened(now) and not any(self._there(m, now) for _, m in decided.groups)

    def _tried(self, decided: Decided) -> int:
        return min(len(decided.groups), limits.GROUPS_TRIED_MAX)

    def _there(self, members: Sequence[str], now: float) -> list[str]:
        alive = self._members.alive_beacons(now)
        return [peer for peer in members if peer in alive]

    def _ask_group(self, decided: Decided, head: Head, now: float) -> list[Out]:
        """The update of the next group whose members are here; each has its tries."""
        if decided.record.round < head.round or any(root in self.updates for root in decided.roots):
            return []
        turn = self.updates.misses(decided.record.round) // limits.UPDATE_MISSES_MAX
        for root, members in [*decided.groups[turn:], *decided.groups[:turn]]:
            here = self._there(members, now)
            if here:
                return self.updates.ask(decided.record.round, root, decided.record.update_bytes, here, now)
        return []

    def _ask_wanted(self, head: Head, wanted: Wanted | None, now: float) -> list[Out]:
        if wanted is None or self.applied != head.round or wanted.root in self.updates:
            return []
        alive = self._members.alive_beacons(now)
        signers = [peer for peer in dict.fromkeys(wanted.signers) if peer in alive]
        others = [peer for peer in dict.fromkeys(wanted.others) if peer in alive and peer not in signers]
        good = self._donors.good(signers, wanted.root, now) or self._donors.good(others, wanted.root, now)
        donors = good or [*signers, *others]
        return self.updates.ask(head.round + 1, wanted.root, wanted.update_bytes, donors, now)

    # ---- for people

    @property
    def fetches(self) -> bool:
        """Is a state, or an update, on its way here?"""
        return self.states.fetching is not None or not self.updates.idle

    def left(self, head: Head, came: Mapping[bytes, int], seen: float | None, now: float) -> Left | None:
        """Until this host stands at the head (K12). `came`: bytes that are here of what is on its way, by the digest of
        a state or the root of an update; `seen`: bytes a second of these. None while the plan is not made."""
        base = self.states.fetching
        if base is None:
            base = self.applied
            if not self.has_state or not self.pin.found or self._reads_far(head, now):
                return None
        after = self.states.updates_after(base, head)
        if after is None:
            return None
        here = sum(min(size, came.get(root, 0)) for root, size in self.updates.under_way.items())
        way = Way(self.states.left_bytes(head, came), max(0, after.update_bytes - here), after.applies)
        return Left(way.bytes, self.pace.seconds_left(way, head.update_bytes, seen))

    def _say_slow(self, head: Head) -> list[Out]:
        """Once a catch-up: that a host which gets further behind with each round is not going to stand at the head."""
        if self.applied >= head.round - 1:
            self._told_slow = False
            return []
        size = head.update_bytes
        if self._told_slow or not self.pace.falls_behind(size):
            return []
        self._told_slow = True
        cost_s, round_s = self.pace.round_cost_s(size) or 0.0, self.pace.round_s or 0.0
        text = (
            f"this host takes {cost_s:.1f} s to fetch and apply a round, and the run decides one in {round_s:.1f} s: "
            "it goes on from one state to a newer one, and takes part when it gets quicker or the rounds longer"
        )
        return [Note("falls_behind", text, "warning")]
