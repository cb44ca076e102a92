"""A member of collectives whose keys and channels are real and whose words are the test's."""

import contextlib
import queue
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from intellectd.daemon.bulk.channel import Channel
from intellectd.daemon.bulk.collective import ASK
from intellectd.daemon.bulk.collective_plan import CollectivePlan, key_of, plan_of
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.errors import LinkLost
from intellectd.daemon.bulk.frames import Header, Incoming, Kind
from intellectd.daemon.bulk.neighbour import EARLY, EPOCH_OF_CHUNK
from tests.daemon.bulk_swarm import STALL_S, Case, Events, swarm, transfer_id, trust_all
from tests.daemon.channel_hosts import WAIT_S, Diary, Host, Piece

EPOCH = 700  # of the puppet's first attempt: more than a chunk's header has room for


class PuppetDiary(Diary):
    """Chunks with their headers, apart from all words, which they may overtake; nothing is refused."""

    def __init__(self, asked: Callable[[str], None]) -> None:
        super().__init__()
        self._asked = asked
        self.came: queue.Queue[tuple[Header, bytes]] = queue.Queue()

    def on_control(self, peer: str, header: Header, payload: bytes) -> None:
        super().on_control(peer, header, payload)
        if header.kind is Kind.WAITING and header.flag == ASK:
            self._asked(peer)

    def on_chunk(self, _peer: str, header: Header, incoming: Incoming) -> None:
        self.pass_gate()
        place = bytearray(header.length)
        incoming.open_into(memoryview(place))
        self.came.put((header, bytes(place)))


class Puppet(Host):
    def __init__(self, peer: str, case: Case) -> None:
        self.arrived = PuppetDiary(self._go_once_more)
        self._went: dict[str, None] = {}  # to whom it has said GO in this attempt
        super().__init__(peer, diary=self.arrived)
        self.case, self.epoch = case, EPOCH
        self.key = key_of(transfer_id(case.name))
        self.plan: CollectivePlan = plan_of(case.job(peer), peer)
        self.me = case.members.index(peer)
        self.epochs: dict[str, int] = {}  # of the others, as they say
        self.ready: dict[str, int] = {}  # likewise, of those who said GO
        self._past: dict[str, int] = {}  # of the others, when this attempt began
        self._channels_to: dict[str, Channel] = {}

    def to(self, peer: str) -> Channel:
        if peer not in self._channels_to:
            self._channels_to[peer] = self.channels.need(peer, STALL_S)
        return self._channels_to[peer]

    def say(self, peer: str, kind: Kind, flag: int = 0, payload: bytes = b"", step: int | None = None) -> None:
        header = Header(kind, flag, self.epoch if step is None else step, 0, self.key)
        self.to(peer).tell(header, payload)

    def go(self, *peers: str) -> None:
        for peer in peers:
            self._went[peer] = None
            self.say(peer, Kind.GO, payload=transfer_id(self.case.name))

    def _go_once_more(self, peer: str) -> None:
        """What was said before the other had begun is lost, and asked for."""
        if peer in self._went:
            self.go(peer)

    def ask(self, peer: str, flag: int = 1) -> None:
        self.say(peer, Kind.WAITING, flag, transfer_id(self.case.name))

    def hear(self, kind: Kind, flag: int | None = None, peer: str | None = None) -> tuple[Header, bytes]:
        """The next word of this kind; who says it, and in which attempt, is kept."""
        while True:
            _control, sender, header, payload = self.diary.next("control")
            assert isinstance(sender, str) and isinstance(header, Header) and isinstance(payload, bytes)
            self.epochs[sender] = header.step
            if header.kind is Kind.GO and header.step != self._past.get(sender):
                self.ready[sender] = header.step
            if header.kind is kind and flag in (None, header.flag) and peer in (None, sender):
                return header, payload

    def begin_anew(self) -> None:
        self.epoch += 1
        self.ready.clear()
        self._went.clear()
        self._past = dict(self.epochs)

    def meet(self) -> None:
        """GO from and to all its neighbours."""
        awaited = set()
        for number in self.plan.neighbours:
            peer = self.case.members[number]
            if number in self.plan.arrivals:
                self.go(peer)
            if number in self.plan.departures:
                self.ask(peer)
                awaited.add(peer)
        while awaited - set(self.ready):
            self.hear(Kind.GO)

    def send(self, peer: str, chunk: int, step: int, payload: bytes, epoch: int | None = None) -> Piece:
        flag = (self.ready[peer] if epoch is None else epoch) & EPOCH_OF_CHUNK
        sent = Piece(Header(Kind.CHUNK, flag, step, chunk, self.key, len(payload)), payload)
        self.to(peer).send(sent)
        return sent

    def own(self, chunk: int) -> bytes:
        """Its delta as it was encoded; of weight 1 in a ring of two, its part."""
        place = self.plan.chunks[chunk]
        return bytes(self.case.deltas[self.me][place.start : place.stop])

    def chunk(self) -> tuple[Header, bytes]:
        """The next that comes for this attempt."""
        while True:
            header, payload = self.arrived.came.get(timeout=WAIT_S)
            if header.flag in (EARLY, self.epoch & EPOCH_OF_CHUNK):
                return header, payload

    def finish(self, peer: str) -> None:
        """The rest of a ring of two, in which sums and results are its delta."""
        lacking = {chunk.index for chunk in self.plan.chunks if chunk.owner == self.me}
        for chunk in self.plan.chunks:
            if chunk.owner != self.me:
                self.send(peer, chunk.index, 0, self.own(chunk.index))
        while lacking:
            header, _payload = self.chunk()
            if header.step == 0 and header.chunk in lacking:
                lacking.remove(header.chunk)
                self.send(peer, header.chunk, 1, self.own(header.chunk))

    def die(self) -> None:
        """As a process that is killed: the port is gone, connections are reset, nothing is said."""
        self._listener.close()
        for peer, channel in self._channels_to.items():
            self.channels.release(peer)
            channel._closing = True  # so that no wire that is about to stand outlives it
            sever(channel)

    def close(self) -> None:
        self.diary.gate.set()
        super().close()


def sever(channel: Channel) -> None:
    """What its wires have in hand, and what their sockets hold, is lost."""
    for wire in channel.wires:
        with contextlib.suppress(OSError):  # it has just ended by itself
            wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.end(LinkLost("cut by the test"))


def sever_all(engine: Engine) -> None:
    for channel in list(engine._channels._channels.values()):
        sever(channel)


@contextmanager
def with_puppet(
    case: Case, puppet: str = "x", *, start: bool = True
) -> Iterator[tuple[dict[str, Engine], dict[str, Events], Puppet]]:
    """All members but the puppet are engines, which have begun."""
    honest = [member for member in case.members if member != puppet]
    x = Puppet(puppet, case)
    try:
        with swarm(*honest) as engines:
            trust_all(engines, **{puppet: x.endpoint})
            x.know(**{peer: engine.endpoint for peer, engine in engines.items()})
            yield engines, {member: case.start(engines[member], member) for member in honest} if start else {}, x
    finally:
        x.close()
