"""The collectives that run on this host: what wires bring goes to the one it is about.

Owns the table, and words about transfers that have not begun here, or have ended. Refuses to know what any of it
computes.
"""

import itertools
import threading
import time
from dataclasses import dataclass

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.channel_port import ChannelsPort
from intellectd.daemon.bulk.collective import AFTER_LOSS, AGAIN, ASK, ASK_AGAIN, DONE, Collective
from intellectd.daemon.bulk.collective_plan import key_of
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.frames import Header, Incoming, Kind
from intellectd.daemon.bulk.limits import ENDED_MAX, GOODBYE_S, MISSED_MAX, PARKED_MAX, PARKED_PER_PEER_MAX, PARKED_S
from intellectd.daemon.bulk.neighbour import EARLY, EPOCHS, is_older
from intellectd.daemon.bulk.wire import TRANSFER_ID_BYTES

ANYBODY = ""  # no peer's id


@dataclass(frozen=True)
class _Parked:
    header: Header
    until: float


class Collectives:
    """A `frames.Handler`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Collective] = {}
        self._parked: dict[tuple[str, int], _Parked] = {}  # a GO whose transfer has not begun here
        self._ended: dict[int, tuple[bool, int]] = {}  # by key, the newest last: did it end well, which attempt?
        self._missed: dict[str, dict[int, object] | None] = {}  # by peer, keys of transfers; None: any
        # Of two processes of a host the later one has the higher ones: attempts are further apart than seconds.
        self._attempts = itertools.count(int(time.time()))
        self.channels: ChannelsPort | None = None

    def new_epoch(self) -> int:
        return next(self._attempts) % EPOCHS

    def enter(self, collective: Collective) -> None:
        """Before it runs. Raises ValueError if another one has its key."""
        with self._lock:
            if collective.plan.key in self._running:
                raise ValueError(f"transfer {collective.plan.transfer_id.hex()} is already running; abort it first")
            self._running[collective.plan.key] = collective
            if self._ended.pop(collective.plan.key, None) is not None:
                self._misses(ANYBODY, collective.plan.key)

    def parked(self, collective: Collective) -> list[tuple[str, Header]]:
        """What was said of it before it began, once."""
        now, key = now_s(), collective.plan.key
        with self._lock:
            mine = [peer for peer, of in self._parked if of == key]
            found = [(peer, self._parked.pop((peer, key))) for peer in mine]
        return [(peer, parked.header) for peer, parked in found if parked.until > now]

    def missed(self, collective: Collective) -> set[str] | None:
        """See collective.Table. Called when it has met: what is dropped later is dropped by itself."""
        key, members = collective.plan.key, collective.plan.members
        with self._lock:
            found = {peer for peer in (ANYBODY, *members) if self._missed_of(peer, key)}
        return None if ANYBODY in found else found

    def _misses(self, peer: str, key: int) -> None:
        """Under the lock. Whose table is full is taken to have sent anything."""
        keys = self._missed.setdefault(peer, {})
        if keys is not None:
            keys[key] = None
            if len(keys) > MISSED_MAX:
                self._missed[peer] = None

    def _missed_of(self, peer: str, key: int) -> bool:
        """Under the lock, once."""
        keys = self._missed.get(peer, {})
        return keys is None or keys.pop(key, self) is not self

    def leave(self, collective: Collective) -> bool:
        """Was it there?"""
        key = collective.plan.key
        with self._lock:
            if self._running.get(key) is not collective:
                return False
            del self._running[key]
            self._ended.pop(key, None)
            self._ended[key] = collective.transfer.failure is None, collective.epoch
            if len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]
            return True

    # ---- frames.Handler

    def on_control(self, peer: str, header: Header, payload: bytes) -> None:
        again = header.kind is Kind.GO and header.flag in (AGAIN, AFTER_LOSS)
        asks = header.kind is Kind.WAITING and header.flag in (ASK, ASK_AGAIN)
        names = asks or (header.kind is Kind.GO and not again)
        if names and (len(payload) != TRANSFER_ID_BYTES or key_of(payload) != header.transfer):
            raise WireError(f"{header.kind.name} that does not name its transfer")
        collective = self._running.get(header.transfer)
        if collective is not None:
            if names and payload != collective.plan.transfer_id:
                raise WireError("a transfer whose name begins like another's")
            collective.on_control(peer, header, payload)
        elif again or asks:
            self._tell_end(peer, header.transfer)
        else:
            with self._lock:
                self._park(peer, header)

    def _tell_end(self, peer: str, transfer: int) -> None:
        """It waits for a transfer that was here, for more of it, or to hear that all came."""
        ended = self._ended.get(transfer)
        if ended is not None and self.channels is not None:
            well, epoch = ended
            channel = self.channels.need(peer, GOODBYE_S)
            try:
                channel.tell(Header(Kind.GONE, DONE if well else 0, epoch, 0, transfer))
            finally:
                self.channels.release(peer)

    def _park(self, peer: str, header: Header) -> None:
        now, parked = now_s(), self._parked.get((peer, header.transfer))
        if header.kind is Kind.ABORT and parked is not None and parked.header.step == header.step:
            del self._parked[peer, header.transfer]
        if header.kind is not Kind.GO:
            return
        if parked is not None and is_older(header.step, parked.header.step):
            return
        for key in [key for key, parked in self._parked.items() if parked.until <= now]:
            del self._parked[key]
        mine = [key for key in self._parked if key[0] == peer]
        if len(mine) >= PARKED_PER_PEER_MAX:
            del self._parked[mine[0]]
        if len(self._parked) < PARKED_MAX:
            self._parked[peer, header.transfer] = _Parked(header, now + PARKED_S)

    def wants(self, peer: str, header: Header) -> bool:
        collective = self._running.get(header.transfer)
        if header.flag == EARLY and (collective is None or not collective.has_met):
            with self._lock:
                collective = self._running.get(header.transfer)
                if collective is None or not collective.has_met:
                    self._misses(peer, header.transfer)
                    return False
        return collective is not None and collective.wants(peer, header)

    def on_bytes(self, peer: str, header: Header, count: int) -> None:
        collective = self._running.get(header.transfer)
        if collective is not None:
            collective.on_bytes(peer, count)

    def on_chunk(self, peer: str, header: Header, incoming: Incoming) -> None:
        collective = self._running.get(header.transfer)
        if collective is not None:
            collective.on_chunk(peer, header, incoming)

    def on_lost(self, peer: str, reason: str, refused: bool) -> None:
        for collective in list(self._running.values()):
            collective.on_lost(peer, reason, refused)

    def on_found(self, peer: str) -> None:
        for collective in list(self._running.values()):
            collective.on_found(peer)
