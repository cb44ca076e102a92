"""Which attempt of a decision it is, whose turn, and whether one still moves. SPEC A2, A5, A11.

Owns the clocks of one decision. Liveness only: whatever is chosen here, the acceptor keeps history one. Refuses
to know what an attempt does.
"""

from collections.abc import Callable

from intellectd.protocol import limits
from intellectd.protocol.context import leader_of
from intellectd.protocol.head import Head
from intellectd.protocol.ids import Ballot
from intellectd.protocol.manifest import Timers
from intellectd.protocol.moments import LONG_AGO, soonest
from intellectd.protocol.seat import NO_BALLOT


class Attempts:
    def __init__(self, me: str, head: Head, timers: Timers, promised: Ballot | None, now: float) -> None:
        self._me, self._head, self._timers, self._since = me, head, timers, now
        self.number = promised.attempt if promised else 0
        self._heeds = max(limits.ATTEMPTS_AHEAD_MAX, self.number)  # at first
        self.startable_at: float | None = None  # since when the round could be decided
        self._moved_at = LONG_AGO
        self._waits_until = LONG_AGO
        self._failures = 0
        self._phase = NO_BALLOT, -1  # of the attempt under way, as far as it was heard of here
        self._began_at: float | None = None  # that one

    # ---- what happens to the attempt under way

    def moved(self, now: float) -> None:
        self._moved_at = now

    def heard(self, now: float) -> None:
        """Somebody says that it moves. That costs nothing, so it counts for no longer than a transfer may take."""
        self._began_at = now if self._began_at is None else self._began_at
        if now - self._began_at < self._timers.transfer_s:
            self._moved_at = now

    def follow(self, ballot: Ballot, phase: int, now: float) -> None:
        """A ballot at least as high as ours is under way: asked for a promise, planned, or voted on (0 to 2). What is
        said again, by its leader or by whoever kept it, is no progress."""
        self.number = max(self.number, ballot.attempt)
        if (ballot, phase) > self._phase:
            self._began_at = now if ballot != self._phase[0] else self._began_at
            self._phase, self._moved_at = (ballot, phase), now

    def higher(self, ballot: Ballot, now: float) -> None:
        """Somebody promised this one: ours must be above it to be heard."""
        if not self.far_fetched(ballot, now):
            self.number = max(self.number, ballot.attempt)

    def far_fetched(self, ballot: Ballot, now: float) -> bool:
        """So many attempts have not been tried. Claims must not use up the numbers of all that may follow, nor lead one
        voter to where another does not heed it: so the bound moves with time, and not with what is claimed (A2)."""
        return ballot.attempt > self._heeds + limits.ATTEMPTS_PER_S_MAX * (now - self._since)

    def failed(self, attempt: int, now: float, again: bool = False) -> None:
        """It ended without a decision. The first retry is at once; from then on with growing pauses. `again`: said once
        more of the same attempt."""
        self._moved_at = LONG_AGO
        if again:
            return
        self.number = max(self.number, attempt + 1)
        self.startable_at = now
        self._failures += 1
        if self._failures > 1:
            pause = limits.RETRY_MIN_S * 2 ** min(self._failures - 2, limits.EXCLUSION_DOUBLINGS_MAX)
            self._waits_until = now + min(pause, limits.RETRY_MAX_S)

    def startable(self, may: bool, now: float) -> None:
        if not may:
            self.startable_at = None
        elif self.startable_at is None:
            self.startable_at = now

    def resumes_at(self, now: float) -> float:
        """When the next one may begin: now, or after the pause."""
        return max(now, self._waits_until)

    # ---- judgements

    def expired(self, now: float) -> bool:
        """Nothing moved for attempt_s."""
        return now - self._moved_at >= self._timers.attempt_s

    def busy(self, promised: Ballot | None, now: float) -> str | None:
        """Why a higher ballot is refused: the attempt under way still moves (A5)."""
        if promised is None or self.expired(now):
            return None
        return f"attempt {promised.attempt} still makes progress"

    def my_turn(self, promised: Ballot | None, alive: Callable[[str], bool], now: float) -> bool:
        """Is the current attempt ours to lead? Passes over leaders that are away or have had their time."""
        if self.busy(promised, now) or now < self._waits_until:
            return False
        for _ in range(len(self._head.voters) + 1):
            leader = leader_of(self._head.voters, self._head.hash, self.number)
            spent = promised is not None and promised.attempt >= self.number
            if leader == self._me and not spent:
                return not self.far_fetched(Ballot(self.number, self._me), now)  # nobody would heed it, nor we
            if leader != self._me and alive(leader) and not self._stalled(now):
                return False
            if leader != self._me or self._stalled(now):
                self.startable_at = now  # the next one has its time from here
            self.number += 1
        return False

    def _stalled(self, now: float) -> bool:
        """Expired, and the round could have been decided all that time. A pause is nobody's time, nor is that of an
        attempt before the current one: were it the next leader's, its successor would begin together with it, and two
        would refuse each other for ever."""
        since = now if self.startable_at is None else self.startable_at
        return now - max(self._moved_until, since, self._waits_until) >= self._timers.attempt_s

    @property
    def _moved_until(self) -> float:
        """When the current attempt last moved; or when one before it that was under way expired, or will."""
        before = self._phase[0].attempt < self.number
        return self._moved_at + self._timers.attempt_s if before else self._moved_at

    def deadline(self, now: float) -> float:
        attempt_s = self._timers.attempt_s
        times = [self._moved_at + attempt_s, self._moved_until + attempt_s]
        times += [self._waits_until, self._waits_until + attempt_s]
        if self.startable_at is not None:
            times.append(self.startable_at + attempt_s)
        if self.number > self._heeds:
            times.append(self._since + (self.number - self._heeds) / limits.ATTEMPTS_PER_S_MAX)
        return soonest(times, now)
