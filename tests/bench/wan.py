"""Ring all-reduce over an emulated WAN: our time over the ideal.

`python tests/bench/wan.py [--quick] [--json] [--only NAME] [--why]`. Root, iperf3 and what tests/wan/README.md says.
Four hosts, 500 Mbit/s, 100 ms, a packet in ten thousand lost, MTU 1500, 512 MiB of fp32 in int8, each host a process
with the production engine. The ideal: the bytes that a member must send, 2(M-1)/M of the encoded vector, at the rate
that iperf3 reaches on such a path in the same run, and one way of the path for the last of them (the other hops are
hidden behind the slices' transmission). A result is of the warm rounds, which find the members connected; the first
round, which makes the connections, has a row of its own (`_cold`). That rate is without slow start, which takes a part
of a short round however good it is, so a third row (`_vs_same_bytes`) has for its reference how long iperf3 takes for
just these bytes, from a new connection's first on. Nothing is asserted here.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.kernels.codec import codec_by_name
from tests.bench.members import PORT, Shape, Swarm, slowest
from tests.wan.calibrate import large_buffers
from tests.wan.network import Wan, why_not
from tests.wan.topology import Route, uniform

PEERS = ("p0", "p1", "p2", "p3")
DELAY_MS, MBIT, LOSS, QUEUE_MS = 50.0, 500.0, 1e-4, 100.0  # a queue of one round trip
CODEC = "int8"
ELEMENTS, ELEMENTS_QUICK = 512 * 2**20 // 4, 256 * 2**20 // 4
WARM_ROUNDS, WARM_ROUNDS_QUICK = 4, 3
# Between two rounds, as outer steps are minutes apart. Without it nearly every round would have one of the 200 ms in
# which BBR lets a path run dry to see its round trip, once in 10 s of sending (draft-cardwell-iccrg-bbr, 4.3.4.4) on
# each of four links; after a pause it sees that with the first packets.
PAUSE_S = 12.0
CASE_S_MAX = 120.0  # no further round after it, but one warm round there is
IPERF_S, IPERF_S_QUICK, IPERF_OMIT_S = 13, 9, 3.0
INTERVAL_S, LISTENS_TRIES = 0.1, 50
LOOK_S = 1.0
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """congestion: of iperf3, and, with `only`, of every connection there is, whatever it asks for."""

    name: str
    goal: float
    congestion: str = "bbr"
    streams: int = 1
    only: bool = False
    buffers: bool = True


CASES = (
    Case("ring4_int8_bbr", 1.03),
    Case("ring4_int8_cubic", 1.15, "cubic", streams=8, only=True),
    Case("ring4_int8_default_buffers", 1.15, buffers=False),
)


@contextmanager
def network(case: Case, buffers: bool) -> Iterator[Wan]:
    route = Route(delay_ms=DELAY_MS, mbit=MBIT, loss=LOSS, queue_ms=QUEUE_MS)
    with Wan(uniform(PEERS, route), seed=1) as wan:
        for name in PEERS:
            if buffers:
                large_buffers(wan, name)
            if case.only:
                wan.one_congestion_control(name, case.congestion)
        yield wan


def iperf(case: Case, seconds: int) -> dict[str, Any]:
    """What iperf3's server says of a flow between two hosts with nobody else there; large buffers, whatever the case
    has."""
    listens = ("iperf3", "-s", "-1", "-J", "-i", str(INTERVAL_S))
    with network(case, buffers=True) as wan, wan.popen("p1", *listens, stdout=subprocess.PIPE) as server:
        words = ["-t", str(seconds), "-P", str(case.streams), "-J", "--connect-timeout", "1000"]
        words += [] if case.only else ["-C", case.congestion]  # where the route says it, asking for it is refused
        for _ in range(LISTENS_TRIES):
            said = wan.run("p0", "iperf3", "-c", wan.address("p1"), *words, capture_output=True, text=True, check=False)
            if "refused" not in said.stdout:
                break
            threading.Event().wait(INTERVAL_S)  # it does not listen yet
        told = json.loads(said.stdout)
        if "error" in told:
            raise SystemExit(f"iperf3: {told['error']}")
        heard: dict[str, Any] = json.loads(server.stdout.read())
        return heard


def arrivals(heard: dict[str, Any]) -> list[tuple[float, float]]:
    """(seconds, bytes that have come by then), from (0, 0) on."""
    found, total = [(0.0, 0.0)], 0.0
    for interval in heard["intervals"]:
        total += interval["sum"]["bytes"]
        found.append((interval["sum"]["end"], total))
    return found


def sustained_mbit(came: list[tuple[float, float]]) -> float:
    """Without its slow start: the ideal has none."""
    first = next(point for point in came if point[0] >= IPERF_OMIT_S)
    return (came[-1][1] - first[1]) * 8e-6 / (came[-1][0] - first[0])


def seconds_for(came: list[tuple[float, float]], wanted: float) -> float:
    """From the first byte on."""
    for (began, before), (ended, after) in pairwise(came):
        if after >= wanted:
            return began + (ended - began) * (wanted - before) / (after - before)
    return came[-1][0] * wanted / came[-1][1]  # it ended before: as fast as that


def watch(wan: Wan, over: threading.Event, seen: list[str]) -> None:
    """What the kernel says of p0's fullest connection, from early to late: the last is of most of the transfer."""
    fullest = 0
    while not over.wait(LOOK_S):
        said = wan.run("p0", "ss", "-tinHO", capture_output=True, text=True, check=False).stdout
        for line in said.splitlines():
            sent = re.search(r"bytes_sent:(\d+)", line)
            if sent and int(sent[1]) > fullest:
                fullest = int(sent[1])
                seen.append(" ".join(re.findall(WANTED, line)))


WANTED = (
    r"\b(?:bbr|cubic|cwnd:\d+|bytes_sent:\d+|bytes_retrans:\d+|pacing_rate \S+|delivery_rate \S+|busy:\d+ms"
    r"|rwnd_limited:\S+|sndbuf_limited:\S+|notsent:\d+|rtt:\S+|app_limited|minrtt:\S+)"
)


class Rounds:
    """One case's network and members, round after round: the first makes the connections, the others find them."""

    def __init__(self, case: Case, elements: int, ideal_s: float, why: bool) -> None:
        self.case, self.elements, self.ideal_s, self.why = case, elements, ideal_s, why
        self.times: list[float] = []
        self.notes: list[str] = []

    def run(self, warm_rounds: int) -> None:
        with network(self.case, self.case.buffers) as wan, ExitStack() as stack:
            addresses = {name: f"{wan.address(name)}:{PORT}" for name in PEERS}
            swarm = Swarm(stack, wan.popen, addresses, Shape((CODEC,), self.elements)).ready()
            began = time.monotonic()
            for number in range(1 + warm_rounds):
                if number < 2 or time.monotonic() - began < CASE_S_MAX:
                    threading.Event().wait(PAUSE_S if number else 0.0)
                    self._round(wan, swarm, number)

    def _round(self, wan: Wan, swarm: Swarm, number: int) -> None:
        over, seen = threading.Event(), list[str]()
        watcher = threading.Thread(target=watch, args=(wan, over, seen))
        if self.why:
            watcher.start()
        before = wan.counts()
        answers = swarm.run(f"{self.case.name} {number}")
        counts = wan.counts().since(before)
        over.set()
        if self.why:
            watcher.join()
            self.notes.append(f"{self.case.name} p0: {seen[-1] if seen else 'not seen'}")
        self.times.append(slowest(answers))
        must = must_send(self.elements)
        paths = [counts.paths[PEERS[i], PEERS[(i + 1) % len(PEERS)]] for i in range(len(PEERS))]
        over_must = statistics.fmean(path.bytes_arrived for path in paths) / must
        cpu_s = statistics.fmean(answer["cpu_s"] for answer in answers.values())
        doubt = counts.distrust()
        self.notes.append(
            f"{self.case.name} {'warm' if number else 'cold'}: {self.times[-1]:.2f} s, ideal {self.ideal_s:.2f}; IP "
            f"bytes over what must be sent {over_must:.3f}; lost {sum(p.lost for p in paths)}, queue full "
            f"{sum(p.path_full for p in paths)}; a member's CPU {cpu_s:.2f} s, the router's {counts.cpu_s:.2f} s"
            + (f"; {doubt}" if doubt else "")
        )


def must_send(elements: int) -> float:
    return 2 * (len(PEERS) - 1) / len(PEERS) * codec_by_name(CODEC).encoded_bytes(elements)


def measure(case: Case, elements: int, warm_rounds: int, quick: bool, why: bool) -> tuple[list[Row], list[str]]:
    came = arrivals(iperf(case, IPERF_S_QUICK if quick else IPERF_S))
    mbit = sustained_mbit(came)
    ideal_s = must_send(elements) * 8e-6 / mbit + DELAY_MS / 1e3
    same_s = seconds_for(came, must_send(elements))
    rounds = Rounds(case, elements, ideal_s, why)
    rounds.run(warm_rounds)
    cold, *warm = rounds.times
    against = f"{case.streams} {case.congestion} stream{'s' * (case.streams > 1)} of iperf3: {mbit:.0f} Mbit/s"
    rows = [
        row(f"{case.name}_vs_ideal", statistics.median(warm), ideal_s, against) | {"goal": case.goal, "of": len(warm)},
        row(f"{case.name}_cold_vs_ideal", cold, ideal_s, against),
        row(f"{case.name}_vs_same_bytes", statistics.median(warm), same_s, f"iperf3 for them: {same_s:.2f} s"),
    ]
    return rows, rounds.notes


def row(name: str, seconds: float, ideal_s: float, against: str) -> Row:
    value, ratio = round(seconds, 3), round(seconds / ideal_s, 3)
    return {"name": name, "value": value, "unit": "s", "against": against, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half of the bytes, fewer rounds: three minutes at most")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", metavar="NAME", help="cases whose name has this in it")
    parser.add_argument("--why", action="store_true", help="what the kernel says of a connection of each round")
    options = parser.parse_args()
    refused = why_not()
    if refused:
        raise SystemExit(f"no WAN here: {refused}")
    rows: list[Row] = []
    notes = [f"{os.cpu_count()} CPUs, load before {os.getloadavg()[0]:.1f}"]
    elements, rounds = (ELEMENTS_QUICK, WARM_ROUNDS_QUICK) if options.quick else (ELEMENTS, WARM_ROUNDS)
    for case in CASES:
        if not options.only or options.only in case.name:
            made, said = measure(case, elements, rounds, options.quick, options.why)
            rows += made
            notes += said
            if not options.json:
                print(*said, *made, sep="\n", flush=True)
    if options.json:
        print(json.dumps({"schema": 1, "results": rows, "notes": notes}))


if __name__ == "__main__":
    main()
