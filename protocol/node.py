"""One host's part in one run: routes events to the machines and keeps them agreed on the head. SPEC N*.

The map of the protocol:

    event ──▶ Node ──▶ Membership   who is here, alive, where
                  ├──▶ Round        the decision that comes next (votes, the attempt led here, the transfer)
                  ├──▶ Catchup      records, snapshot and updates that are missing; what to apply
                  ├──▶ Progress     the trainer, its delta, and work that was left out
                  └──▶ Branching    a lost quorum, and better lines of history

Owns the order of effects: what must be durable comes first. Refuses to know sockets, clocks and tensors. After each
event that may make something due the parts are asked, in a fixed order; `deadline` says when to send a Tick.
"""

from typing import Literal, assert_never

from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol.effects import (
    ApplyUpdate,
    Effect,
    FetchSnapshot,
    FetchUpdate,
    Halt,
    Note,
    Out,
    PeerFault,
    PersistVote,
    Send,
    StartTransfer,
    Through,
    To,
)
from intellectd.protocol.ids import NO_HASH, At, state_name
from intellectd.protocol.inbox import receive
from intellectd.protocol.keeper import Keeper
from intellectd.protocol.messages import (
    Accept,
    AnyMessage,
    BadMessage,
    Beacon,
    Commit,
    FaultKind,
    Introduce,
    Plan,
    Prepare,
    Relay,
    Spread,
    seal,
)
from intellectd.protocol.moments import LONG_AGO, NEVER
from intellectd.protocol.records import BadRecord
from intellectd.protocol.round import AboutRound, WrongSender
from intellectd.protocol.seat import ABSTAINING
from intellectd.protocol.window import Decided

PROGRESS_FRACTION = 0.2  # of attempt_s: an attempt that moves is seen to move in time, should three beacons be lost
# Everything is due at most once a phase of an attempt; more rounds than this mean that two parts chase each other.
RESTLESS_MAX = 64
HEARSAY = (ev.MessageReceived, ev.MembersReceived, ev.PeerLearned, ev.LinkMeasured)  # what may tell nothing new
BULK = (StartTransfer, FetchUpdate, FetchSnapshot)
STATES = {"absent": "synced", "idle": "waiting", "training": "training", "freezing": "training"}  # of a trainer


class Node(Keeper):
    # ---- the two doors

    def handle(self, event: ev.Event, now: float) -> list[Effect]:
        """Take one event; return what to do, in order."""
        if self.halted:
            return []
        self.membership.awake(now)
        rests = self._rests(now)
        out = self._take(event, now)
        if not out and now < self._calm_until and isinstance(event, HEARSAY) and self._can_wait(now):
            return []
        return self._finish(out, now, rests and not self._stirs(event))

    def _rests(self, now: float) -> bool:
        """All were asked when this host was settled, nothing was due, and nothing has come to be since."""
        self._stirred = False
        return now < self._rests_until and not self.membership.news

    def _stirs(self, event: ev.Event) -> bool:
        """Might it make something due? Time does not before the deadline; nor a transfer that goes on, which only lets
        others wait for longer; nor what is carried for others."""
        stirs = self._stirred or self.membership.news or not isinstance(event, ev.Tick | ev.MessageReceived)
        return stirs and not isinstance(event, ev.TransferMoved)

    def _can_wait(self, now: float) -> bool:
        """Three beacons of four say what the ones before said: nothing can have become due. In a sparse swarm, where
        a thousand tell a leader that they are ready, what they say is acted on a few times a second."""
        if not self.membership.news:
            return True
        if not self.membership.sparse or now >= self._looked_at + limits.LOOK_S:
            return False
        self._deadline = min(self._deadline, self._looked_at + limits.LOOK_S)
        self._calm_until = min(self._calm_until, self._deadline)
        return True

    def deadline(self, now: float) -> float:
        """When to send a Tick if nothing else happens before."""
        if self.halted:
            return NEVER
        if now < self._calm_until:
            return self._deadline
        return min(self.membership.deadline(), self.round.deadline(now), self.catchup.deadline(now))

    @property
    def state(self) -> str:
        """The word in our beacon: what this host is doing."""
        until = self.context.config.until.rounds
        if self.halted:
            return "halted"
        if until is not None and self.catchup.applied >= until:
            return "finished"
        if self.catchup.applied < self.head.round - 1 or self.catchup.joins:
            return "joining" if self.catchup.joins else "catching-up"
        if self.seat.lost:
            return ABSTAINING
        return STATES.get(self.progress.state, "ready") if self.seat.may_be_named(self.head) else "synced"

    # ---- events

    def _take(self, event: ev.Event, now: float) -> list[Out]:  # noqa: PLR0911, PLR0912 - the router
        match event:
            case ev.Tick():
                return self.membership.tick(now)
            case ev.MessageReceived():
                return self._on_envelope(event.via, event.data, now, introduced=False)
            case ev.PeerLearned():
                return self.membership.learn(event.peer, event.addresses, now)
            case ev.EntriesReceived():
                if event.generation in (b"", self.head.generation):
                    return self._on_entries(event.peer, event.entries, now)
                return self._on_rival(event, now)
            case ev.MembersReceived():
                return [o for data in event.beacons for o in self._on_envelope(event.peer, data, now, introduced=True)]
            case ev.CallFailed():
                return self._on_call_failed(event, now)
            case ev.TrainerAttached():
                self.progress.on_attached(event.training_round)
            case ev.TrainerDetached():
                self.progress.on_detached()
                level: Literal["info", "warning"] = "info" if self.progress.dismissed else "warning"
                return [Note("trainer_gone", f"the trainer is gone: {event.reason}", level)]
            case ev.TrainerReady():
                return self._trainer_ready(event)
            case ev.DeltaFrozen():
                self.progress.on_frozen(event)
            case ev.DeltaRefused():
                return self.progress.on_refused(event.reason)
            case ev.TransferMoved():
                self.herald.on_moved(event)
                self.round.on_transfer_moved(event.transfer, now)
                if not self.membership.sparse:  # of a few hosts each counts, of many somebody's is always on its way
                    self.membership.soon(now + PROGRESS_FRACTION * self.context.config.timers.attempt_s)
            case ev.TransferEnded():
                self._transfer_over(event.transfer, event.root, now)
                return self.round.on_transfer_ended(event.transfer, event.root, event.update_bytes, now)
            case ev.TransferBroke():
                self._transfer_over(event.transfer, None, now)
                return self.round.on_transfer_broke(event.transfer, event.suspect, event.silent, event.reason, now)
            case ev.LinkMeasured():
                self.membership.links.measured(event.peer, event.bytes_per_s, event.rtt_s, now)
            case ev.UpdateHeld():
                self.catchup.on_update_held(event.root, now)
                return self.round.on_update_held(now)
            case ev.UpdateMissed():
                return self.catchup.on_update_missed(event, now)
            case ev.Applied():
                return self._on_applied(event, now)
            case ev.SnapshotInstalled():
                self.progress.on_jump()
                if self.catchup.on_snapshot(event.round, event.came_bytes, now):
                    return [Note("snapshot", f"here: {state_name(event.round)}"), *self._stands(event.digest, now)]
            case ev.SnapshotMissed():
                return self.catchup.on_snapshot_missed(event, now)
            case ev.DonorFault():
                return self.catchup.on_donor_fault(event, now)
            case ev.SnapshotsHeld():
                self.herald.on_snapshots(event)
                self.catchup.states.on_held(event.rounds, event.begun)
                self.catchup.window.pruned(event.updates_from)
            case ev.RecoverySigned():
                return self._on_recovery(event.entry, now)
            case ev.LeaveRequested():
                self.leaving = True
                self.membership.soon(now)
            case ev.AddressesChanged():
                self._say_where(event, now)
            case _:
                assert_never(event)
        return []

    def _on_call_failed(self, event: ev.CallFailed, now: float) -> list[Out]:
        if event.call == "entries" and event.generation in (b"", self.head.generation):
            self.catchup.on_entries(False, now)
        elif event.call == "entries":
            self.branching.on_failed(event.peer, event.generation, now)
        if event.malformed:
            return [PeerFault(event.peer, "bytes", f"{event.call}: {event.reason}")]
        return [Note("call_failed", f"{event.call} from {event.peer}: {event.reason}", "debug")]

    def _transfer_over(self, transfer: bytes, root: bytes | None, now: float) -> None:
        self.herald.on_transfer_over(transfer)
        if transfer == self.catchup.awaited_transfer:
            self.catchup.awaited_transfer = NO_HASH
        if root is not None:
            self.catchup.on_update_held(root, now)

    # ---- messages

    def _on_envelope(self, via: str, data: bytes, now: float, introduced: bool) -> list[Out]:
        try:
            received = receive(self.context, via, data, introduced)
        except BadMessage as error:
            return [PeerFault(via, error.kind, str(error))]
        if not introduced:
            self.relaying.on_direct(via, now, received[1] if received else None)
        return self._on_message(received[0], received[1], data, now, introduced) if received else []

    def _on_message(  # noqa: PLR0911 - the router of messages
        self, sender: str, message: AnyMessage, envelope: bytes, now: float, introduced: bool = False
    ) -> list[Out]:
        if isinstance(message, Beacon):
            out = self.membership.on_beacon(sender, message, envelope, now, introduced)
            if introduced and self.membership.beacon(sender) is message:
                self.relaying.on_news(sender, now)
            if message.transfer and not introduced:
                moved = message.transfer
                self.round.on_peer_moved(sender, moved.transfer, moved.done_bytes, now)
            return out
        self._calm_until = LONG_AGO
        if isinstance(message, Relay):
            return self._on_relay(sender, message, now)
        self._stirred = True
        if isinstance(message, Commit):
            return self._on_entries(sender, (message.entry,), now, pushed=True)
        if isinstance(message, Spread):
            return self.relaying.spread(sender, message, self.head.at, now)
        if isinstance(message, Introduce):
            return [o for data in message.beacons for o in self._on_envelope(sender, data, now, introduced=True)]
        if message.at != self.head.at:
            return self._other_decision(sender, message)
        try:
            return self.round.take(sender, message, now)
        except (WrongSender, BadRecord) as error:
            kind: FaultKind = "sender" if isinstance(error, WrongSender) else "content"
            return [PeerFault(sender, kind, f"{type(message).__name__}: {error}")]

    def _on_relay(self, sender: str, message: Relay, now: float) -> list[Out]:
        if message.to != self.context.peer:
            return self.relaying.forward(sender, message, now)
        faults, received = self.relaying.arrived(sender, message, now)
        return self._on_message(received[0], received[1], message.envelope, now) if received else faults

    def _other_decision(self, sender: str, message: AboutRound) -> list[Out]:
        """The hash gate (A1): whoever wants an answer and is one behind gets the record it missed; who is ahead
        shows it in its beacon, and is asked."""
        entry, at = self.head.entry, message.at
        asks = isinstance(message, Prepare | Plan | Accept)
        if asks and entry and at == At(entry.record.generation, entry.record.round, entry.record.parent):
            return [To(sender, Commit(entry))]
        return []

    # ---- what has become due

    def _finish(self, out: list[Out], now: float, rests: bool) -> list[Effect]:
        """Deliver messages to ourselves, ask every part what is due unless that `rests`, sign what goes out."""
        effects: list[Effect] = []
        self._calm_until = LONG_AGO
        for _ in range(RESTLESS_MAX):
            effects += self._sent(out, now)
            out = [] if self.halted or (rests and not self._stirred) else self._due(now)
            if not out:
                effects += self._sent([] if self.halted else self._beacon(now), now)
                # Of a thousand peers some always change: these are told when their bytes are needed, or now and then.
                trusts = not self.membership.sparse or now >= self._trusted_at + self.context.config.timers.beacon_s
                effects += self._trust(now) if trusts else []
                self._calm(now)
                return effects
        return [*effects, *self._sent([*out, Note("restless", "the machines do not come to rest", "error")], now)]

    def _calm(self, now: float) -> None:
        """Nothing is due: until when, if nobody says anything new?"""
        self.membership.news, self._looked_at = False, now
        due_at = min(self.round.deadline(now), self.catchup.deadline(now))
        self._deadline = min(self.membership.deadline(), due_at)
        self._calm_until = min(self._deadline, self.membership.alive_until)
        settled = self.catchup.settled(self.head) and self.branching.settled and self.round.wanted is None
        self._rests_until = min(due_at, self.membership.alive_until) if settled else LONG_AGO

    def _sent(self, out: list[Out], now: float) -> list[Effect]:
        effects: list[Effect] = []
        queue, said, data = self.relaying.untangled(out, now), None, b""
        spread: AnyMessage | None = None
        inner = b""
        while queue:
            item = queue.pop(0)
            if isinstance(item, Through):
                if item.message is not spread:
                    spread, inner = item.message, self._sealed(item.message)
                item = To(item.via, Spread(list(item.to), inner))
            if isinstance(item, To) and item.peer == self.context.peer:
                # In place, so that what it causes still comes after what was to be durable before it.
                queue[0:0] = self._on_message(item.peer, item.message, b"", now)
            elif isinstance(item, To):
                if item.message is not said:  # what goes to many is signed once
                    said, data = item.message, self._sealed(item.message)
                    self.membership.own_envelope = data if isinstance(said, Beacon) else self.membership.own_envelope
                effects.append(Send(item.peer, data))
                around = [] if isinstance(said, Relay) else self.relaying.around(item.peer, data, now)
                effects += [Send(way.peer, self._sealed(way.message)) for way in around]
            else:
                effects += self._trust(now) if isinstance(item, BULK) else []
                effects.append(item)
                if isinstance(item, PersistVote):
                    self._votes[item.at.generation] = item
                elif isinstance(item, StartTransfer):
                    self.herald.on_transfer(item.transfer)
                    self.membership.soon(now)
                elif isinstance(item, Halt):
                    self.halted = item.reason
        return effects

    def _trust(self, now: float) -> list[Effect]:
        self._trusted_at = now
        return self.membership.retrust()

    def _sealed(self, message: AnyMessage) -> bytes:
        return seal(self.context.run, self.context.peer, message, self.context.crypto)

    def _due(self, now: float) -> list[Out]:
        round_ = self.round
        if round_.decided is not None:
            entry, round_.decided = round_.decided, None
            return self._announce(entry, now)
        astray = self._astray(now)
        if astray:
            return astray
        out, decided = self.catchup.evaluate(self.head, now, round_.wanted, self.branching.leaves(self.head, now))
        if decided is not None:
            apply = self._apply(decided)
            out = [*out, *self.progress.take_dropped(), apply]
        out += [*self.progress.freeze_again(self.head), *self.progress.take_dropped()]
        out += self.seat.stands(self.head, self.catchup.applied, self.membership.alive_beacons(now), self.relaying.life)
        named = self.seat.may_be_named(self.head)
        self.progress.offer(self.head, self.catchup.applied, round_.state_digest if named else None)
        out += self.progress.start(self.head, self.catchup.applied)
        if self.state == "finished":
            out += self.progress.finish(f"the run reached round {self.catchup.applied}", self.catchup.applied)
        round_.tell(self.progress.ready, self._able(), self._leaves, self.seat.lost)
        out += self._open_branch(now) or self._seek_pinned(now) or self.branching.evaluate(self.head, now)
        if self.round is not round_:
            return out
        round_.paused = self.branching.pauses(self.head, now)
        out += round_.evaluate(now)
        return [*out, *self._astray(now)]

    @property
    def _leaves(self) -> bool:
        """By the operator's word, or because this host's vote can no longer be trusted."""
        return self.leaving or self.seat.lost

    def _able(self) -> bool:
        """Synced, with a journal and a trainer: fit to be named for the next round (B4)."""
        near = not self.catchup.joins and self.catchup.applied >= self.head.round - 1
        return near and self.seat.may_be_named(self.head) and self.progress.state != "absent"

    def _trainer_ready(self, event: ev.TrainerReady) -> list[Out]:
        recent = self.catchup.window.newest_delta(self.head.round - limits.FEEDBACK_ROUNDS_MAX)
        return self.progress.on_trainer_ready(event, self.head, recent)

    def _apply(self, decided: Decided) -> ApplyUpdate:
        record, root = decided.record, self.catchup.window.chosen(decided)
        local = self.progress.before_apply(decided, self.head)
        lr, momentum, anchor = record.lr, record.momentum, decided.anchor
        return ApplyUpdate(record.round, root or None, record.codec, lr, momentum, local, record.optimizer, anchor)

    def _beacon(self, now: float) -> list[Out]:
        quorum, ready = (self.branching.quorum, self.seat.may_branch(self.head)), self.progress.ready
        content = (self.head, self.catchup.applied, self.state, ready, self._leaves, quorum)
        if self.herald.is_news(*content):
            self.membership.soon(now)
        if not self.membership.beacon_due(now):
            return []
        self._ready_since = None if ready is None else now if self._ready_since is None else self._ready_since
        waits_s = 0.0 if self._ready_since is None else now - self._ready_since
        journal = self.seat.may_be_named(self.head)
        links, alive = self.membership.links, self.membership.alive_beacons(now)
        idle = ready is None and self.round.reducing is None and not self._leaves
        probe = self.prober.look([a.peer for a in self.head.blob.assignments], alive, links, idle, now)
        beacon = self.herald.beacon(*content, self.round.parts.acceptor.voted, links.told(now))
        return [*self.membership.send_beacon(beacon, waits_s, journal, now), *probe]


__all__ = ["Node"]
