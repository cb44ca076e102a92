"""One small method for each effect of a node: the only place where decisions become I/O.

Owns nothing but the translation; transfers.py, state_fetch.py and seat.py own what takes longer. Effects that only
start something report back through `post`. Refuses to decide: no effect is skipped, reordered or repeated here.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from intellectd.daemon.bulk.interface import BulkEngine, Endpoint
from intellectd.daemon.net import Network, NetworkError
from intellectd.daemon.runs.compute import Compute, RunsWork
from intellectd.daemon.runs.error_feedback import ErrorFeedback
from intellectd.daemon.runs.inbox import Inbox
from intellectd.daemon.runs.journal import Journal
from intellectd.daemon.runs.outer_state import Frozen, NotUsable, OuterState
from intellectd.daemon.runs.seat import Seat
from intellectd.daemon.runs.snapshots import Snapshots
from intellectd.daemon.runs.state_fetch import StateFetch
from intellectd.daemon.runs.transfers import Post, Transfers
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.store.updates import NotHeld
from intellectd.kernels.outer import step_of
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.ids import encode
from intellectd.protocol.limits import CALL_TIMEOUT_S
from intellectd.protocol.manifest import from_float32_hex
from intellectd.protocol.messages import (
    BadMessage,
    EntriesAnswer,
    EntriesRequest,
    MembersAnswer,
    RunRequest,
    decode,
)
from intellectd.protocol.spread import anchor_spread


class Tells(Protocol):
    def trust(self, run: bytes, peers: dict[str, Endpoint]) -> None: ...

    def remember(self, peer: str, addresses: tuple[str, ...]) -> None: ...

    def ban(self, peer: str) -> bool: ...

    def is_member(self, peer: str) -> bool: ...


class Performer:
    def __init__(
        self,
        *,
        run: bytes,
        store: RunStore,
        state: OuterState,
        compute: Compute,
        runner: RunsWork,
        network: Network,
        bulk: BulkEngine,
        seat: Seat,
        journal: Journal,
        tells: Tells,
        prove: Callable[[str], bytes],
        post: Post,
        stall_s: float,
        feedback: bool = False,
    ) -> None:
        self._run, self._store, self._state, self._compute = run, store, state, compute
        self._network, self._runner, self._seat, self._tells = network, runner, seat, tells
        self._journal, self._prove, self._post = journal, prove, post
        self._inbox = Inbox()
        self.snapshots = Snapshots(store, state, compute, journal, feedback)
        self._transfers = Transfers(
            run, store, state.layout.elements, compute, bulk, journal, self._inbox, runner, stall_s, post
        )
        self._states = StateFetch(
            network.peer_id, run, state, compute, bulk, journal, self._inbox, self.snapshots, stall_s, post
        )
        self._nursery: trio.Nursery | None = None
        self._lines = 0  # of history that were left
        self._apart = False  # this host's anchor is its group's

    def begin(self, nursery: trio.Nursery) -> None:
        """What effects start lives in `nursery` from here on."""
        self._nursery = self._transfers.nursery = nursery

    async def run(self) -> None:
        """Until cancelled: what the bulk engine has to say."""
        try:
            await self._inbox.run()
        finally:
            self._transfers.close()
            self.snapshots.close()

    async def __call__(self, effect: ef.Effect) -> None:  # noqa: PLR0912 - the table of effects
        match effect:
            case ef.Send():
                self._send(effect)
            case ef.Learn():
                self._network.learn(effect.peer, list(effect.addresses))
                if effect.own_word:
                    self._tells.remember(effect.peer, effect.addresses)
            case ef.Trust():
                self._tells.trust(self._run, {p: Endpoint(address, cert) for p, address, cert in effect.peers})
            case ef.AskEntries():
                self._spawn(self._ask_entries, effect)
            case ef.AskMembers():
                self._spawn(self._ask_members, effect)
            case ef.PersistVote():
                await self._runner(lambda: self._store.write_vote(effect))
            case ef.AppendEntry():
                await self._runner(lambda: self._store.append(effect.entry))
                self._journal.decided(effect.entry)
            case ef.Rebase():
                await self._rebase(effect)
            case ef.StartTransfer():
                await self._transfers.start_collective(effect)
            case ef.ProbeLink():
                self._transfers.probe(effect)
            case ef.AbortTransfer():
                self._transfers.abort(effect.transfer)
            case ef.FetchUpdate():
                await self._transfers.fetch(effect)
            case ef.ApplyUpdate():
                self._apply(effect)
            case ef.FetchSnapshot():
                self._spawn(self._states.fetch, effect)
            case ef.OfferDonors():
                self._states.offer(effect)
            case ef.StartTraining():
                self._seat.start_training(effect, lambda: self._training(effect.round))
            case ef.Freeze():
                self._freeze(effect)
            case ef.FinishTraining():
                self._seat.finish(effect)
            case ef.PeerFault():
                is_news, is_member = self._tells.ban(effect.peer), self._tells.is_member(effect.peer)
                self._journal.peer_fault(effect, is_news, is_member)
            case ef.Halt():
                self._journal.halted(effect.reason)
            case ef.Note():
                self._journal.note(effect)

    # ---- messages and calls

    def _send(self, effect: ef.Send) -> None:
        try:
            self._network.post(effect.peer, effect.data)
        except ValueError as error:  # over the network's cap: one message is lost, not the daemon
            self._journal.warn(f"a message to {effect.peer} was not sent: {error}")

    async def _ask_entries(self, effect: ef.AskEntries) -> None:
        request = encode(EntriesRequest(self._run, self._prove(effect.peer), effect.generation, effect.from_round))
        try:
            answer = decode(await self._network.call(effect.peer, "entries", request, CALL_TIMEOUT_S), EntriesAnswer)
            self._post(ev.EntriesReceived(effect.peer, tuple(answer.entries), effect.generation))
        except (NetworkError, BadMessage) as error:
            bad = isinstance(error, BadMessage)
            self._post(ev.CallFailed(effect.peer, "entries", str(error), effect.generation, bad))

    async def _ask_members(self, effect: ef.AskMembers) -> None:
        request = encode(RunRequest(self._run, self._prove(effect.peer)))
        try:
            body = await self._network.call(effect.peer, "members", request, CALL_TIMEOUT_S)
            self._post(ev.MembersReceived(effect.peer, tuple(decode(body, MembersAnswer).beacons)))
        except (NetworkError, BadMessage) as error:
            self._post(ev.CallFailed(effect.peer, "members", str(error), malformed=isinstance(error, BadMessage)))

    async def _rebase(self, effect: ef.Rebase) -> None:
        """In its turn among the states that are being written: none of the old line comes to lie beside the new log."""
        self._lines += 1
        kept_in = await self._compute.do(lambda: self._store.rebase(effect.round, effect.entries))
        self._journal.left(effect.round, kept_in)
        for entry in effect.entries:
            self._journal.decided(entry)
        held = await self._runner(lambda: self.snapshots.held(effect.round))
        self._post(held)

    # ---- the outer state

    def _apply(self, effect: ef.ApplyUpdate) -> None:
        step = step_of(effect.optimizer, from_float32_hex(effect.lr), from_float32_hex(effect.momentum))
        root, line, group = effect.root, self._lines, effect.anchor == "group"

        def work() -> bytes | NotHeld:
            try:
                update = self._store.updates.read_verified(root) if root is not None else None
            except NotHeld as error:
                return error
            return self._state.apply(effect.codec, update, step, effect.local, group)

        def then(outcome: bytes | NotHeld) -> None:
            if isinstance(outcome, NotHeld):
                assert root is not None
                self._journal.warn(str(outcome))
                self._post(ev.UpdateMissed(root, self._network.peer_id, "it is not on this host's disk"))
                return
            self._journal.applied(effect.round, outcome)
            self._post(ev.Applied(effect.round, outcome))
            self.snapshots.applied = effect.round
            if line == self._lines and not group:  # between exact rounds the state is not all that this host has
                self._maybe_snapshot(effect.round, outcome, line)
            if self._apart or group:
                self._compute.submit(lambda: self._spread(effect), self._journal.anchors_apart)
            self._apart = group

        self._compute.submit(work, then)

    def _maybe_snapshot(self, round_: int, digest: bytes, line: int) -> None:
        """What is written meanwhile of a line that is left is not wanted any more."""
        assert self._nursery is not None
        if self.snapshots.is_due(round_, closes=self._apart):
            self.snapshots.start(round_, digest, self._nursery, self._post, lambda: line == self._lines)

    def _spread(self, effect: ef.ApplyUpdate) -> float | None:
        """How far the groups' anchors are apart now (SPEC E8); None where this host cannot tell."""
        if effect.anchor != "group":
            return 0.0
        if effect.root is None or effect.round >= self._store.length:
            return None
        return anchor_spread(self._store.entry(effect.round), effect.root, self._state.apart())

    def _training(self, round_: int) -> None:
        self._journal.trainer_at = trio.current_time()
        self._journal.training(round_)

    def _freeze(self, effect: ef.Freeze) -> None:
        feedback = ErrorFeedback(self._store.residuals, effect.error_of) if effect.feedback else None

        def work() -> Frozen | NotUsable:
            try:
                return self._state.freeze(effect.codec, feedback)
            except NotUsable as error:
                return error

        def then(outcome: Frozen | NotUsable) -> None:
            if isinstance(outcome, NotUsable):
                self._post(ev.DeltaRefused(str(outcome)))
                return
            if outcome.trouble:
                self._journal.warn(outcome.trouble)
            self._transfers.frozen = outcome
            self._post(ev.DeltaFrozen(outcome.norm, outcome.root))

        self._compute.submit(work, then)

    def _spawn(self, work: object, *arguments: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(work, *arguments)  # type: ignore[arg-type]
