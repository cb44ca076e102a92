"""What is to happen in a world, as data: who is there, how bad the weather is, and each fault with its moment.

Owns the form: one line of JSON that leaves defaults out, so that a scenario can be cut down, kept and played again.
Refuses to know what a fault does (faults.py) and how one is drawn (drawing.py).
"""

from typing import Any

import msgspec

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
CALM_S = 20.0  # from the last fault to the end: everybody is started again and the weather clears


class Weather(msgspec.Struct, omit_defaults=True):
    """How bad the network is, for everybody."""

    loss: float = 0.0
    duplicates: float = 0.0
    latency_s: float = 0.05
    jitter: float = 0.5  # a message takes latency ± so much of it
    reorder: float = 0.01  # and some ten times as long
    ring_s: float = 1.0
    drift: float = 0.001  # clocks run by so much too fast or too slow


class Fault(msgspec.Struct, frozen=True, array_like=True):
    at: float
    kind: str  # one of faults.KINDS
    host: str
    params: dict[str, Any] = {}


class Scenario(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that a world is made from. `seed` draws only what the weather and the machines draw."""

    seed: int
    nodes: int
    minutes: float
    start_peers: int = 1
    min_peers: int = 1
    attempt_s: float = 4.0
    pace: float = 1.0  # all timers are so many times longer than a fifth of the manifest's defaults
    round_s: float = 10.0
    forks: bool = False  # who loses the quorum goes on by itself
    exact_every: int = 0  # of so many rounds one is exact, the others are in groups; 0: all are exact
    group_size: int = 2
    warmup_rounds: int = 0  # of a newcomer, in which its delta counts nothing
    must_go_on: bool = True  # False: as bad as it gets; only that there is one history
    weather: Weather = msgspec.field(default_factory=Weather)
    speeds: dict[str, float] = {}  # trainers that are so many times slower
    uplinks: dict[str, float] = {}  # bytes a second of hosts on slow links
    faults: tuple[Fault, ...] = ()

    @property
    def seconds(self) -> float:
        return self.minutes * 60.0

    def on_one_line(self) -> str:
        return msgspec.json.encode(self).decode()


def read(text: str) -> Scenario:
    """Raises ValueError saying what is wrong with it."""
    return msgspec.json.decode(text, type=Scenario)


def name_of(number: int) -> str:
    """PA, PB, … PJ, then P11, P12 …: a peer id as the wire wants it."""
    if number < 9:
        return "P" + "ABCDEFGHJ"[number]
    tens, ones = divmod(number - 9, len(BASE58))
    return f"P{BASE58[tens % len(BASE58)]}{BASE58[ones]}"
