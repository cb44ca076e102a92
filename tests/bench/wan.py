"""Ring all-reduce over an emulated WAN: our time over the ideal.

`python tests/bench/wan.py [--quick] [--json] [--only NAME] [--why]`. Root, iperf3 and what tests/wan/README.md says.
Four hosts, 500 Mbit/s, 100 ms, a packet in ten thousand lost, MTU 1500, 512 MiB of fp32 in int8, each host a process
with the production engine. The ideal: the bytes that a member must send, 2(M-1)/M of the encoded vector, at the rate
that iperf3 reaches on such a path in the same run, and one way of the path for the last of them (the other hops are
hidden behind the slices' transmission). Nothing is asserted here.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.kernels.codec import codec_by_name
from tests.wan.calibrate import large_buffers
from tests.wan.network import Wan, why_not
from tests.wan.topology import Route, uniform

PEERS = ("p0", "p1", "p2", "p3")
DELAY_MS, MBIT, LOSS, QUEUE_MS = 50.0, 500.0, 1e-4, 100.0  # a queue of one round trip
ELEMENTS, ELEMENTS_QUICK = 512 * 2**20 // 4, 64 * 2**20 // 4
ROUNDS = 3
IPERF_S, IPERF_OMIT_S = 10, 3  # without its slow start: the ideal has none
PEER = Path(__file__).with_name("wan_peer.py")
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


def iperf(case: Case) -> float:
    """Mbit/s of payload between two hosts with nobody else there; large buffers, whatever the case has."""
    server_words = ("iperf3", "-s", "-1", "--forceflush")
    with network(case, buffers=True) as wan, wan.popen("p1", *server_words, stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        server.stdout.readline()  # "Server listening"
        words = ["-t", str(IPERF_S), "-O", str(IPERF_OMIT_S), "-P", str(case.streams), "-C", case.congestion, "-J"]
        said = wan.run("p0", "iperf3", "-c", wan.address("p1"), *words, capture_output=True, text=True, check=False)
        told = json.loads(said.stdout)
        if "error" in told:
            raise SystemExit(f"iperf3: {told['error']}")
        return float(told["end"]["sum_received"]["bits_per_second"]) / 1e6


class Ring:
    """The members' processes, each in its host."""

    def __init__(self, wan: Wan, elements: int, stack: ExitStack) -> None:
        self.wan = wan
        self.peers = {}
        for seed, name in enumerate(PEERS):
            words = (sys.executable, str(PEER), name, f"{wan.address(name)}:4002", "int8", str(elements), str(seed))
            pipe = subprocess.PIPE
            peer = stack.enter_context(wan.popen(name, *words, stdin=pipe, stdout=pipe, text=True))
            stack.callback(peer.kill)
            self.peers[name] = peer
        self._members = {name: self._hear(name) for name in PEERS}

    def _hear(self, name: str) -> dict[str, Any]:
        line = self.peers[name].stdout.readline()
        if not line:
            raise SystemExit(f"{name} ended: its message is above")
        return dict(json.loads(line))

    def run(self, ring: str) -> list[dict[str, Any]]:
        for peer in self.peers.values():
            peer.stdin.write(json.dumps({"ring": ring, "members": self._members}) + "\n")
            peer.stdin.flush()
        return [self._hear(name) for name in PEERS]


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


def measure(case: Case, elements: int, rounds: int, why: bool) -> tuple[list[Row], list[str]]:
    mbit = iperf(case)
    encoded = codec_by_name("int8").encoded_bytes(elements)
    must_send = 2 * (len(PEERS) - 1) / len(PEERS) * encoded
    ideal_s = must_send * 8e-6 / mbit + DELAY_MS / 1e3
    notes: list[str] = []
    times, cpu = [], []
    with network(case, case.buffers) as wan, ExitStack() as stack:
        ring = Ring(wan, elements, stack)
        for number in range(rounds):
            over, seen = threading.Event(), list[str]()
            watcher = threading.Thread(target=watch, args=(wan, over, seen))
            if why:
                watcher.start()
            before = wan.counts()
            told = ring.run(f"{case.name} {number}")
            counts = wan.counts().since(before)
            over.set()
            if why:
                watcher.join()
                notes.append(f"{case.name} p0: {seen[-1] if seen else 'not seen'}")
            times.append(max(peer["seconds"] for peer in told))
            cpu += [peer["cpu_s"] for peer in told]
            if len({peer["digest"] for peer in told}) != 1:
                raise SystemExit(f"{case.name}: the members ended with different bytes")
            paths = [counts.paths[PEERS[i], PEERS[(i + 1) % len(PEERS)]] for i in range(len(PEERS))]
            over_must = statistics.fmean(path.bytes_arrived for path in paths) / must_send
            doubt = counts.distrust()
            notes.append(
                f"{case.name} {number}: {times[-1]:.2f} s, ideal {ideal_s:.2f}; IP bytes over what must be sent "
                f"{over_must:.3f}; lost {sum(p.lost for p in paths)}, queue full {sum(p.path_full for p in paths)}; "
                f"a member's CPU {cpu[-1]:.2f} s, the router's {counts.cpu_s:.2f} s" + (f"; {doubt}" if doubt else "")
            )
    seconds = statistics.median(times)
    row = {"name": f"{case.name}_vs_ideal", "value": round(seconds, 3), "unit": "s", "goal": case.goal}
    against = f"{case.streams} {case.congestion} stream{'s' * (case.streams > 1)} of iperf3: {mbit:.0f} Mbit/s"
    return [row | {"against": against, "ratio": round(seconds / ideal_s, 3)}], notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="an eighth of the bytes, one round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", metavar="NAME", help="cases whose name has this in it")
    parser.add_argument("--why", action="store_true", help="what the kernel says of a connection of each round")
    options = parser.parse_args()
    refused = why_not()
    if refused:
        raise SystemExit(f"no WAN here: {refused}")
    rows: list[Row] = []
    notes = [f"{os.cpu_count()} CPUs, load before {os.getloadavg()[0]:.1f}"]
    elements, rounds = (ELEMENTS_QUICK, 1) if options.quick else (ELEMENTS, ROUNDS)
    for case in CASES:
        if not options.only or options.only in case.name:
            made, said = measure(case, elements, rounds, options.why)
            rows += made
            notes += said
            if not options.json:
                print(*said, *made, sep="\n", flush=True)
    if options.json:
        print(json.dumps({"schema": 1, "results": rows, "notes": notes}))


if __name__ == "__main__":
    main()
