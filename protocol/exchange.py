"""This host's part in the transfers of one decision: the plan it follows, results it holds, what it sees move.

Owns plans and results; rules SPEC C1-C6, and E4: of a plan in groups the part that it is in. The transfer is outside
the agreement: its id is the hash of what it computes, so an equal one under a later ballot is the same one. Refuses to
know how bytes move, and votes.
"""

from intellectd.protocol import limits
from intellectd.protocol.collectives import allowed, misfit, parts
from intellectd.protocol.context import Context
from intellectd.protocol.effects import AbortTransfer, Out, StartTransfer, To
from intellectd.protocol.entries import BadRecord, Collective, Member, transfer_id
from intellectd.protocol.head import Head
from intellectd.protocol.ids import Ballot
from intellectd.protocol.messages import Abort, Plan, Ready, Result
from intellectd.protocol.moments import LONG_AGO
from intellectd.protocol.records import result_bytes
from intellectd.protocol.warmup import misweighed


class Exchange:
    def __init__(self, context: Context, head: Head) -> None:
        self._context, self._head = context, head
        self._timers = context.config.timers
        self.plan: Plan | None = None
        self.followed: Plan | None = None  # the newest, given up or not: a late one from an old leader starts nothing
        self.told_at = LONG_AGO  # when it was first heard of
        # What was named last: its parts (itself, but of a plan in groups), and as what.
        self._named: list[tuple[Collective, list[tuple[bytes, Collective]]]] = []
        self._started: dict[bytes, Collective] = {}  # the newest TRANSFERS_KEPT
        self._results: dict[bytes, Result] = {}  # on disk here, by transfer
        self._moved: dict[str, tuple[bytes, int]] = {}

    @property
    def running(self) -> bytes | None:
        """The transfer under way here."""
        if self.plan is None:
            return None
        transfer, _ = self._mine(self.plan)
        return None if transfer in self._results else transfer

    @property
    def newest(self) -> Ballot | None:
        return self.followed.ballot if self.followed else None

    def named(self, collective: Collective) -> list[tuple[bytes, Collective]]:
        """(id, what is computed) of each of its parts."""
        for known, named in self._named:  # asked with every event, of up to 1,024 members
            if known is collective:
                return named
        at, codec = self._head.at, self._head.codec
        named = [(transfer_id(at, part, codec), part) for part in parts(collective)]
        self._named = [(collective, named), *self._named[:1]]
        return named

    def _mine(self, plan: Plan) -> tuple[bytes, Collective]:
        """The part of a plan that this host is in, which it is if it follows it."""
        named, me = self.named(plan.collective), self._context.peer
        if len(named) == 1:
            return named[0]
        return next((t, part) for t, part in named if any(m.peer == me for m in part.members))

    def completed(self) -> Collective | None:
        """Of the newest transfer whose result is on disk here. Who plans groups finds them by drawing alone."""
        if self._head.groups:
            return None
        done = [self._started[t] for t in self._results if t in self._started]
        return done[-1] if done else None

    def part_of(self, ballot: Ballot, peer: str) -> list[str]:
        """Who computes together with this peer, by the plan of this ballot that is followed here."""
        if self.followed is None or self.followed.ballot != ballot:
            return []
        found = [[m.peer for m in part.members] for _, part in self.named(self.followed.collective)]
        return next((peers for peers in found if peer in peers), [])

    # ---- plans

    def check(self, plan: Plan) -> None:
        """Raises BadRecord when no leader that keeps the rules sends this."""
        peers = [m.peer for m in plan.members]
        if len(dict.fromkeys(peers)) != len(peers):
            raise BadRecord("a member is planned twice")
        if any(self._head.assignment(m.peer) is None for m in plan.members):
            raise BadRecord("a member that is not eligible is planned")
        if plan.codec != self._head.codec:
            raise BadRecord(f"the plan's codec {plan.codec} is not this round's")
        wrong = misfit(plan.collective, allowed(self._head.config.outer), self._head.groups)
        if wrong:
            raise BadRecord(wrong)
        if misweighed(parts(plan.collective), self._head.warming):
            raise BadRecord("a member is planned without tokens, or counts while it warms up")

    def follow(self, plan: Plan, own_ready: Ready | None, now: float) -> list[Out]:
        """Take part as planned. An equal transfer is not begun again; what was finished is said again."""
        if self.newest is not None and plan.ballot < self.newest:
            return []
        (transfer, part), running = self._mine(plan), self.running
        mine = next(m for m in plan.members if m.peer == self._context.peer)
        known = transfer in self._results or running == transfer
        tokens = own_ready.tokens if own_ready and mine.tokens else 0  # none, while this host warms up
        if not known and (own_ready is None or mine != Member(mine.peer, tokens, own_ready.delta_root)):
            no = Abort(self._head.at, plan.ballot, self._context.peer, False, "my delta is another")
            return [To(plan.ballot.leader, no)]
        self.told_at = now if plan.ballot != self.newest else self.told_at
        self.plan = self.followed = plan
        if transfer in self._results:
            return [*self._stop(running), To(plan.ballot.leader, self._results[transfer])]
        if running == transfer:
            return []
        return [*self._stop(running), self._start(transfer, part, plan.codec)]

    def stop(self) -> list[Out]:
        """The plan is given up; inputs and finished results are kept."""
        running, self.plan = self.running, None
        return self._stop(running)

    def leave(self) -> None:
        """Our own transfer is over without a result; nothing is left to abort."""
        self.plan = None

    # ---- news of transfers

    def ended(self, transfer: bytes, root: bytes, update_bytes: int) -> list[Out]:
        """The result's bytes are on disk here: sign it, whether or not its plan still stands."""
        if transfer not in self._started:
            return []
        signature = self._context.crypto.sign(result_bytes(self._head.run, self._head.at, transfer, root))
        result = self._results[transfer] = Result(self._head.at, transfer, root, update_bytes, signature)
        planned = self.plan is not None and self._mine(self.plan)[0] == transfer
        return [To(self.plan.ballot.leader, result)] if self.plan and planned else []

    def is_running(self, transfer: bytes) -> bool:
        return transfer == self.running

    def peer_moved(self, peer: str, transfer: bytes, done_bytes: int, led: Collective | None) -> bool:
        """A beacon says how far a peer's part is: is that progress of the transfer we know, or could be part of?"""
        known = [t for c in (self.plan.collective if self.plan else None, led) if c for t, _ in self.named(c)]
        ours = transfer in known if known else self._head.assignment(peer) is not None
        before, done = self._moved.get(peer, (b"", -1))
        if not ours:
            return False
        if self._head.assignment(peer) is not None:  # less than before: it was begun anew, and goes on from there
            self._moved[peer] = (transfer, done_bytes)
        return before != transfer or done_bytes > done

    def shown(self, peer: str) -> bytes | None:
        """The last transfer of this decision that the peer's beacons have shown."""
        return self._moved.get(peer, (None, 0))[0]

    # ---- inside

    def _start(self, transfer: bytes, part: Collective, codec: str) -> StartTransfer:
        self._started.pop(transfer, None)
        self._started[transfer] = part
        while len(self._started) > limits.TRANSFERS_KEPT:
            oldest = next(iter(self._started))
            del self._started[oldest]
            self._results.pop(oldest, None)
        peers, weights = tuple(m.peer for m in part.members), tuple(m.tokens for m in part.members)
        timers, schedule, shape = self._timers, part.schedule, tuple(part.shape)
        return StartTransfer(transfer, peers, weights, codec, timers.stall_s, timers.transfer_s, schedule, shape)

    def _stop(self, running: bytes | None) -> list[Out]:
        return [AbortTransfer(running)] if running is not None else []
