"""Ring all-reduce over an emulated WAN: our time over the ideal.

`python tests/bench/wan.py [--quick] [--json] [--only NAME] [--why]`. Root, iperf3 and what tests/wan/README.md says.
Four hosts, 500 Mbit/s, 100 ms, a packet in ten thousand lost, MTU 1500, 512 MiB of fp32 in int8, each host a process
with the production engine. The ideal: the bytes that a member must send, 2(M-1)/M of the encoded vector, at the rate
that iperf3 reaches on such a path in the same run, and one way of the path for the last of them (the other hops are
hidden behind the slices' transmission). A result is of the warm rounds, which find the members connected; the first
round, which makes the connections, has a row of its own (`_cold`). That rate is without slow start, which takes a part
of a short round however good it is, so a third row (`_vs_same_bytes`) has for its reference how long iperf3 takes for
just these bytes, from a new connection's first on. Nothing is asserted here.

The cases take turns, a round of each, with iperf3's runs between. Hosts are tuned as deploy/sysctl.d says, but for
those with default buffers, which are as this machine is. Members and iperf3 go before other work of the machine. It
takes 8 GB of memory; where there is less, one case follows the other, with fewer rounds.
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
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.kernels.codec import codec_by_name
from tests.bench.members import PORT, Shape, Swarm, slowest
from tests.wan.network import Wan, why_not
from tests.wan.precedence import before_others
from tests.wan.topology import Route, uniform

PEERS = ("p0", "p1", "p2", "p3")
DELAY_MS, MBIT, LOSS, QUEUE_MS = 50.0, 500.0, 1e-4, 100.0  # a queue of one round trip
CODEC = "int8"
ELEMENTS = 512 * 2**20 // 4
WARM_ROUNDS, WARM_ROUNDS_QUICK = 10, 5
TUNED = Path(__file__).parents[2] / "deploy/sysctl.d/90-intellectd.conf"
# Between two rounds, as outer steps are minutes apart. Without it nearly every round would have one of the 200 ms in
# which BBR lets a path run dry to see its round trip, once in 10 s of sending (draft-cardwell-iccrg-bbr, 4.3.4.4) on
# each of four links; after a pause it sees that with the first packets.
PAUSE_S = 12.0
# Further rounds are begun only if they and what is left of iperf3 end by then, as the last turn of all lets expect; one
# warm round there is.
RUN_S_MAX, RUN_S_MAX_QUICK = 420.0, 160.0
IPERF_S, IPERF_OMIT_S = 13, 3.0
IPERF_ALL_S = IPERF_S + 2.0  # with its network
TOGETHER_BYTES = 10 << 30  # of memory: three swarms of 2 GB, and 3 GB while the last one begins
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


def tune(wan: Wan, name: str) -> None:
    """As an operator is asked to: the lines that a network namespace has of its own."""
    for line in TUNED.read_text().splitlines():
        key, equals, value = line.partition(" = ")
        if equals and key.startswith("net.ipv4."):
            wan.setting(name, key, value)


@contextmanager
def network(case: Case, tuned: bool) -> Iterator[Wan]:
    route = Route(delay_ms=DELAY_MS, mbit=MBIT, loss=LOSS, queue_ms=QUEUE_MS)
    with Wan(uniform(PEERS, route), seed=1) as wan:
        for name in PEERS:
            if tuned:
                tune(wan, name)
            if case.only:
                wan.one_congestion_control(name, case.congestion)
        yield wan


def begun(wan: Wan, name: str, *words: str, **how: Any) -> "subprocess.Popen[str]":
    """A process of that host, in a session of its own, before other work of the machine."""
    process = wan.popen(name, *words, **{"start_new_session": True, "stdout": subprocess.PIPE, "text": True} | how)
    before_others(process.pid)
    return process


def iperf(case: Case) -> dict[str, Any]:
    """What iperf3's server says of a flow between two hosts with nobody else there; tuned, whatever the case has."""
    listens = ("iperf3", "-s", "-1", "-J", "-i", str(INTERVAL_S))
    with network(case, tuned=True) as wan, begun(wan, "p1", *listens) as server:
        words = ["-t", str(IPERF_S), "-P", str(case.streams), "-J", "--connect-timeout", "1000"]
        words += [] if case.only else ["-C", case.congestion]  # where the route says it, asking for it is refused
        for _ in range(LISTENS_TRIES):
            with begun(wan, "p0", "iperf3", "-c", wan.address("p1"), *words) as client:
                said = client.communicate()[0]
            if "refused" not in said:
                break
            threading.Event().wait(INTERVAL_S)  # it does not listen yet
        told = json.loads(said)
        if "error" in told:
            raise SystemExit(f"iperf3: {told['error']}")
        assert server.stdout
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


class Turns:
    """One case's network and members, round after round: the first makes the connections, the others find them."""

    def __init__(self, case: Case, stack: ExitStack, why: bool) -> None:
        self.case, self.why = case, why
        self.times: list[float] = []
        self.notes: list[str] = []
        self.came: list[tuple[float, float]] = []
        self._wan = wan = stack.enter_context(network(case, case.buffers))
        addresses = {name: f"{wan.address(name)}:{PORT}" for name in PEERS}
        self._swarm = Swarm(stack, partial(begun, wan), addresses, Shape((CODEC,), ELEMENTS)).ready()
        self._ended_s = time.monotonic() - PAUSE_S

    def look_at_the_path(self) -> None:
        self.came = arrivals(iperf(self.case))

    def round(self) -> None:
        threading.Event().wait(max(0.0, self._ended_s + PAUSE_S - time.monotonic()))
        warmth, wan, over, seen = "warm" if self.times else "cold", self._wan, threading.Event(), list[str]()
        watcher = threading.Thread(target=watch, args=(wan, over, seen))
        if self.why:
            watcher.start()
        before = wan.counts()
        answers = self._swarm.run(f"{self.case.name} {len(self.times)}")
        counts = wan.counts().since(before)
        over.set()
        if self.why:
            watcher.join()
            self.notes.append(f"{self.case.name} p0: {seen[-1] if seen else 'not seen'}")
        self._ended_s = time.monotonic()
        self.times.append(slowest(answers))
        paths = [counts.paths[PEERS[i], PEERS[(i + 1) % len(PEERS)]] for i in range(len(PEERS))]
        over_must = statistics.fmean(path.bytes_arrived for path in paths) / must_send()
        cpu_s = statistics.fmean(answer["cpu_s"] for answer in answers.values())
        doubt = counts.distrust()
        self.notes.append(
            f"{self.case.name} {warmth}: {self.times[-1]:.2f} s; IP bytes over what must be sent {over_must:.3f}; lost "
            f"{sum(p.lost for p in paths)}, queue full {sum(p.path_full for p in paths)}; a member's CPU {cpu_s:.2f}"
            f" s, the router's {counts.cpu_s:.2f} s" + (f"; {doubt}" if doubt else "")
        )

    def rows(self) -> list[Row]:
        case, (cold, *warm) = self.case, self.times
        mbit, same_s = sustained_mbit(self.came), seconds_for(self.came, must_send())
        ideal_s = must_send() * 8e-6 / mbit + DELAY_MS / 1e3
        against = f"{case.streams} {case.congestion} stream{'s' * (case.streams > 1)} of iperf3: {mbit:.0f} Mbit/s"
        said = {"goal": case.goal, "of": len(warm)}
        return [
            row(f"{case.name}_vs_ideal", statistics.median(warm), ideal_s, against) | said,
            row(f"{case.name}_cold_vs_ideal", cold, ideal_s, against),
            row(f"{case.name}_vs_same_bytes", statistics.median(warm), same_s, f"iperf3 for them: {same_s:.2f} s"),
        ]


def must_send() -> float:
    return 2 * (len(PEERS) - 1) / len(PEERS) * codec_by_name(CODEC).encoded_bytes(ELEMENTS)


def measure(cases: Iterable[Case], warm_rounds: int, seconds: float, why: bool) -> list[Turns]:
    """All of these at once, in turns: between two rounds of one lie those of the others, and a run of iperf3."""
    began = time.monotonic()
    with ExitStack() as stack:
        turns = []
        for case in cases:
            turns.append(Turns(case, stack, why))
            turns[-1].round()
        unseen = list(turns)
        for _ in range(warm_rounds):
            turn_began = time.monotonic()
            for one in turns:
                one.round()
            turn_s = time.monotonic() - turn_began
            if unseen:
                unseen.pop(0).look_at_the_path()
            if time.monotonic() - began + turn_s + len(unseen) * IPERF_ALL_S > seconds:
                break
        for one in unseen:
            one.look_at_the_path()
    return turns


def room_for_all() -> bool:
    found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    return not found or int(found[1]) * 1024 >= TOGETHER_BYTES


def row(name: str, seconds: float, ideal_s: float, against: str) -> Row:
    value, ratio = round(seconds, 3), round(seconds / ideal_s, 3)
    return {"name": name, "value": value, "unit": "s", "against": against, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: three minutes at most")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", metavar="NAME", help="cases whose name has this in it")
    parser.add_argument("--why", action="store_true", help="what the kernel says of a connection of each round")
    options = parser.parse_args()
    refused = why_not()
    if refused:
        raise SystemExit(f"no WAN here: {refused}")
    rows: list[Row] = []
    notes = [f"{os.cpu_count()} CPUs, load before {os.getloadavg()[0]:.1f}"]
    rounds, seconds = (WARM_ROUNDS_QUICK, RUN_S_MAX_QUICK) if options.quick else (WARM_ROUNDS, RUN_S_MAX)
    cases = [case for case in CASES if not options.only or options.only in case.name]
    groups = [cases] if room_for_all() else [[case] for case in cases]
    for group in groups:
        for turns in measure(group, rounds, seconds / len(groups), options.why):
            rows += turns.rows()
            notes += turns.notes
            if not options.json:
                print(*turns.notes, *turns.rows(), sep="\n", flush=True)
    if options.json:
        print(json.dumps({"schema": 1, "results": rows, "notes": notes}))


if __name__ == "__main__":
    main()
