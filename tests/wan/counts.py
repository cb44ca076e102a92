"""What the router says of its packets, and whether it can be believed.

Owns the meaning of its counters, and the bound of what is still the network rather than the machine. Times: seconds.
"""

import json
from dataclasses import dataclass, fields
from typing import Self

# A run of packets later than this is no longer what was asked for: two per cent of a 50 ms round trip. One in a
# hundred may be, for that is lost in any percentile that a measurement looks at.
LATE_S = 1024e-6
LATE_SHARE_MAX = 0.01


@dataclass(frozen=True)
class Carried:
    """Segments (packets of at most the MTU) from one host to another by what became of them; bytes of IP packets."""

    sent: int = 0
    bytes_sent: int = 0
    uplink_full: int = 0
    path_full: int = 0
    lost: int = 0
    cut: int = 0
    downlink_full: int = 0
    arrived: int = 0
    bytes_arrived: int = 0


@dataclass(frozen=True)
class Counts:
    """since(earlier): what happened in between. late[i]: runs at most 2^i microseconds late, and 2^(i-1) or more."""

    cpu_s: float
    no_room: int
    refused: int
    not_ours: int
    late: tuple[int, ...]
    paths: dict[tuple[str, str], Carried]

    @classmethod
    def read(cls, line: str, names: tuple[str, ...]) -> Self:
        told = json.loads(line)
        paths = {}
        for path in told.pop("paths"):
            pair = names[path.pop("from")], names[path.pop("to")]
            paths[pair] = Carried(**path)
        return cls(**(told | {"late": tuple(told["late"]), "paths": paths}))

    def since(self, earlier: Self) -> Self:
        def minus(pair: tuple[str, str]) -> Carried:
            before, after = earlier.paths.get(pair, Carried()), self.paths[pair]
            return Carried(*(getattr(after, f.name) - getattr(before, f.name) for f in fields(Carried)))

        return type(self)(
            self.cpu_s - earlier.cpu_s,
            self.no_room - earlier.no_room,
            self.refused - earlier.refused,
            self.not_ours - earlier.not_ours,
            tuple(after - before for after, before in zip(self.late, earlier.late, strict=True)),
            {pair: minus(pair) for pair in self.paths},
        )

    def late_s(self, share: float) -> float:
        """So late, at most, was this share of what was handed over (rounded up to a power of two microseconds)."""
        left = share * sum(self.late)
        for power, count in enumerate(self.late):
            left -= count
            if left <= 0:
                return 2.0**power * 1e-6
        return float("inf")

    def distrust(self) -> str | None:
        """Why these numbers tell of the machine, not of the network that was asked for; None: they can be trusted."""
        if self.no_room or self.refused:
            return f"the router dropped {self.no_room + self.refused} runs of packets that the network did not"
        late_s = self.late_s(1 - LATE_SHARE_MAX)
        if late_s > LATE_S:
            share = f"one packet in {1 / LATE_SHARE_MAX:.0f} was handed over {1e3 * late_s / 2:.1f} ms late or more"
            return f"{share}, limit {1e3 * LATE_S:.0f}: the machine is too busy"
        return None
