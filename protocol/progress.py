"""What this host's trainer is doing, and what becomes of work that a commit left out. SPEC P*.

Owns the states of one trainer: absent, idle, training, freezing, frozen. Refuses to know tensors: "carry",
"keep" and "adopt" are words here and arithmetic in the shell.
"""

from typing import Literal

from intellectd.protocol import limits
from intellectd.protocol.context import Context
from intellectd.protocol.effects import FinishTraining, Freeze, Note, Out, StartTraining
from intellectd.protocol.entries import GOSSIP
from intellectd.protocol.events import DeltaFrozen, TrainerReady
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, Stream
from intellectd.protocol.messages import Ready
from intellectd.protocol.window import Decided

State = Literal["absent", "idle", "training", "freezing", "frozen"]


class Progress:
    def __init__(self, context: Context) -> None:
        self._context = context
        self.state: State = "absent"
        self.ready: Ready | None = None
        self._round = -1  # of the StartTraining under way
        self._round_steps = 0
        self._base_round = -1  # the state our uncommitted work u started from
        self._streams: list[Stream] = []  # the data in u, carried rounds included
        self._carried_tokens = 0
        self._carried_steps = 0
        self._tokens = 0
        self._steps = 0
        self._frozen: DeltaFrozen | None = None
        self._offered: DeltaFrozen | None = None  # what `ready` was made of
        # In a run with gossip rounds a delta is measured from the state, which a record may replace (E6).
        self._measures = context.config.outer.schedule == GOSSIP
        self._moved = False  # a record was applied while the delta was being encoded
        self._again = False  # encode it once more
        self._stale = False  # u may not be contributed any more: adopt the anchor when the trainer is back
        self._resume: int | None = None
        self._dropped: list[Out] = []  # to be said
        self._finished = False

    @property
    def training(self) -> tuple[int, int]:
        """The round last given out, and its number of steps."""
        return self._round, self._round_steps

    @property
    def dismissed(self) -> bool:
        """The trainer has been told that the run is over: it goes because it should."""
        return self._finished

    # ---- the trainer

    def on_attached(self, training_round: int | None) -> None:
        self._forget()
        self.state, self._resume, self._finished = "idle", training_round, False

    def on_detached(self) -> None:
        self.state = "absent"
        self._forget()

    def on_trainer_ready(self, event: TrainerReady, head: Head, committed: bytes = NO_HASH) -> list[Out]:
        """`committed`: the root of this host's delta that was decided last, if not long ago (P10)."""
        if self.state != "training" or event.round != self._round:
            return []
        if self._stale:
            self._forget()
            self.state = "idle"
            return [Note("progress_dropped", f"the work of round {event.round} came too late to count", "warning")]
        self.state, self._moved = "freezing", False
        self._tokens, self._steps = self._carried_tokens + event.tokens, self._carried_steps + event.steps
        feedback = self._context.config.outer.error_feedback
        return [Freeze(head.codec, feedback, committed if feedback else NO_HASH)]

    def on_refused(self, reason: str) -> list[Out]:
        """The delta is unusable: this round goes without us, and the trainer starts over from the anchor."""
        if self.state != "freezing":
            return []  # of a trainer that is gone
        self._forget()
        self.state = "idle"
        return [Note("delta_refused", f"this host's update is not used: {reason}", "error")]

    def on_frozen(self, event: DeltaFrozen) -> None:
        if self.state == "freezing" and self._stale:
            self._drop("it came too late to count")
        elif self.state == "freezing" and self._moved and self._measures:
            self._again = True
        elif self.state == "freezing":
            self.state, self._frozen = "frozen", event

    def freeze_again(self, head: Head) -> list[Out]:
        """Of a delta that was measured from a state or a group's anchor that a record has replaced; asked once."""
        if not self._again or self.state != "freezing":
            self._again = False
            return []
        self._again = self._moved = False
        return [Freeze(head.codec)]

    def offer(self, head: Head, applied: int, digest: bytes | None) -> None:
        """Make `ready` what can be contributed to the round after `head`, or None. Asked with every event, it stays
        the same object while nothing of it changes."""
        frozen, before = self._frozen, self.ready
        self.ready = None
        if self.state != "frozen" or frozen is None or applied != head.round or digest is None:
            return
        if head.assignment(self._context.peer) is None or self._tokens <= 0:
            return
        if before is not None and before.at is head.at and before.state_digest == digest and self._offered is frozen:
            self.ready = before
            return
        self._offered = frozen
        self.ready = Ready(
            head.at, digest, self._tokens, self._steps, frozen.norm, frozen.root, self._streams[-limits.STREAMS_MAX :]
        )

    # ---- rounds

    def before_apply(self, decided: Decided, head: Head) -> Literal["adopt", "carry", "keep", "none"]:
        """What the arena must become when this record is applied. `head` is the newest, maybe later one."""
        round_, mine, me = decided.record.round, decided.mine, self._context.peer
        if self.state == "absent" or (self.state == "idle" and self._carried_tokens == 0):
            return "none"
        if self.state == "frozen" and mine and self._frozen and mine.delta_root == self._frozen.root:
            self._forget()
            self.state = "idle"
            return "adopt"
        allowed = [*head.allowed_streams(me)]
        lapsed = round_ - self._base_round > limits.CARRY_ROUNDS_MAX
        usable = not mine and not lapsed and all(s in allowed for s in self._streams)
        if self.state in ("training", "freezing"):
            self._stale, self._moved = self._stale or not usable, True
            return "keep"
        last = round_ - self._base_round >= limits.CARRY_ROUNDS_MAX
        if usable and self.state == "frozen" and (last or self._has_done(head)):
            if self._measures:
                self._frozen, self.state, self._again = None, "freezing", True
            return "carry"  # it is offered as it is, at once, instead of coming late again or twice (P4)
        if usable:
            if self.state == "frozen":
                self._carried_tokens, self._carried_steps = self._tokens, self._steps
            self._frozen, self.state = None, "idle"
            return "carry"
        self._drop(f"round {round_} was decided without it, and it is too old or its data was given to others")
        return "adopt"

    def _has_done(self, head: Head) -> bool:
        """Is all that it is given now data which it gave back, and has worked off? (R9) Done again, it would count
        twice, and so not at all."""
        given = head.assignment(self._context.peer)
        return given is not None and bool(given.streams) and all(stream in self._streams for stream in given.streams)

    def start(self, head: Head, applied: int) -> list[Out]:
        """Hand out the next round when the trainer is free, the state is at the head and the record names us."""
        assignment = head.assignment(self._context.peer)
        if self.state != "idle" or applied != head.round or assignment is None or self._finished:
            return []
        until = self._context.config.until.rounds
        if until is not None and head.round >= until:
            return []
        carried = self._carried_tokens > 0
        lost, self._resume = self._resume, None
        resumed = self.resumes(head, applied, lost)
        # What was given back comes again after two records at the least, and work that was carried over lapses then.
        assert not carried or all(stream not in self._streams for stream in assignment.streams)
        if not carried:
            self._base_round, self._streams = head.round, []
        self._streams = [*self._streams, *assignment.streams]
        self.state, self._round, self._round_steps = "training", head.round + 1, assignment.steps
        if resumed:
            return [Note("resumed", f"the trainer goes on with round {self._round}")]
        streams = tuple((s.round, s.slot) for s in assignment.streams)
        if lost is not None:  # a record came between its question and our answer
            text = f"the work on round {lost} that the trainer came back with is dropped: the run went on without it"
            self._dropped.append(Note("progress_dropped", text, "warning"))
        said = self.take_dropped()
        return [
            *said,
            StartTraining(self._round, assignment.steps, streams, head.tokens_total, head.round, not carried),
        ]

    def resumes(self, head: Head, applied: int, training_round: int | None) -> bool:
        """May a trainer that comes back keep what it did in `training_round`: is that still the round to do, and is
        nothing in it that was carried over from rounds before, of which this host has lost the account? Between exact
        rounds its anchor may be another one now (E5), and where there may be several lines it does not say on which of
        them it began."""
        me = self._context.peer
        named = head.assignment(me) is not None and not head.pending_streams(me) and not head.since_exact
        if head.branches or head.config.swarm.on_quorum_loss == "fork":
            return False
        return named and applied == head.round and training_round == head.round + 1

    def on_jump(self) -> None:
        """The state was replaced, not stepped: work that started from the one before points nowhere (P7)."""
        if self.state in ("training", "freezing"):
            self._stale = True
        elif self.state != "absent":
            self._drop("the state that it began from is gone")

    def take_dropped(self) -> list[Out]:
        """What has to be said of lost work; asked once."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def finish(self, reason: str, state_round: int) -> list[Out]:
        """The run is over: tell an attached trainer once."""
        if self._finished or self.state in ("absent", "freezing"):
            return []
        self._finished = True
        return [FinishTraining(reason, state_round)]

    def _drop(self, why: str) -> None:
        """Work that will never count; nobody's is lost silently (P6)."""
        tokens = self._carried_tokens if self.state == "idle" else self._tokens
        if tokens:
            text = f"{tokens} tokens of this host's work are dropped: {why}"
            self._dropped.append(Note("progress_dropped", text, "warning", {"tokens": tokens}))
        self._forget()
        self.state = "idle"

    def _forget(self) -> None:
        """There is no uncommitted work any more."""
        self.ready = self._frozen = None
        self._carried_tokens = self._carried_steps = self._tokens = self._steps = 0
        self._streams, self._stale = [], False
