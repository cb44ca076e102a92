"""What the emulator is worth on this machine at this moment: what the router carries, and how true it is.

Owns the measurements and what is printed. Everything is measured between two hosts, with the machine as busy as it is.
"""

import statistics
from collections.abc import Iterator
from dataclasses import replace

from tests.wan.blast import blast
from tests.wan.counts import Counts
from tests.wan.network import Wan
from tests.wan.probe import round_trips
from tests.wan.topology import Route, uniform

HOSTS = ("a", "b")
LARGE_BUFFERS = 64 << 20  # bytes: four times what 1 Gbit/s over 100 ms holds
RTT_S = 0.080
MBIT = 1000.0
# What the README promises on an idle machine: a reader may rely on times and rates within so much.
ERROR_MAX = 0.03


def large_buffers(wan: Wan, name: str) -> None:
    """Lets TCP's own tuning go so far; the machine's default is often a few megabytes."""
    for key in ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"):
        wan.setting(name, key, f"4096 131072 {LARGE_BUFFERS}")


def flow(wan: Wan, seconds: float, congestion: str) -> tuple[float, Counts]:
    """Mbit/s of payload from a to b, and what the router says of that time."""
    for name in HOSTS:
        large_buffers(wan, name)
    before = wan.counts()
    told = blast(wan, *HOSTS, seconds=seconds, warm_s=seconds / 3, congestion=congestion)
    return float(told["mbit"]), wan.counts().since(before)


def calibrate(seconds: float = 6.0) -> Iterator[str]:
    """Lines for a reader; the last says whether the machine can be trusted now, and begins with yes or no."""
    doubts: list[str] = []
    for offloads in (True, False):
        with Wan(uniform(HOSTS, Route()), offloads=offloads) as wan:
            mbit, counts = flow(wan, seconds, "default")
        carried = counts.paths["a", "b"]
        core_s = max(counts.cpu_s, 1e-9)
        yield (
            f"no limits, {'offloads' if offloads else 'packet by packet'}: {mbit / 1e3:.1f} Gbit/s; the router alone "
            f"would carry {carried.bytes_arrived * 8e-9 / core_s:.1f} Gbit/s, "
            f"{sum(c.arrived for c in counts.paths.values()) / core_s / 1e3:.0f} kpkt/s a core"
        )
    route = Route(delay_ms=RTT_S * 500)
    with Wan(uniform(HOSTS, route)) as wan:
        trips = round_trips(wan, *HOSTS, 200)
        counts = wan.counts()
    median, worst = statistics.median(trips), statistics.quantiles(trips, n=100)[98]
    yield f"round trip of {1e3 * RTT_S:.0f} ms: median {1e3 * median:.2f}, 99th of a hundred {1e3 * worst:.2f}"
    doubts += _doubts("the round trip", median / RTT_S, counts)
    for congestion in ("cubic", "bbr"):
        with Wan(uniform(HOSTS, replace(route, mbit=MBIT, queue_ms=1e3 * RTT_S))) as wan:
            mbit, counts = flow(wan, 2 * seconds, congestion)
        share = counts.cpu_s / (2 * seconds)
        yield (
            f"{MBIT:.0f} Mbit/s over {1e3 * RTT_S:.0f} ms, {congestion}: {mbit:.0f} Mbit/s of payload, the router took "
            f"{share:.2f} of a core and was {1e3 * counts.late_s(0.99):.2f} ms late at most in 99 of 100"
        )
        if congestion == "cubic":  # fills a path without losses; of BBR's rate 2% and more go to its own probing
            doubts += _doubts("the rate", mbit / (MBIT * 1448 / 1500), counts)
    yield f"no: {'; '.join(doubts)}" if doubts else f"yes: times and rates are within {ERROR_MAX:.0%}"


def _doubts(what: str, ratio: float, counts: Counts) -> list[str]:
    why = counts.distrust()
    off = [f"{what} is off by {ratio - 1:+.1%}"] if abs(ratio - 1) > ERROR_MAX else []
    return off + ([why] if why else [])
