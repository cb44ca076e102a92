"""Many hosts that fetch one object at once, over links that carry so much: a model in virtual time, without a network.

Owns the links: each host's uplink and downlink are shared equally by the connections that have something to send, a
connection answers in the order in which it was asked, and everything takes half a round trip each way. The decisions
are `Pieces`' of each joiner. Deterministic.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from intellectd.protocol.pieces import Ask, Look, Pieces

STEP_S = 0.04


@dataclass(frozen=True)
class Link:
    """Bytes a second."""

    up: float
    down: float


@dataclass
class Connection:
    """From a joiner to one that it asks: requests on their way there, what is being answered, answers on their way."""

    joiner: str
    donor: str
    requests: "deque[tuple[float, Ask | Look]]" = field(default_factory=deque)
    left: float = 0.0  # bytes of the piece that is being sent
    sending: "deque[int]" = field(default_factory=deque)
    answers: "deque[tuple[float, int]]" = field(default_factory=deque)  # (when, a piece, or minus what is held, less 1)
    stands_at: float = 0.0
    under_way: int = 0
    heard: bool = False


class PieceSwarm:
    def __init__(
        self,
        seeds: Mapping[str, Link],
        joiners: Mapping[str, Link],
        pieces: Mapping[str, Pieces],
        size: int,
        rtt_s: float,
        dial_s: float,
    ) -> None:
        """`pieces`: of each joiner; `size`: bytes of a piece; `dial_s`: until a connection stands."""
        self.links, self.pieces, self.size, self.rtt_s = {**seeds, **joiners}, pieces, size, rtt_s
        self.count = size and len(next(iter(pieces.values()))._sizes)
        self.now, self.done_at = 0.0, dict[str, float]()
        self.sent = dict.fromkeys(self.links, 0.0)  # bytes
        self.idle_s = dict.fromkeys(self.links, 0.0)  # until the last is done
        self.connections: list[Connection] = []
        for name in joiners:
            for donor in (*seeds, *(other for other in joiners if other != name)):
                pieces[name].join(donor, fellow=donor in joiners)
                self.connections.append(Connection(name, donor, stands_at=dial_s))
        self._by_joiner = {n: [c for c in self.connections if c.joiner == n] for n in joiners}

    def go(self, limit_s: float = 1e4) -> float:
        """Seconds until the last has it."""
        while len(self.done_at) < len(self._by_joiner):
            assert self.now < limit_s, {name: pieces.missing for name, pieces in self.pieces.items()}
            self.now += STEP_S
            self._arrive()
            for name, mine in self._by_joiner.items():
                self._ask(name, mine)
            self._send()
        return self.now

    def _arrive(self) -> None:
        for connection in self.connections:
            mine = self.pieces[connection.joiner]
            while connection.answers and connection.answers[0][0] <= self.now:
                piece = connection.answers.popleft()[1]
                connection.under_way, connection.heard = connection.under_way - 1, True
                if piece < 0:
                    mine.holds(connection.donor, -piece - 1)
                else:
                    mine.came(connection.donor, piece, self.now)
            if mine.done:
                self.done_at.setdefault(connection.joiner, self.now)

    def _ask(self, name: str, mine: list[Connection]) -> None:
        pieces = self.pieces[name]
        for connection in mine:
            if connection.stands_at > self.now or (connection.under_way and not connection.heard):
                continue  # whoever reads asks for more when something came
            connection.heard = False
            while (ask := pieces.ask(connection.donor, self.now)) is not None:
                connection.requests.append((self.now + self.rtt_s / 2, ask))
                connection.under_way += ask.count if isinstance(ask, Ask) else 1

    def _send(self) -> None:
        active = [connection for connection in self.connections if self._has_to_send(connection)]
        ups, downs = dict.fromkeys(self.links, 0), dict.fromkeys(self.links, 0)
        for connection in active:
            ups[connection.donor] += 1
            downs[connection.joiner] += 1
        for name, count in ups.items():
            self.idle_s[name] += STEP_S if not count else 0.0
        for connection in active:
            up, down = self.links[connection.donor].up, self.links[connection.joiner].down
            self._carry(connection, min(up / ups[connection.donor], down / downs[connection.joiner]) * STEP_S)

    def _has_to_send(self, connection: Connection) -> bool:
        while not connection.sending and connection.requests and connection.requests[0][0] <= self.now:
            asked = connection.requests.popleft()[1]
            if isinstance(asked, Ask):
                connection.sending.extend(range(asked.first, asked.first + asked.count))
                connection.left = float(self.size)
            else:
                there = self.pieces.get(connection.donor)
                held = sum(1 << piece for piece in range(self.count) if there.has(piece)) if there is not None else 0
                connection.answers.append((self.now + self.rtt_s / 2, -held - 1))
        return bool(connection.sending)

    def _carry(self, connection: Connection, count: float) -> None:
        self.sent[connection.donor] += count
        connection.left -= count
        if connection.left <= 0:
            connection.answers.append((self.now + self.rtt_s / 2, connection.sending.popleft()))
            connection.left += self.size
