"""A channel: all wires between this host and one peer, and the wish for more or fewer.

Owns the set of wires, who needs them, when the next may be dialled, and the news of losses and finds in their order.
Refuses to know how a wire is dialled. Frames keep no order between wires. Its locks: `_news` around a change and the
handler's word of it, so that words come in the order of the changes; `_changed` around the state, never held while
the handler is called.
"""

import functools
import threading
from collections.abc import Callable

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.channel_measure import Meter
from intellectd.daemon.bulk.channel_wire import Wire, said_of
from intellectd.daemon.bulk.errors import LinkLost, PeerRefused, WireError
from intellectd.daemon.bulk.frames import Handler, Header, Kind, Outgoing, encode_header
from intellectd.daemon.bulk.limits import (
    CHANNEL_STALL_S,
    DIAL_BACKOFF_FIRST_S,
    DIAL_BACKOFF_MAX_S,
    DIAL_PATIENCE_S,
    FRAME_BYTES_MAX,
    IDLE_S,
    REFUSED_S,
    STREAMS_MAX,
    UNSENT_BYTES_MAX,
    UNSENT_BYTES_MIN,
    WIRE_LIVES_S,
)
from intellectd.daemon.bulk.outbox import Control, Outbox
from intellectd.daemon.bulk.streams import First
from intellectd.daemon.bulk.tcp_info import TcpCounters


class Channel:
    """What layers above use: `peer`, `tell`, `send`, `drop`. The rest is for the wires and for Channels."""

    def __init__(
        self,
        me: str,
        peer: str,
        handler: Handler,
        on_ended: Callable[["Channel"], None],
        first: First,
        share: Callable[[], int],
        relay: Callable[[], str],
    ) -> None:
        """`share`: how many wires it may want, of those that this host may have. `relay`: who joins the two, or ""."""
        self.peer = peer
        self.handler = handler
        self.outbox = Outbox()
        self.offences = 0  # times that the peer broke the protocol
        self.meter = Meter(first)
        self._dials_first = me < peer
        self._share, self._relay_now = share, relay
        self._on_ended = on_ended  # a wire has ended
        self._news = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        self._wires: dict[bytes, Wire] = {}  # by id, oldest first
        self._reserved: dict[bytes, None] = {}  # ids of wires about to stand
        self._gone: dict[bytes, None] = {}  # ids of wires that stand no more, whose readers still hold a chunk
        self._dismissed: dict[bytes, None] = {}  # ids of wires that were told to end, and have not yet
        self._needs = 0
        self._used_s = now_s()
        self._stall_s = CHANNEL_STALL_S
        self._found = False
        self._closing = False
        self._reached: bytes | None = None  # the certificate of the process that this host has dialled, and found
        self._alone_s = now_s()  # when it last began to lack any wire
        self._due_s = 0.0  # before which nothing is dialled
        self._backoff_s = 0.0

    def tell(self, header: Header, payload: bytes = b"") -> None:
        """Queue a control frame, ahead of all chunks. ValueError: no peer would accept it. OverflowError: too many
        wait. On a channel of several wires it may overtake others and be overtaken."""
        header = header if header.length == len(payload) else header._replace(length=len(payload))
        if header.kind not in (Kind.GO, Kind.WAITING, Kind.ABORT, Kind.GONE):
            raise ValueError(f"{header.kind.name} is no control frame of a transfer")
        encode_header(header)
        self.outbox.tell(Control(header, payload))

    def send(self, item: Outgoing, *, first: bool = False) -> None:
        """Queue a chunk, `first`: ahead of all others. ValueError: it is none. OverflowError: too many wait."""
        if item.header.kind is not Kind.CHUNK or item.header.length > FRAME_BYTES_MAX:
            raise ValueError(f"{item.header} is no chunk of at most {FRAME_BYTES_MAX} bytes")
        self.outbox.send(item, first)

    def drop(self, transfer: int) -> None:
        """Forget what is queued of it. One that a wire has taken is in the wire's own buffer, or asks `fill` yet."""
        self.outbox.drop(transfer)

    def drop_chunks(self, transfer: int) -> None:
        """As `drop`, but words of it are still said."""
        self.outbox.drop_chunks(transfer)

    @property
    def width(self) -> int:
        return len(self._wires)

    @property
    def relay(self) -> str:
        return self._relay_now()

    @property
    def wires(self) -> list[Wire]:
        with self._changed:
            return list(self._wires.values())

    @property
    def lingering(self) -> int:
        """Wires that have ended, but for a reader with a chunk that the handler holds: their memory is still in use."""
        return len(self._gone)

    @property
    def at_work(self) -> list[Wire]:
        """Those that stand and take no leave, the newest last."""
        return [wire for wire in self.wires if not wire.is_retiring()]

    def counters(self) -> TcpCounters | None:
        """Of the wires that stand; None where there are none, or the kernel does not tell."""
        found = [counters for wire in self.wires if (counters := wire.counters()) is not None]
        return functools.reduce(TcpCounters.beside, found) if found else None

    @property
    def is_needed(self) -> bool:
        return self._needs > 0

    @property
    def used_s(self) -> float:
        """When it was last needed, or got a wire."""
        return self._used_s

    def need(self, stall_s: float) -> None:
        with self._changed:
            self._stall_s = max(self._stall_s, stall_s) if self._needs else stall_s  # the most patient one's
            self._needs += 1
            self._used_s = now_s()
            stall_s = self._stall_s
            if not self._wires:
                self._alone_s = now_s() if self._needs == 1 else self._alone_s
                self._backoff_s = 0.0
                self._due_s = now_s() + self._patience_s()
            wires = list(self._wires.values())
            self._changed.notify_all()
        for wire in wires:
            wire.stall_after(stall_s)

    def stall_after(self, stall_s: float) -> None:
        """Instead of what `need` said, until nobody needs it."""
        with self._changed:
            if not self._needs:
                return
            self._stall_s = stall_s
            wires = list(self._wires.values())
        for wire in wires:
            wire.stall_after(stall_s)

    def release(self) -> None:
        """ValueError: nobody needs it."""
        with self._changed:
            if not self._needs:
                raise ValueError(f"the channel to {self.peer} was released more often than needed")
            self._needs -= 1
            self._used_s = now_s()
            wires = list(self._wires.values())
            if not self._needs:
                self._stall_s = CHANNEL_STALL_S
            stall_s = self._stall_s
            self._changed.notify_all()
        for wire in wires:
            wire.stall_after(stall_s)
        self.meter.transfer_ended(wires, self.outbox.busy_s())
        self._retire_surplus()

    def wire_ids(self) -> tuple[bytes, ...]:
        """Of all wires that the peer should not take for dead."""
        with self._changed:
            return (*self._wires, *self._reserved)

    def reserve(self, wire_id: bytes) -> None:
        """For one more wire, which is about to stand. LinkLost: there are as many as may be; those that the peer has
        lost were disowned before."""
        with self._changed:  # two may be about to stand at once
            if len(self._wires) - len(self._dismissed) + len(self._reserved) >= STREAMS_MAX:
                raise LinkLost(f"it has opened {STREAMS_MAX} already")
            self._reserved[wire_id] = None

    @property
    def staying(self) -> int:
        """How many wires stand and were not told to end."""
        with self._changed:
            return len(self._wires) - len(self._dismissed)

    def unreserve(self, wire_id: bytes) -> None:
        with self._changed:
            self._reserved.pop(wire_id, None)

    def disown(self, listed: tuple[bytes, ...], since_s: float) -> None:
        """Of the wires that stood by then the peer has these alone. It wrote the list later, but how long ago nobody
        knows: on a slow line that is full a request takes seconds."""
        with self._changed:
            found = list(self._wires.values())
            lost = [wire for wire in found if wire.wire_id not in listed and wire.stood_s < since_s]
            self._dismissed.update({wire.wire_id: None for wire in lost})
        for wire in lost:
            wire.end(LinkLost("it has lost this connection"))

    def keep_only(self, certificate: bytes | None) -> None:
        """Wires to another process of the peer's, or of a peer no longer trusted (None), are at their end."""
        if self._reached != certificate:
            self._reached = None
        for wire in self.wires:
            if wire.certificate != certificate:
                wire.end(
                    LinkLost("its certificate is another one now" if certificate else "it is not trusted any more")
                )

    def stand(self, wire: Wire) -> bool:
        """A wire joins, its threads not yet started. False: the channel is closing, and the wire its caller's."""
        with self._news:
            with self._changed:
                self._reserved.pop(wire.wire_id, None)
                if self._closing:
                    return False
                self._wires[wire.wire_id] = wire
                self._reached = wire.certificate if wire.dialled else self._reached
                self._used_s = now_s()
                stall_s = self._stall_s
                news, self._found = not self._found, True
                self._changed.notify_all()
            wire.stall_after(stall_s)
            self.meter.wire_stands(wire)
            self._share_room()
            if news:
                self.handler.on_found(self.peer)
        return True

    def _share_room(self) -> None:
        """Many wires together may hold as much back as one alone."""
        wires = self.wires
        for wire in wires:
            wire.unsent_at_most(max(UNSENT_BYTES_MIN, UNSENT_BYTES_MAX // len(wires)))

    def wire_ended(self, wire: Wire, failure: Exception | None) -> None:
        with self._news:
            self.meter.wire_ended(wire)
            with self._changed:
                self._gone[wire.wire_id] = None
                self._wires.pop(wire.wire_id, None)
                self._dismissed.pop(wire.wire_id, None)
                self._plan_redial(wire, isinstance(failure, WireError))
                left, closing = bool(self._wires), self._closing
                self._alone_s = self._alone_s if left else now_s()
                self._found = left
                self.offences += isinstance(failure, WireError)
                self._changed.notify_all()
            if failure is not None and not closing:
                self.handler.on_lost(self.peer, self._said_of(failure), False)
                if left:
                    self.handler.on_found(self.peer)
        self._on_ended(self)

    def wire_gone(self, wire: Wire) -> None:
        with self._changed:
            self._gone.pop(wire.wire_id, None)

    def dial_failed(self, failure: Exception) -> None:
        with self._news:
            with self._changed:
                self._back_off()
                alone = not self._wires and not self._closing
                self.offences += isinstance(failure, WireError)
                # An address at which nobody was ever found may be a wrong one, of a host that can dial this one.
                sure = self._reached is not None or now_s() - self._alone_s >= REFUSED_S
            if alone:
                self.handler.on_lost(self.peer, self._said_of(failure), sure and isinstance(failure, PeerRefused))

    def lacks_wires(self) -> bool:
        """Whether it should be dialled, now or soon. Call under no lock."""
        with self._changed:
            return self._lacks()

    def await_dial(self) -> bool:
        """Return when it is time to dial (True) or when nothing is lacking (False)."""
        with self._changed:
            while self._lacks():
                wait_s = self._due_s - now_s()
                if wait_s <= 0:
                    return True
                self._changed.wait(wait_s)
            return False

    def dial_anew(self) -> None:
        """Something is known now that may make dialling succeed."""
        with self._changed:
            self._backoff_s = 0.0
            self._due_s = min(self._due_s, now_s() + self._patience_s())
            self._changed.notify_all()

    def is_idle(self) -> bool:
        return not self._needs and now_s() - self._used_s > IDLE_S

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Say what is queued but the chunks, then BYE; nothing is dialled any more."""
        with self._changed:
            self._closing = True
            wires = list(self._wires.values())
            self._changed.notify_all()
        self.outbox.forget_chunks()
        for wire in wires:
            wire.retire()

    def _lacks(self) -> bool:
        standing = sum(not wire.is_retiring() for wire in self._wires.values()) + len(self._reserved)
        return (
            self._needs > 0
            and not self._closing
            and standing < min(self.meter.wanted, 1 if self.relay else self._share())
        )

    def _said_of(self, failure: Exception) -> str:
        relay = self.relay
        return f"{said_of(failure)} (through {relay})" if relay else said_of(failure)

    def _patience_s(self) -> float:
        return 0.0 if self._dials_first or self.relay else DIAL_PATIENCE_S

    def _plan_redial(self, wire: Wire, broke_protocol: bool) -> None:
        """After a loss: at once, unless wires die as soon as they stand. Who reached the other last dials first."""
        now = now_s()
        if now - wire.stood_s < WIRE_LIVES_S or broke_protocol:
            self._back_off()
        else:
            self._backoff_s, self._due_s = 0.0, now
        if not self._wires and not wire.dialled:
            self._due_s = max(self._due_s, now + self._patience_s())

    def _back_off(self) -> None:
        self._backoff_s = min(max(2 * self._backoff_s, DIAL_BACKOFF_FIRST_S), DIAL_BACKOFF_MAX_S)
        self._due_s = now_s() + self._backoff_s

    def _retire_surplus(self) -> None:
        """Of the wires dialled from here, those above the wish; where both dialled, the lower id takes its back."""
        with self._changed:
            standing = [wire for wire in self._wires.values() if not wire.is_retiring()]
            own = [wire for wire in standing if wire.dialled]
            surplus = len(own) - self.meter.wanted
            if self._dials_first:
                surplus = max(surplus, min(len(own), len(standing) - self.meter.wanted))
        for wire in own[: max(0, surplus)]:
            wire.retire()
