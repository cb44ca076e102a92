"""What faults cost a collective on the emulated WAN: a link that turns slow, a peer that dies, connections reset.

Owns the faults, and what the daemon's machines do about a failed collective: whoever is left does it again without the
dead. A row's value is the time lost: until all who live hold the result, above the median undisturbed time.
"""

import re
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.bench.members import Answer, Shape, Swarm, agreed, slowest
from tests.bench.wan_scaling import CODEC, elements_for, formula_bytes, swarm_on
from tests.wan.network import Wan, why_not
from tests.wan.topology import Route, uniform

Row = dict[str, Any]
PEERS = ("p0", "p1", "p2", "p3")
DELAY_MS, MBIT = 25.0, 200.0
SECONDS, SECONDS_QUICK = 6.0, 2.0
STALL_S = 5.0  # as an operator may have it: three times the longest gap of a busy link
TRIES_MAX = 4
LOOK_S, RESET_S = 0.02, 1.0
SLOWED_TO = 0.1
SLOW_AT, SLOW_AT_QUICK = 0.5, 0.8
SHARES, SHARES_QUICK = (0.1, 0.5, 0.9), (0.5,)


class Bench:
    """One swarm; a peer that was killed ends it."""

    def __init__(self, wan: Wan, swarm: Swarm, elements: int) -> None:
        self.wan, self.swarm = wan, swarm
        self.must = formula_bytes(elements, len(PEERS))
        self._number = 0
        self._run("first", PEERS)
        self.quiet_s = statistics.median(slowest(self._run("quiet", PEERS)) for _ in range(2))

    def _run(self, name: str, order: tuple[str, ...]) -> dict[str, Answer]:
        self._number += 1
        return self.swarm.run(f"{name} {self._number}", order, stall_s=STALL_S)

    def sent(self, name: str, since: float) -> float:
        """The share of what it must send that has left it."""
        return (self.carried(name) - since) / self.must

    def carried(self, name: str) -> float:
        return sum(path.bytes_arrived for pair, path in self.wan.counts().paths.items() if pair[0] == name)

    def disturbed(self, fault: Callable[[threading.Event], None], dead: tuple[str, ...] = ()) -> Answer:
        """A collective with the fault going on; done again, by those who live, until it succeeds: {"seconds", …}."""
        over = threading.Event()
        thread = threading.Thread(target=fault, args=(over,))
        began = time.perf_counter()
        thread.start()
        order, failed = PEERS, list[str]()
        noticed_s = 0.0
        for tried in range(1, TRIES_MAX + 1):  # noqa: B007, how often is told below
            self._number += 1
            self.swarm.begin(f"disturbed {self._number}", order, stall_s=STALL_S)
            answers = {name: answer for name, answer in self.swarm.end(order).items() if "gone" not in answer}
            if all("digest" in answer for answer in answers.values()) and len(answers) == len(order):
                agreed("disturbed", answers)
                break
            noticed_s = noticed_s or time.perf_counter() - began
            failed += [f"{name}: {answer.get('failed', 'done')}" for name, answer in answers.items()]
            order = tuple(name for name in PEERS if name not in dead)
        seconds = time.perf_counter() - began
        over.set()
        thread.join()
        ended = all("digest" in answer for answer in answers.values())
        return {"seconds": seconds, "tries": tried, "failed": failed, "ended": ended, "noticed_s": noticed_s}


def slow_link(bench: Bench, share: float) -> Callable[[threading.Event], None]:
    at = bench.carried("p0")

    def fault(over: threading.Event) -> None:
        while bench.sent("p0", at) < share and not over.wait(LOOK_S):
            pass
        bench.wan.slow("p0", "p1", SLOWED_TO)

    return fault


def killed_peer(bench: Bench, share: float) -> Callable[[threading.Event], None]:
    at = bench.carried("p1")

    def fault(over: threading.Event) -> None:
        while bench.sent("p1", at) < share and not over.wait(LOOK_S):
            pass
        bench.swarm.members["p1"].kill()

    return fault


def resets(bench: Bench, count: list[int]) -> Callable[[threading.Event], None]:
    """Each second one member's fullest connection; the next second the next member's."""

    def fault(over: threading.Event) -> None:
        while not over.wait(RESET_S):
            name = PEERS[len(count) % len(PEERS)]
            told = bench.wan.run(name, "ss", "-tinHO", "state", "established", capture_output=True, text=True)
            lines = [(int(sent[1]), line) for line in told.stdout.splitlines() if (sent := BYTES_SENT.search(line))]
            if lines:
                here, there = max(lines)[1].split()[2:4]
                bench.wan.run(name, "ss", "-KtH", "src", here, "dst", there, capture_output=True)
                count.append(1)

    return fault


def resets_of_all(bench: Bench, count: list[int]) -> Callable[[threading.Event], None]:
    """Each second every connection of every member."""

    def fault(over: threading.Event) -> None:
        while not over.wait(RESET_S):
            for name in PEERS:
                bench.wan.run(name, "ss", "-KtnHO", "state", "established", capture_output=True)
            count.append(len(PEERS))

    return fault


BYTES_SENT = re.compile(r"\bbytes_sent:(\d+)")


def row(name: str, bench: Bench, told: Answer, against: str) -> tuple[Row, list[str]]:
    lost = told["seconds"] - bench.quiet_s
    made = {"name": f"fault_{name}_lost", "value": round(lost, 2), "unit": "s", "against": against}
    made |= {"ratio": round(told["seconds"] / bench.quiet_s, 3), "ended": told["ended"], "tries": told["tries"]}
    words = f"fault_{name}: {'ended, digests equal' if told['ended'] else 'DID NOT END'} after {told['tries']} tries"
    if told["failed"]:
        words += f"; all had heard after {told['noticed_s']:.2f} s; first: {'; '.join(told['failed'][:4])}"
    return made, [words]


def rows(quick: bool) -> tuple[list[Row], list[str]]:
    refused = why_not()
    if refused:
        return [], [f"faults: no figures, no WAN here: {refused}"]
    made: list[Row] = []
    notes: list[str] = []
    elements = elements_for(SECONDS_QUICK if quick else SECONDS, len(PEERS), MBIT)
    slow_at = SLOW_AT_QUICK if quick else SLOW_AT
    topology = uniform(PEERS, Route(delay_ms=DELAY_MS, mbit=MBIT, queue_ms=2 * DELAY_MS))

    def note(name: str, bench: Bench, told: Answer, against: str) -> None:
        one, said = row(name, bench, told, against)
        made.append(one)
        notes.extend(said)

    for share in SHARES_QUICK if quick else SHARES:
        with swarm_on(topology, Shape((CODEC,), elements)) as (wan, swarm):
            bench = Bench(wan, swarm, elements)
            if not made:
                for name, fault in (("reset_each_second", resets), ("all_reset_each_second", resets_of_all)):
                    count: list[int] = []
                    told = bench.disturbed(fault(bench, count))
                    note(name, bench, told, f"undisturbed {bench.quiet_s:.2f} s; {len(count)} resets")
                left_s = (1 - slow_at) * bench.must * 8e-6 / (MBIT * SLOWED_TO)
                told = bench.disturbed(slow_link(bench, slow_at))
                note("link_to_a_tenth", bench, told, f"undisturbed {bench.quiet_s:.2f} s; the rest takes {left_s:.1f}")
                wan.slow("p0", "p1", 1.0)
            told = bench.disturbed(killed_peer(bench, share), dead=("p1",))
            note(f"killed_at_{100 * share:.0f}", bench, told, f"undisturbed {bench.quiet_s:.2f} s")
    return made, notes
