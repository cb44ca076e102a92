"""What an operator sees of a run: log lines, metrics, and the numbers behind `status` and `rounds`.

Owns counters and recent history. Nothing depends on it: dropping this file would change no round.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from intellectd.daemon.attach_events import TrainerLog, TrainerReady
from intellectd.daemon.bulk.interface import LinkSeen, TransferDone, TransferFailed
from intellectd.daemon.logs import get_log
from intellectd.daemon.metrics import AllReduceFailure, Metrics
from intellectd.daemon.runs.history import History
from intellectd.protocol.effects import Note, PeerFault
from intellectd.protocol.ids import state_name
from intellectd.protocol.pace import Left, Meter
from intellectd.protocol.quorum import Reach
from intellectd.protocol.records import Entry, record_hash

ROUNDS_KEPT = 4096  # of history in memory, for `rounds`; the log on disk has them all
MEMBERS_KEPT = 64 * ROUNDS_KEPT  # in all of these rounds: some 100 bytes each; of 1,000 members it is 262 rounds
WARNINGS_KEPT = 5
WARNING_S = 900.0  # what has not come up again for a quarter of an hour is the log's business, not the status's
LOSSES_KEPT = 4096
OVER_WITH_A_ROUND = ("transfer_aborted", "update_missed", "snapshot_missed")  # of what others mended meanwhile

log = get_log("run")


@dataclass
class RoundSeen:
    """One decided round, as this host saw it."""

    round: int
    roster: list[str]
    weights: dict[str, int]
    tokens: int
    record: str
    duration_s: float
    schedule: str
    wire_bytes: int = 0
    state_digest: str | None = None
    loss: float | None = None
    state_before: str = ""

    def plain(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "roster": self.roster,
            "schedule": self.schedule,  # "gossip": in groups; of another record with a roster: all together
            "weights": self.weights,
            "loss": self.loss,
            "tokens": self.tokens,
            "duration_s": round(self.duration_s, 3),
            "wire_bytes": self.wire_bytes,
            "state_digest": self.state_digest,
            # The log holds no record without a certificate: each was verified before it was appended.
            "certificate_valid": True,
            "record": self.record,
        }


@dataclass
class CatchupSeen:
    """One catch-up, from its first request to the head."""

    began_at: float
    from_round: int
    parts: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # (done, total) bytes by transfer
    kept: dict[bytes, int] = field(default_factory=dict)  # of these bytes, those that came in a life before
    ended_at: float | None = None

    @property
    def done_and_total(self) -> tuple[int, int]:
        return sum(part[0] for part in self.parts.values()), sum(part[1] for part in self.parts.values())

    def came(self) -> dict[bytes, int]:
        return {part: done for part, (done, _total) in self.parts.items()}

    def plain(self, now: float, left: Left | None) -> dict[str, Any]:
        """`left`: as the plan sees it; without it only the parts that were begun are known."""
        done, total = self.done_and_total
        total = done + left.bytes if left is not None else total
        left_s = left.seconds if left is not None and self.ended_at is None else None
        seconds = max(1e-3, (now if self.ended_at is None else self.ended_at) - self.began_at)
        kept = sum(self.kept.values())
        rate = max(0, done - kept) / seconds
        return {
            "bytes": done,
            "total_bytes": total,
            "kept_bytes": kept,
            "seconds": round(seconds, 3),
            "rate": rate,
            "seconds_left": None if left_s is None else round(left_s, 1),
            "done": self.ended_at is not None,
            "from_round": self.from_round,
        }


class Journal:
    def __init__(self, run_name: str, metrics: Metrics, codec: str) -> None:
        self.run_name, self._metrics, self.codec = run_name, metrics, codec
        self.rounds: dict[int, RoundSeen] = {}
        self._members = 0  # in all of them
        self.losses: dict[int, float] = {}  # held-out loss of the state after a round
        self._warned: deque[tuple[float, str, str]] = deque(maxlen=WARNINGS_KEPT)  # (when, what event, text)
        self.train_loss: float | None = None
        self.tokens_per_s = 0.0
        self.tokens_here = 0
        self.trainer_at = 0.0  # when it last said anything, or was given something to do
        self.wire_bytes = 0
        self.outer_step_s = 0.0
        self.anchor_spread: float | None = None  # of a run with gossip rounds, as far as this host knows
        self.catchup: CatchupSeen | None = None
        self._meter = Meter()
        # What is left of a catch-up (Catchup.left), given what came of what, and at what rate.
        self.plan: Callable[[Mapping[bytes, int], float | None], Left | None] = lambda _came, _rate: None
        self._counted = (0, 0, 0)  # (round, tokens, inner steps) that the metrics know of
        self._round_wire_bytes = 0
        self._decided_at: float | None = None
        self._phase, self._phase_at = "idle", 0.0
        self._quorum_lost = False
        self._kept_in: Path | None = None  # what was left of this host's history, until it was said
        self._heard: tuple[str, ...] = ()  # voters, when `voters` was last called
        self.on_news: Callable[[], None] = lambda: None  # the history has changed

    @property
    def history(self) -> History:
        return History(self.losses, self.train_loss, self.tokens_per_s, self.outer_step_s)

    def recall(self, past: History) -> None:
        """What was known before the daemon was restarted; before `restore`."""
        self.losses, self.train_loss = past.losses, past.train_loss
        self.tokens_per_s, self.outer_step_s = past.tokens_per_s, past.outer_step_s
        if past.losses:
            self._metrics.heldout_loss(self.run_name, past.losses[max(past.losses)])

    def warnings(self, over: tuple[str, ...] = ()) -> list[str]:
        """What a person should know now, newest last, each once; not the events that are over."""
        now = trio.current_time()
        recent = [text for at, event, text in self._warned if now - at < WARNING_S and event not in over]
        return list(dict.fromkeys(recent))

    @property
    def inner(self) -> tuple[int, int]:
        """(round, inner steps done in it), as the trainer last said."""
        return self._counted[0], self._counted[2]

    # ---- from the performer

    def restore(self, entries: Sequence[Entry]) -> None:
        """The newest of the log. Raises what reading them does."""
        for index in range(max(0, len(entries) - ROUNDS_KEPT), len(entries)):
            self._remember(entries[index], 0.0)

    def decided(self, entry: Entry) -> None:
        now = trio.current_time()
        live = self.catchup is None or self.catchup.ended_at is not None  # else the log is read, not written
        duration_s = now - self._decided_at if live and self._decided_at is not None else 0.0
        self.outer_step_s = duration_s or self.outer_step_s
        self._decided_at = now if live else None
        seen = self._remember(entry, duration_s)
        seen.wire_bytes, self._round_wire_bytes = self._round_wire_bytes, 0
        if entry.record.round > 0:
            self._metrics.outer_step_committed(self.run_name, len(seen.roster), seen.duration_s)
        self.on_news()

    def _remember(self, entry: Entry, duration_s: float) -> RoundSeen:
        record, blob = entry.record, entry.blob
        weights = {sys.intern(c.peer): c.tokens for c in blob.contributions}  # the same names in thousands of rounds
        digest = record_hash(record).hex()
        tokens, schedule = sum(weights.values()), record.schedule
        seen = RoundSeen(record.round, list(weights), weights, tokens, digest, duration_s, schedule)
        seen.loss = self.losses.get(record.round)
        self.rounds[record.round] = seen
        before = self.rounds.get(record.round - 1)
        if before is not None:
            before.state_digest = record.state_digest.hex()
        self._members += len(weights)
        while len(self.rounds) > 1 and (len(self.rounds) > ROUNDS_KEPT or self._members > MEMBERS_KEPT):
            self._members -= len(self.rounds.pop(next(iter(self.rounds))).weights)  # they come in order
        return seen

    def left(self, round_: int, kept_in: Path | None) -> None:
        """What came after this round is no longer this host's history. The note that says why is to come."""
        self._kept_in = kept_in
        self.rounds = {r: seen for r, seen in self.rounds.items() if r <= round_}
        self._members = sum(len(seen.weights) for seen in self.rounds.values())
        self.losses = {r: loss for r, loss in self.losses.items() if r <= round_}
        self._decided_at = None

    def applied(self, round_: int, digest: bytes) -> None:
        seen = self.rounds.get(round_)
        if seen is not None:
            seen.state_digest = digest.hex()
        # A collective that broke, a donor that had no more what was asked: this host has its round, so it did no harm.
        kept = [told for told in self._warned if told[1] not in OVER_WITH_A_ROUND]
        self._warned = deque(kept, maxlen=WARNINGS_KEPT)

    def anchors_apart(self, spread: float | None) -> None:
        """After a round in groups, or one that made all equal again (SPEC E8)."""
        self.anchor_spread = spread
        if spread is not None:
            self._metrics.anchor_spread(self.run_name, spread)
            log.debug("anchors of the groups", run=self.run_name, apart=round(spread, 6))

    def evaluated(self, state_round: int, loss: float) -> None:
        self.losses[state_round] = loss
        while len(self.losses) > LOSSES_KEPT:
            del self.losses[min(self.losses)]
        seen = self.rounds.get(state_round)
        if seen is not None:
            seen.loss = loss
        self._metrics.heldout_loss(self.run_name, loss)
        log.info("held-out loss", run=self.run_name, round=state_round, loss=loss)
        self.on_news()

    def trained(self, done: TrainerReady) -> None:
        self.tokens_here += done.tokens
        self.tokens_per_s = done.tokens / done.seconds if done.seconds > 0 else 0.0
        self.train_loss = done.loss if done.loss is not None else self.train_loss
        self._count_training(done.round, done.tokens, done.steps)
        # No loss to tell of (it was not finite) is no reason not to count the work.
        self._metrics.train_loss(self.run_name, math.nan if done.loss is None else done.loss)
        self._metrics.round_trained(self.run_name, done.steps, done.seconds)
        self.phase("match")

    def training_log(self, line: TrainerLog) -> None:
        self.tokens_per_s = line.tokens_per_s
        self._count_training(line.round, line.tokens, line.step)
        if line.grad_norm is not None:
            self._metrics.grad_norm(self.run_name, line.grad_norm)
        if line.mfu is not None:
            self._metrics.mfu(self.run_name, line.mfu)
        if line.loss is not None:
            self.train_loss = line.loss
            self._metrics.train_loss(self.run_name, line.loss)

    def trainer_gone(self) -> None:
        self._metrics.trainer_gone(self.run_name)
        self.phase("idle")

    def _count_training(self, round_: int, tokens: int, steps: int) -> None:
        """Both are of the round so far: a counter that moved only at its end would show no rate in between."""
        if round_ != self._counted[0]:
            self._counted = (round_, 0, 0)
        _, before, steps_before = self._counted
        self._metrics.trained(self.run_name, max(0, tokens - before), max(0, steps - steps_before))
        self._counted = (round_, max(tokens, before), max(steps, steps_before))

    def training(self, round_: int) -> None:
        log.debug("training", run=self.run_name, round=round_)
        self.phase("compute")

    def phase(self, name: str = "") -> None:
        """What this host's time goes into, from now on; without a name: what it went into until now."""
        now = time.monotonic()
        if self._phase_at:
            self._metrics.phase(self.run_name, self._phase, now - self._phase_at)  # type: ignore[arg-type]
        self._phase, self._phase_at = name or self._phase, now

    def transfer_started(self, members: int) -> None:
        log.debug("transfer begins", run=self.run_name, members=members)
        self.phase("allreduce")

    def transfer_ended(self, done: TransferDone, raw_bytes: int) -> None:
        self._count(done.sent_bytes, done.received_bytes)
        self._metrics.allreduced(self.run_name, raw_bytes, done.sent_bytes, done.seconds)
        self.phase("apply")

    def transfer_failed(self, failed: TransferFailed, aborted: bool) -> None:
        """`aborted`: by this host, because the round went on without it."""
        reason: AllReduceFailure = "aborted" if aborted else "silent" if failed.silent else "reset"
        self._metrics.outer_step_aborted(self.run_name, reason)
        # What it means for the round is the node's to say, in a note.
        log.debug("transfer broke", run=self.run_name, suspect=failed.suspect, reason=failed.reason)
        self.phase("match")

    def link_measured(self, link: LinkSeen) -> None:
        seen = {"bytes_per_s": round(link.bytes_per_s), "rtt_s": round(link.rtt_s, 4), "limit": link.limit}
        log.debug("a link was measured", run=self.run_name, to=link.peer, **seen)

    def probe_failed(self, peer: str, reason: str) -> None:
        log.debug("a link could not be measured", run=self.run_name, to=peer, reason=reason)

    def fetched(self, part: bytes, done_bytes: int, total_bytes: int) -> None:
        if self.catchup is not None and self.catchup.ended_at is None:
            before = self.catchup.parts.get(part, (0, 0))[0]
            self.catchup.parts[part] = (done_bytes, max(total_bytes, done_bytes))
            self._metrics.checkpoint_bytes(self.run_name, "in", max(0, done_bytes - before))
            self._metrics.network_bytes("in", "bulk", max(0, done_bytes - before))
            self._meter.came(max(0, done_bytes - before), trio.current_time())

    def kept(self, part: bytes, kept_bytes: int, total_bytes: int) -> None:
        """Of what is about to be fetched this much is here, from an earlier try."""
        if self.catchup is not None and self.catchup.ended_at is None:
            self.catchup.parts[part] = (kept_bytes, total_bytes)
            self.catchup.kept.setdefault(part, kept_bytes)

    @property
    def catchup_plain(self) -> dict[str, Any] | None:
        """The one under way, or the last."""
        if self.catchup is None:
            return None
        left = self.plan(self.catchup.came(), self._meter.rate) if self.catchup.ended_at is None else None
        return self.catchup.plain(trio.current_time(), left)

    def tell_catchup(self) -> None:
        """Before metrics are read: the plan changes as time goes by."""
        plain = self.catchup_plain
        if plain is not None and not plain["done"]:
            self._metrics.catching_up(self.run_name, plain["bytes"], plain["total_bytes"], plain["seconds_left"])

    def catching_up(self, behind: bool, round_: int, fetches: bool = False) -> None:
        """Called as the state changes: a catch-up begins when we are behind and ends when we are not. `fetches`: is
        anything on its way here."""
        now = trio.current_time()
        self._meter.fetches(fetches, now)
        if behind and (self.catchup is None or self.catchup.ended_at is not None):
            self.catchup = CatchupSeen(now, max(0, round_))
            self._metrics.catching_up(self.run_name, 0, 0)
        elif not behind and self.catchup is not None and self.catchup.ended_at is None:
            self.catchup.ended_at = now
            plain = self.catchup.plain(now, None)
            self._metrics.catching_up(self.run_name, plain["bytes"], plain["total_bytes"])
            self._metrics.caught_up(self.run_name, plain["seconds"])
            got = {"seconds": plain["seconds"], "bytes": plain["bytes"]}
            log.info("caught up", run=self.run_name, having=state_name(round_), **got)
        elif not behind and self.catchup is None:
            self._metrics.nothing_to_catch_up(self.run_name)

    def voters(self, reach: Reach | None) -> None:
        """Called as the state changes: the log tells of a voter that falls silent, and of the quorum's loss and end."""
        lost = reach is not None and not reach.quorum
        if reach is not None:
            for voter in (voter for voter in reach.missing if voter in self._heard):
                log.info(f"voter {voter} is missing: silent, or unable to vote", run=self.run_name)
            self._heard = tuple(voter for voter in reach.voters if voter not in reach.missing)
        if reach is not None and lost != self._quorum_lost:
            self._quorum_lost = lost
            here = f"{len(reach.voters) - len(reach.missing)} of {len(reach.voters)} voters reachable"
            if lost:
                log.warning(f"quorum lost: {here}", run=self.run_name, missing=" ".join(reach.missing))
            else:
                log.info(f"quorum found again: {here}", run=self.run_name)

    def snapshot(self, round_: int, problem: str | None) -> None:
        if problem is None:
            self._metrics.snapshot_written(self.run_name, round_, time.time())
            log.debug("snapshot written", run=self.run_name, round=round_)
        else:
            self.warn(f"no snapshot of round {round_}: {problem}")

    def peer_fault(self, fault: PeerFault, is_news: bool, is_member: bool) -> None:
        """Each is counted; of a peer that is kept away already no more is said, nor aloud of a stranger, who could fill
        the log and leave no other warning in `status`."""
        self._metrics.peer_fault(self.run_name, fault.kind)
        if is_news and is_member:
            self.warn(f"peer {fault.peer} broke the protocol: {fault.reason}")
        elif is_news:
            log.debug("a stranger's message is refused", run=self.run_name, peer=fault.peer, reason=fault.reason)

    def halted(self, reason: str) -> None:
        log.error("halted", run=self.run_name, reason=reason)

    def note(self, note: Note) -> None:
        say = {"debug": log.debug, "info": log.info, "warning": log.warning, "error": log.error}[note.level]
        text = _one_line(note.text)
        if note.event == "switched" and self._kept_in is not None:
            text, self._kept_in = f"{text}, kept in {self._kept_in}", None
        say(text, run=self.run_name)
        predicted, actual = note.fields.get("predicted_s"), note.fields.get("actual_s")
        if isinstance(predicted, float) and isinstance(actual, float):
            self._metrics.transfer_took(self.run_name, predicted, actual)
        if note.level in ("warning", "error"):
            self._warned.append((trio.current_time(), note.event, text))

    def warn(self, text: str) -> None:
        text = _one_line(text)
        self._warned.append((trio.current_time(), "", text))
        log.warning(text, run=self.run_name)

    def _count(self, sent: int, received: int) -> None:
        self.wire_bytes += sent
        self._round_wire_bytes += sent
        self._metrics.network_bytes("out", "bulk", sent)
        self._metrics.network_bytes("in", "bulk", received)


def _one_line(text: str) -> str:
    """An error's hint stands on a line of its own; a warning is one line, in a log too."""
    return "; ".join(line.strip() for line in text.splitlines())
