"""Ring, direct exchange and torus from 4 to 256 peers, chunk by chunk: `python tests/bench/schedules.py [--quick]`.

The engine's own programs (daemon/bulk/schedules), all members of them, over modelled lines: each host's uplink serves
its neighbours' queues in turn, a chunk at a time, each downlink what comes, all at one rate; a chunk is there one way
after its last byte left, or when the downlink has time for it. No loss, no TCP, no time for arithmetic, and a direct
exchange's parts are summed in whatever order they come: so it is what a schedule itself costs. Beside it are the
formula of the bytes, 2(M-1)/M·b over the rate, and the planner's model (protocol/costs.py). Nothing is asserted here.
"""

import argparse
import heapq
import json
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.daemon.bulk.schedules.chunks import Chunk, cut_chunks, equal_shares
from intellectd.daemon.bulk.schedules.direct import Direct
from intellectd.daemon.bulk.schedules.program import ROW_ENDS, Action, Program, Send, size_of
from intellectd.daemon.bulk.schedules.ring import Ring
from intellectd.daemon.bulk.schedules.torus import Torus
from intellectd.kernels.codec import GROUP, INT8
from intellectd.protocol.collectives import torus_rows
from intellectd.protocol.costs import Network, direct_s, ring_s, torus_s
from intellectd.protocol.limits import DIRECT_MEMBERS_MAX
from intellectd.protocol.links import Estimate

RATE, ONE_WAY_S = 62.5e6, 0.02  # 500 Mbit/s, as wan_scaling.py has it
SIZES = {"1gb": 10**9, "64mb": 64 * 10**6}  # encoded: where bytes are most of it, and where hops are
PEERS, PEERS_QUICK = (4, 16, 32, 64, 128, 256), (4, 16, 64)
Row = dict[str, Any]


class Played:
    """One collective of hosts alike, from when all are ready until all have all."""

    def __init__(self, programs: list[Program]) -> None:
        self.programs, members = programs, len(programs)
        self.seconds, self.sent_bytes = 0.0, [0] * members
        self._now, self._number = 0.0, 0
        self._events: list[tuple[float, int, int, Send | None]] = []  # (when, order, who, what came; None: it is idle)
        self._queues: list[dict[int, deque[Send]]] = [{} for _ in range(members)]
        self._turns: list[deque[int]] = [deque() for _ in range(members)]  # neighbours with something in their queue
        self._busy, self._down_free = [False] * members, [0.0] * members
        self._rows: list[set[int]] = [set() for _ in range(members)]
        self._early: dict[tuple[int, int], list[Send]] = {}  # what waits for a row's sum
        self._parts: dict[tuple[int, int], int] = {}

    def run(self) -> "Played":
        for me, program in enumerate(self.programs):
            for send in program.begin():
                self._queue(me, send)
        while self._events:
            self._now, _, me, send = heapq.heappop(self._events)
            if send is None:
                self._busy[me] = False
                self._serve(me)
            else:
                self._arrived(send.to, send)
        self.seconds = self._now
        return self

    def _queue(self, me: int, send: Send) -> None:
        queue = self._queues[me].setdefault(send.to, deque())
        if not queue:
            self._turns[me].append(send.to)
        queue.append(send)
        self._serve(me)

    def _serve(self, me: int) -> None:
        if self._busy[me] or not self._turns[me]:
            return
        to = self._turns[me].popleft()
        send = self._queues[me][to].popleft()
        if self._queues[me][to]:
            self._turns[me].append(to)
        size = size_of(self.programs[me], send.chunk, send.step)
        self.sent_bytes[me] += size
        left_s = self._now + size / RATE
        there_s = max(left_s + ONE_WAY_S, self._down_free[to] + size / RATE)
        self._busy[me], self._down_free[to] = True, there_s
        self._at(left_s, me, None)
        self._at(there_s, me, send)

    def _at(self, when: float, me: int, send: Send | None) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, me, send))

    def _arrived(self, me: int, send: Send) -> None:
        program = self.programs[me]
        arrival = program.arrival(send.chunk, send.step)
        assert arrival is not None, "a schedule contradicts itself"
        then = arrival.then
        if arrival.action in ROW_ENDS and send.chunk not in self._rows[me]:
            self._early.setdefault((me, send.chunk), []).append(send)
            return
        if arrival.action is Action.GATHER:
            count = self._parts[me, send.chunk] = self._parts.get((me, send.chunk), 0) + 1
            then = program.gathered(send.chunk) if count == len(self.programs) - 1 else ()
        for further in then:
            self._queue(me, further)
        if arrival.ends_row:
            self._rows[me].add(send.chunk)
            for early in self._early.pop((me, send.chunk), ()):
                self._arrived(me, early)


def chunks_for(members: int, size: int) -> tuple[Chunk, ...]:
    return cut_chunks(INT8, int(size / INT8.bytes_per_element) // GROUP * GROUP, equal_shares(members))


def alike(members: int, size: int) -> Network:
    pairs = {(i, j) for i in range(members) for j in range(members) if i != j}
    return Network([True] * members, {pair: Estimate(RATE, 2 * ONE_WAY_S, 0.0, "P") for pair in sorted(pairs)}, size)


def schedules(members: int, size: int) -> Iterator[tuple[str, list[Program], float]]:
    """(name, a program for each member, what the planner's model says)."""
    chunks, network, order = chunks_for(members, size), alike(members, size), list(range(members))
    yield "ring", [Ring(me, members, chunks) for me in order], ring_s(network, order)
    folds = [(seconds, rows) for rows in torus_rows(members) if (seconds := torus_s(network, order, rows)) is not None]
    if folds:
        seconds, rows = min(folds)
        yield f"torus of {rows} rows", [Torus(me, members, rows, chunks) for me in order], seconds
    if members <= DIRECT_MEMBERS_MAX:
        yield "direct", [Direct(me, members, chunks) for me in order], direct_s(network, equal_shares(members))


def rows(quick: bool) -> Iterator[Row]:
    for label, size in SIZES.items():
        for members in PEERS_QUICK if quick else PEERS:
            formula_s = 2 * (members - 1) / members * size / RATE
            for name, programs, modelled_s in schedules(members, size):
                played = Played(programs).run()
                yield {
                    "name": f"sim_{label}_{name.split()[0]}_{members}",
                    "value": round(played.seconds, 2),
                    "unit": "s, " + name,
                    "against": round(formula_s, 2),
                    "ratio": played.seconds / formula_s,
                    "of_the_model": played.seconds / modelled_s,
                    "bytes": max(played.sent_bytes) / (formula_s * RATE),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description="Schedules at scale, chunk by chunk over modelled lines.")
    parser.add_argument("--quick", action="store_true", help="up to 64 peers")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for row in rows(options.quick):
        results.append(row)
        if not options.json:
            of = f"{row['ratio']:.3f} of the bytes' {row['against']}, {row['of_the_model']:.3f} of the model's"
            print(f"{row['name']:<24}{row['value']:>8.2f} {row['unit']:<20} {of}; bytes {row['bytes']:.3f}", flush=True)
    if options.json:
        print(json.dumps({"schema": 1, "results": results}))


if __name__ == "__main__":
    main()
