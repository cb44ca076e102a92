"""What every run on this host shares: identity, networks, bulk engine, metrics, known peers, bans.

Owns the wiring between runs and the two planes: messages find their run by its key, bulk trust is the union of
what the runs trust. Refuses to know what a run does.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import trio

from intellectd.daemon.bulk.interface import BulkEngine, Endpoint
from intellectd.daemon.bulk.limits import TRUSTED_MAX
from intellectd.daemon.config import Config
from intellectd.daemon.identity import Identity
from intellectd.daemon.metrics import Metrics
from intellectd.daemon.net import Network
from intellectd.daemon.runs.compute import RunsWork, in_thread
from intellectd.daemon.runs.known_peers import KnownPeers

BAN_S = 30.0  # how long a peer that broke the protocol is not listened to: a restart with a newer version takes less
BANNED_MAX = 1024  # as many as may be members
NEVER = float("-inf")

HeardAt = Callable[[str], float]


class Host:
    def __init__(
        self,
        config: Config,
        identity: Identity,
        network: Network,
        bulk: BulkEngine,
        metrics: Metrics,
        nursery: trio.Nursery,
        runner: RunsWork = in_thread,
    ) -> None:
        self.config, self.identity, self.network, self.bulk = config, identity, network, bulk
        self.metrics, self.nursery, self.runner = metrics, nursery, runner
        self.known = KnownPeers(config.state_dir, runner)
        self._trusted: dict[bytes, dict[str, Endpoint]] = {}
        self._banned: dict[str, float] = {}
        self._listeners: dict[bytes, Callable[[str, bytes], None]] = {}
        self._heard_at: dict[bytes, HeardAt] = {}
        network.on_post(self._on_post)
        for peer, addresses in self.known.addresses.items():
            network.learn(peer, addresses)
        network.on_traffic(lambda direction, size: metrics.network_bytes(direction, "control", size))
        network.on_mismatch(metrics.version_refused)
        network.keep(self.is_member)
        metrics.before_reading("network", lambda: metrics.dht_routing_table(network.directory_peers()))
        metrics.before_reading("links", lambda: metrics.links(bulk.links().values()))
        metrics.before_reading("relayed", lambda: metrics.relayed(*bulk.relayed()))
        nursery.start_soon(self.known.save_always)

    @property
    def runs_dir(self) -> Path:
        return self.config.state_dir / "runs"

    @property
    def left_dir(self) -> Path:
        """Runs that this host has left: a voter that comes back must remember what it voted."""
        return self.config.state_dir / "left"

    # ---- messages

    def listen(self, run: bytes, listener: Callable[[str, bytes], None], heard_at: HeardAt) -> None:
        """`heard_at`: when that run heard a peer last, on trio's clock."""
        self._listeners[run], self._heard_at[run] = listener, heard_at

    def is_member(self, peer: str) -> bool:
        """Of whom a run here has heard. Whoever is announced somewhere is spoken to, and anybody may announce names."""
        return any(heard_at(peer) > NEVER for heard_at in self._heard_at.values())

    def unlisten(self, run: bytes) -> None:
        self._listeners.pop(run, None)
        self._heard_at.pop(run, None)
        if self._trusted.pop(run, None) is not None:
            self._retrust()

    def _on_post(self, peer: str, body: bytes) -> None:
        # An envelope is a msgpack array of four whose first element is the run key: bytes 3 to 35.
        listener = self._listeners.get(body[3:35]) if len(body) > 35 else None
        if listener is not None and not self.banned(peer):
            listener(peer, body)

    # ---- Tells, for performers

    def trust(self, run: bytes, peers: dict[str, Endpoint]) -> None:
        self._trusted[run] = peers
        self._retrust()

    def trusts(self, run: bytes, peer: str) -> bool:
        """Has that run heard of the peer's certificate? From any thread."""
        return peer in self._trusted.get(run, {})

    def remember(self, peer: str, addresses: tuple[str, ...]) -> None:
        if peer != self.identity.peer_id:
            self.known.remember(peer, addresses)

    def banned(self, peer: str) -> bool:
        return self._banned.get(peer, float("-inf")) > trio.current_time()

    def ban(self, peer: str) -> bool:
        """Hang up and do not listen for a while. False if that was so already: one fault is as good as many."""
        if peer == self.identity.peer_id or self.banned(peer):
            return False
        self._banned.pop(peer, None)
        self._banned[peer] = trio.current_time() + BAN_S
        if len(self._banned) > BANNED_MAX:
            del self._banned[next(iter(self._banned))]
        self.nursery.start_soon(self.network.evict, peer)
        return True

    def _retrust(self) -> None:
        """Of more than the bulk plane takes, each run has its turn: one that a member fills with made-up names must not
        leave the others without theirs, nor end the daemon."""
        turns = itertools.chain.from_iterable(itertools.zip_longest(*self._trusted.values()))
        peers = dict.fromkeys(peer for peer in turns if peer not in (None, self.identity.peer_id))
        self.bulk.trust({peer: self._endpoint_of(peer) for peer in itertools.islice(peers, TRUSTED_MAX)})

    def _endpoint_of(self, peer: str) -> Endpoint:
        """As the run has it that heard the peer last. One that has ended there goes on showing the certificate of a
        life that is over."""

        def heard_at(run: bytes) -> float:
            return self._heard_at[run](peer) if run in self._heard_at else NEVER

        return self._trusted[max((run for run, one in self._trusted.items() if peer in one), key=heard_at)][peer]
