"""One run on this host, assembled: node, driver, stores, compute, trainer; alive while its nursery is.

Owns construction, the order of start and stop, and what a failure ends. A damaged file halts its run alone: the
other runs of this host go on, and `status` and the log say what to do. Anything else ends the daemon: a disk that
takes no more votes is every run's trouble, and after a fault of ours the state on disk is better than the one in
memory. Refuses to decide what happens in a run: that is the node's word.
"""

from collections import Counter
from pathlib import Path
from random import Random

import trio

from intellectd.daemon import attach_events as trainer_events
from intellectd.daemon.attach_request import AttachRequest, check_tensors
from intellectd.daemon.control import ControlError
from intellectd.daemon.logs import get_log, log_if_changed
from intellectd.daemon.net import NetworkError
from intellectd.daemon.p2p.addresses import parse
from intellectd.daemon.runs.compute import Compute
from intellectd.daemon.runs.crypto import Ed25519Crypto
from intellectd.daemon.runs.driver import Driver
from intellectd.daemon.runs.history import HistoryKeeper
from intellectd.daemon.runs.host import Host
from intellectd.daemon.runs.journal import Journal
from intellectd.daemon.runs.opening import Opened, layout_of, open_run
from intellectd.daemon.runs.perform import Performer
from intellectd.daemon.runs.seat import Seat
from intellectd.daemon.store.budget import Retention
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.trainer_process import TrainerProcess, trainer_command
from intellectd.protocol import events as ev
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.entries import GOSSIP
from intellectd.protocol.manifest import ExternalModel, config_of, plain
from intellectd.protocol.messages import call_proof
from intellectd.protocol.node import Node
from intellectd.protocol.quorum import Reach

FIND_S_MIN, FIND_S_MAX = 2.0, 60.0  # between two looks into the DHT: soon while alone, seldom afterwards
DISCOVERY_KEY_CHARS = 48  # the DHT takes keys of at most 50 bytes (libp2p 0.8.1)
FOUND_ADDRESSES_MAX = 16  # of one peer
TRAINER_AGAIN_S = 60.0  # after one that ended well for no reason that we know

VOTERS_S = 1.0  # between two looks whether a quorum is heard, for the log; beacons come every 5 s

log = get_log("run")


class RunService:
    def __init__(self, host: Host, opened: Opened, node: Node, journal: Journal, where: ev.AddressesChanged) -> None:
        """From the trio thread. `serve` is to follow."""
        self.host, self.run_id, self.store = host, opened.run_id, opened.store
        self.manifest, self.state = opened.manifest, opened.state
        self.run, self.secret = run_ids.run_key(self.run_id), run_ids.run_secret(self.run_id)
        self.config = config_of(self.manifest)
        self.manifest_bytes = opened.manifest_bytes
        self.journal, self.node, self._where = journal, node, where
        if opened.written_at is not None:
            host.metrics.snapshot_written(self.config.name, max(0, opened.applied), opened.written_at)
        self._history = HistoryKeeper(self.store.path, host.runner, lambda: self.journal.history)
        self.journal.on_news = self._history.changed
        self.compute = Compute(host.runner)
        self.trainer: TrainerProcess | None = None
        self.ended = trio.Event()
        self.changed = trio.Event()  # set and replaced whenever an event was handled
        self._scope = trio.CancelScope()
        self._voters_at = 0.0  # when to look next whether they are a quorum
        self.journal.plan = lambda came, rate: node.catchup.left(node.head, came, rate, trio.current_time())
        self.seat = Seat(self.state, self.compute, host.runner, self._on_trainer)
        self.performer = Performer(
            run=self.run,
            store=self.store,
            state=self.state,
            compute=self.compute,
            runner=host.runner,
            network=host.network,
            bulk=host.bulk,
            seat=self.seat,
            journal=self.journal,
            tells=host,
            prove=lambda peer: call_proof(self.secret, host.identity.peer_id, peer),
            post=self.post,
            stall_s=self.config.timers.stall_s,
            feedback=self.config.outer.error_feedback,
        )
        self.driver = Driver(self.node, self.performer)
        self.driver.ignores, self.driver.before, self.driver.after = host.banned, self.seat.before, self._after
        self.seat.post = self.post

    def post(self, event: ev.Event) -> None:
        self.driver.post(event)

    # ---- life

    async def serve(self) -> None:
        """Until `stop`."""
        host, name = self.host, self.config.name
        host.metrics.run_info(name, self.model_kind, host.identity.peer_id)
        host.metrics.before_reading(self.run_id, self._tell_metrics)
        try:
            with self._scope:
                await self._work()
                await trio.sleep_forever()  # halted, until a person has read why
        finally:
            host.metrics.end_run(self.run_id)
            self.store.close()
            self.ended.set()
            self.tell_waiters()

    async def _work(self) -> None:
        """Until cancelled, or until a file turns out to be damaged."""
        try:
            async with trio.open_nursery() as nursery:
                snapshots, applied = self.performer.snapshots, self.node.catchup.applied
                held = await self.host.runner(lambda: snapshots.held_at_start(applied))
                self.post(held)
                for peer, addresses in self.host.known.addresses.items():
                    self.post(ev.PeerLearned(peer, tuple(addresses)))
                self.host.listen(
                    self.run, lambda via, body: self.post(ev.MessageReceived(via, body)), self.node.membership.heard_at
                )
                self.performer.begin(nursery)
                for task in (self.performer.run, self.compute.run, self.driver.run, self._history.keep):
                    nursery.start_soon(task)
                nursery.start_soon(self._discover)
                nursery.start_soon(self._run_trainer)
        except* CorruptFile as group:
            self._halt(group)
        finally:
            self.host.unlisten(self.run)
            self.seat.link.detach("the run has ended here")

    def _halt(self, group: BaseExceptionGroup) -> None:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        reason = str(error).replace("\n", "; ")
        self.node.halted = reason
        self.journal.halted(reason)
        self.tell_waiters()

    @property
    def model_kind(self) -> str:
        return "external" if isinstance(self.config.model, ExternalModel) else "llama"

    def stop(self) -> None:
        self._scope.cancel()

    @property
    def stuck_s(self) -> float:
        """How long the driver has not gone round; 0 where it need not."""
        idle = self.node.halted or self.ended.is_set() or not self.driver.handled_at
        return 0.0 if idle else trio.current_time() - self.driver.handled_at

    @property
    def awaits_program(self) -> bool:
        """No trainer is started here: the host says so, or the built-in one does not know the model."""
        trainer = self.host.config.trainer
        return trainer == "external" or (trainer == "builtin" and isinstance(self.config.model, ExternalModel))

    async def _run_trainer(self) -> None:
        """Keep a trainer, unless a person is to start it."""
        config = self.host.config
        if self.awaits_program:
            return
        command = trainer_command(
            config.trainer,
            self.run_id,
            plain(self.config),
            config.socket,
            threads=config.trainer_threads,
            data=config.data,
        )
        # The state comes first: a trainer that starts while it is fetched would only wait, with memory held.
        while not self.node.catchup.has_state:
            await self.changed.wait()
        self.trainer = TrainerProcess(command)
        while True:
            await self.trainer.run()
            if self.node.state == "finished":
                return
            log.warning("the trainer ended though the run goes on", run=self.config.name, again_in_s=TRAINER_AGAIN_S)
            await trio.sleep(TRAINER_AGAIN_S)

    # ---- finding peers

    @property
    def discovery_key(self) -> str:
        return self.run.hex()[:DISCOVERY_KEY_CHARS]

    async def _discover(self) -> None:
        wait = FIND_S_MIN
        while True:
            self._say_where()
            await self._find_once()
            alone = not self.node.membership.alive_beacons(trio.current_time())
            wait = FIND_S_MIN if alone else min(2 * wait, FIND_S_MAX)
            await trio.sleep(wait)

    def _say_where(self) -> None:
        """To the others, if this host has moved."""
        where, before = _whereabouts(self.host), self._where
        if where == before or (_offline(where) and not _offline(before)):  # between two leases, say
            return
        log.info("this host has moved", run=self.config.name, addresses=" ".join(where.addresses), bulk=where.bulk)
        self._where = where
        self.post(where)

    async def _find_once(self) -> None:
        network, metrics, asking = self.host.network, self.host.metrics, "provide"
        try:
            await network.announce(self.discovery_key)
            metrics.dht_request("provide", "ok")
            asking = "find"
            found = await network.find(self.discovery_key)
            metrics.dht_request("find", "ok")
        except NetworkError as error:
            metrics.dht_request("find" if asking == "find" else "provide", "failed")
            log_if_changed(log.info, f"find {self.config.name}", "the DHT does not answer", reason=str(error))
            return
        for peer, addresses in sorted(found.items()):
            self.post(ev.PeerLearned(peer, tuple(addresses[:FOUND_ADDRESSES_MAX])))

    # ---- the trainer

    async def attach(self, sock: trio.socket.SocketType, request: AttachRequest) -> None:
        check_tensors(self.state.layout, request)
        if self.node.halted or self.ended.is_set():
            raise ControlError("halted", f"the run is halted here: {self.node.halted}", "`intellectd status` says more")
        node = self.node
        if request.training_round is not None and node.catchup.applying is not None:
            # A moment after a restart: once the updates on disk are applied, its round may prove to be the one to do.
            raise ControlError(
                "not_ready", "the run's state is still being brought up to date", "ask again in a moment"
            )
        await self.seat.attach(
            sock,
            request,
            lambda: {
                "run": self.run_id,
                "peer": self.host.identity.peer_id,
                "elements": self.state.layout.elements,
                "want": "round",
                "manifest": plain(self.config),
                "evaluate": self.host.config.evaluate,
                "encode": self._trainers_codec if request.encodes else None,
            },
            lambda: node.progress.resumes(node.head, node.catchup.applied, request.training_round),
        )

    @property
    def _trainers_codec(self) -> str | None:
        """In which a trainer may encode. None with error feedback, for what encoding loses lies here (SPEC P10), nor
        with gossip, where a delta is measured from the state, which no trainer has (SPEC E6)."""
        outer = self.config.outer
        return None if outer.error_feedback or outer.schedule == GOSSIP else outer.codec

    def _on_trainer(self, event: trainer_events.TrainerEvent) -> None:
        name, journal = self.config.name, self.journal
        if self.ended.is_set():
            return  # the words of a trainer that is being sent away: nobody is to hear of this run any more
        journal.trainer_at = trio.current_time()
        match event:
            case trainer_events.TrainerAttached():
                log.info("a trainer is attached", run=name, pid=event.pid)
            case trainer_events.TrainerDetached():
                journal.trainer_gone()
            case trainer_events.TrainerReady():
                journal.trained(event)
                self.post(ev.TrainerReady(event.round, event.tokens, event.steps))
            case trainer_events.TrainerLog():
                journal.training_log(event)
            case trainer_events.TrainerEvaluated():
                if event.loss is not None:
                    journal.evaluated(event.state_round, event.loss)

    # ---- after every event

    def _after(self) -> None:
        node = self.node
        behind = node.catchup.applied < node.head.round - 1 or not node.catchup.has_state
        self.journal.catching_up(behind, node.catchup.applied, node.catchup.fetches)
        if trio.current_time() >= self._voters_at:  # it looks through all peers, and events come in hundreds a second
            self._voters_at = trio.current_time() + VOTERS_S
            self.journal.voters(self.reach)
        self.tell_waiters()

    def _tell_metrics(self) -> None:
        metrics, name, node = self.host.metrics, self.config.name, self.node
        metrics.outer_step(name, max(0, node.catchup.applied), max(0, node.head.round))
        metrics.peers(name, Counter(member_states(node, trio.current_time()).values()))
        metrics.trainer_attached(name, self.seat.link.attached)
        metrics.halted(name, bool(node.halted))
        self.journal.phase()
        self.journal.tell_catchup()
        reach, voters = self.reach, node.head.voters
        here = sum(1 for voter in voters if node.membership.alive(voter, trio.current_time()))
        metrics.voters(name, reachable=here, seats=len(voters), quorum=reach is None or reach.quorum)

    @property
    def reach(self) -> Reach | None:
        """Which voters this host hears now; None where that says nothing: a newcomer does not know who votes."""
        return self.node.round.reach(trio.current_time()) if self.node.catchup.has_state else None

    def tell_waiters(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()


def _whereabouts(host: Host) -> ev.AddressesChanged:
    return ev.AddressesChanged(tuple(host.network.addresses()), host.bulk.endpoint.address)


def _offline(where: ev.AddressesChanged) -> bool:
    return all(parse(address).loopback() for address in where.addresses)


def _replay(host: Host, opened: Opened, where: ev.AddressesChanged, now: float) -> tuple[Node, Journal]:
    """What the log makes of them: in a thread, for it reads all of it."""
    config = config_of(opened.manifest)
    journal = Journal(config.name, host.metrics, config.outer.codec)
    journal.recall(opened.history)
    journal.restore(opened.entries)
    node = Node(
        peer=host.identity.peer_id,
        run=run_ids.run_key(opened.run_id),
        manifest=opened.manifest,
        crypto=Ed25519Crypto(host.identity, run_ids.run_secret(opened.run_id)),
        rng=Random(),
        now=now,
        incarnation=opened.incarnation,
        addresses=where.addresses,
        bulk=(where.bulk, host.bulk.endpoint.certificate),
        entries=opened.entries,
        applied=opened.applied,
        applied_digest=opened.digest,
        vote=opened.vote,
        other_votes=opened.votes,
        held_updates=opened.held_updates,
        pin=opened.pin,
    )
    return node, journal


def member_states(node: Node, now: float) -> dict[str, str]:
    """How the other members are heard. Who only left its address here is none, and neither is who has left."""
    seats = dict.fromkeys([*node.head.voters, *(a.peer for a in node.head.blob.assignments)])
    known = {peer: None for peer, view in node.membership.peers.items() if view.beacon is not None}
    states = {peer: _member_state(node, peer, now) for peer in sorted({**known, **seats}) if peer != node.context.peer}
    return {peer: state for peer, state in states.items() if state != "left" or peer in node.head.voters}


def _member_state(node: Node, peer: str, now: float) -> str:
    beacon = node.membership.beacon(peer)
    alive = node.membership.alive(peer, now)
    if beacon is not None and beacon.leaving:
        return "leaving" if alive else "left"
    if alive:
        return "alive"
    return "silent" if node.membership.silent(peer, now) else "suspect"


async def open_service(host: Host, path: Path) -> RunService:
    """Reads and verifies the folder in a thread. Raises CorruptFile or StorageError."""
    kept = host.config.snapshots
    retention = Retention(kept.keep, kept.keep_gb * 10**9)
    opened: Opened = await host.runner(lambda: open_run(path, host.identity, retention))
    try:
        where, now = _whereabouts(host), trio.current_time()
        node, journal = await host.runner(lambda: _replay(host, opened, where, now))
        return RunService(host, opened, node, journal, where)
    except BaseException:
        opened.store.close()
        raise


__all__ = ["RunService", "layout_of", "member_states", "open_service"]
