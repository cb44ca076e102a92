"""One host in the small: the production Round, its journal and its log.

Owns what Node does around a Round that agreement rests on: the hash gate, messages to oneself in place, what is
durable before what is said, and the next head. Refuses to choose: whoever searches says what happens next.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from intellectd.protocol import effects as ef
from intellectd.protocol import messages as m
from intellectd.protocol.context import Context, leader_of
from intellectd.protocol.entries import Entry
from intellectd.protocol.ids import NO_HASH, At
from intellectd.protocol.leader import PREPARE
from intellectd.protocol.records import BadRecord, check_entry
from intellectd.protocol.round import Round, WrongSender
from tests.sim.small import (
    NOW,
    RUN,
    WAITED,
    Company,
    Disk,
    Event,
    Fetch,
    Lead,
    Learn,
    Small,
    Take,
    Wait,
    Whenever,
    update_of,
)
from tests.sim.tags import TagCrypto
from tests.sim.violation import Violation


class SmallHost:
    def __init__(self, world: Small, name: str, disk: Disk) -> None:
        """A start, or a start after a crash: nothing is known but what is on the disk."""
        self.world, self.name, self.disk = world, name, disk
        self.context = Context(name, RUN, world.manifest, world.config, TagCrypto(name), Random(0))
        self.head = world.head(disk.entries)
        self._effects: list[ef.Out] = []
        self._begin(disk.vote)
        self._finish([])

    def handle(self, event: Event) -> list[ef.Out]:
        """What it does, in order; `disk` is what that leaves there."""
        self._effects = []
        match event:
            case Take():
                self._finish(self._take(event.sender, event.message))
            case Learn():
                self._finish(self._learn(event.entry))
            case Fetch():
                self._holds(event.root)
                self._finish(self.round.on_update_held(NOW))
            case Wait():
                self._finish([], WAITED)
            case Lead():
                self._lead(event.attempt)
        return self._effects

    # ---- what may happen here next, but for messages

    def choices(self, rounds: int, ballots: int) -> Iterator[Event]:
        attempt, promised = self.round.leading.attempt, self.round.parts.acceptor.promised
        if len(self.disk.entries) >= rounds:
            return
        for number in range(ballots):
            above = promised is None or number > promised.attempt
            if above and self.name == leader_of(self.head.voters, self.head.hash, number):
                yield Lead(number)
        if attempt is not None and attempt.phase == PREPARE and attempt.quorum_at is not None:
            yield Wait()
        if self.round.wanted is not None:
            yield Fetch(self.round.wanted.root)

    # ---- inside

    def _begin(self, vote: ef.PersistVote | None) -> None:
        company = Company(self.world, self.name)
        company.head = self.head
        held = dict.fromkeys(self.disk.held, True)
        self.round = Round(self.context, self.head, company, 0.0, vote, held)  # type: ignore[arg-type]
        parts = self.round.parts
        parts.attempts = Whenever(self.name, self.head, parts.timers, parts.acceptor.promised, 0.0)
        self.company, self._held = company, held
        self.round.tell(self.world.ready(self.head, self.name), able=True, leaving=False, abstains=False)
        self.round.standing(0.0)
        assigned = [a.peer for a in self.head.blob.assignments]
        ring = [self.name, *(p for p in assigned if p != self.name)] if self.name in assigned else assigned
        for peer in ring[self.world.ring :]:
            parts.suspicion.accuse("", peer, False, True, NOW)  # so each leader would plan another ring

    def _lead(self, attempt: int) -> None:
        parts = self.round.parts
        if self.round.leading.attempt is not None:
            parts.attempts.over = True
            self._finish([])
            parts.attempts.over = False
        self.company.attempt = attempt
        parts.attempts.turn = attempt
        self._finish([])

    def _take(self, sender: str, message: Any) -> list[ef.Out]:
        if message.at != self.head.at:
            return []  # the hash gate: an answer would be a record, and those come at any time anyway
        try:
            return self.round.take(sender, message, NOW)
        except (WrongSender, BadRecord) as error:
            raise Violation(f"{self.name} blames {sender}: {error}") from error

    def _learn(self, entry: Entry) -> list[ef.Out]:
        record = entry.record
        if At(record.generation, record.round, record.parent) != self.head.at:
            return []
        check_entry(self.head, entry, self.context.crypto)
        return self._decide(entry)

    def _decide(self, entry: Entry) -> list[ef.Out]:
        self._do(ef.AppendEntry(entry))
        self.head = self.world.head(self.disk.entries)
        self._begin(None)
        return []

    def _finish(self, out: list[ef.Out], now: float = NOW) -> None:
        """As Node: what is for ourselves in place, then whatever has become due."""
        self._stands()
        while True:
            self._sent(out, now)
            if self.round.decided is not None:
                entry, self.round.decided = self.round.decided, None
                out = self._decide(entry)
                self._stands()
                continue
            out = self.round.evaluate(now)
            if self.round.take_divergence():
                raise Violation(f"{self.name} stands elsewhere than a quorum")
            if not out:
                return

    def _stands(self) -> None:
        """The state is applied as soon as the record is logged."""
        if self.round.state_digest is None:
            self._sent(self.round.on_applied(self.world.digests[self.head.hash], NOW), NOW)

    def _sent(self, out: list[ef.Out], now: float) -> None:
        queue = list(out)
        while queue:
            item = queue.pop(0)
            if isinstance(item, ef.To) and item.peer == self.name:
                if isinstance(item.message, m.Accepted):
                    self._do(item)  # a vote counts, whoever it is said to
                queue[0:0] = self._take(self.name, item.message)
                continue
            self._do(item)
            if isinstance(item, ef.StartTransfer):  # it is over at once
                root = update_of(item.transfer)
                self._holds(root)
                queue[0:0] = self.round.on_transfer_ended(item.transfer, root, self.head.update_bytes, now)

    def _holds(self, root: bytes) -> None:
        self.disk = self.disk.holding(root)
        self._held[root] = True

    def _do(self, effect: ef.Out) -> None:
        if isinstance(effect, ef.Halt):
            raise Violation(f"{self.name} halts: {effect.reason}")
        if isinstance(effect, ef.ApplyUpdate) and effect.round > self.head.round:
            raise Violation(f"{self.name} applies round {effect.round}, which is not decided")
        if isinstance(effect, ef.To):
            if isinstance(effect.message, m.Refuse) and not self.world.refusals:
                return
            self._knows(effect.message)
        if not isinstance(effect, ef.Note):
            self.disk = self.disk.after(effect)
            self._effects.append(effect)

    def _knows(self, message: m.AnyMessage) -> None:
        """What a voter says lies on its disk before."""
        vote = self.disk.vote
        if isinstance(message, m.Promise) and (vote is None or vote.promised < message.ballot):
            raise Violation(f"{self.name} promises what its disk does not know")
        if not isinstance(message, m.Accepted):
            return
        if vote is None or vote.accepted is None or vote.accepted_ballot != message.ballot:
            raise Violation(f"{self.name} votes and its disk does not know")
        if vote.accepted.record.update_root not in (NO_HASH, *self.disk.held):
            raise Violation(f"{self.name} votes for an update that it does not hold")
