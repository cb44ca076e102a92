"""Catching up over an emulated WAN: what a joiner gets, over what its links carry, and what it costs the others.

`python tests/bench/catchup.py [--quick] [--json] [--only NAME]`. Root and what tests/wan/README.md says. A joiner with
a downlink of 400 Mbit/s and donors with uplinks of 100 Mbit/s, 60 ms round trip, a packet in ten thousand lost, each a
process with the production engine; pieces of 1 MiB, each hashed as it arrives; 512 MiB from many, 256 from one.

many_donors_vs_downlink: five otherwise idle donors; payload over time, over the downlink's rate of IP packets, of which
TCP and TLS leave some 96 %. one_donor_vs_uplink: the same of one donor's uplink. round_time_with_joiner_vs_without: the
time of a ring of four (int8) while a joiner fetches from all four without end, over that of rings without one, in turns
in one network. Not with --quick, unless named: ten_joiners_vs_bound (catchup_together.py) and the rows of a state of
4 GiB (catchup_large.py). Nothing is asserted here.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.catchup_large import large
from tests.bench.catchup_together import ten
from tests.bench.members import PORT, Answer, Member
from tests.wan.calibrate import large_buffers
from tests.wan.network import Wan, why_not
from tests.wan.topology import Host, Route, Topology

PEER = Path(__file__).with_name("catchup_peer.py")
DONORS = ("d0", "d1", "d2", "d3", "d4")
RING = DONORS[:4]
UP_MBIT, DOWN_MBIT, DELAY_MS, LOSS = 100.0, 400.0, 30.0, 1e-4
MIB_MANY, MIB = 512, 256  # a connection finds its pace in .4 s, beside the 5.6 s that 256 MiB take of the downlink
ELEMENTS, ELEMENTS_QUICK = 64 * 2**20, 24 * 2**20  # a byte each: a ring of 8 and 3 s
PAIRS, PAIRS_QUICK = 5, 2
GOALS: dict[str, float | None] = {
    "many_donors_vs_downlink": 0.9,
    "one_donor_vs_uplink": 0.9,
    "round_time_with_joiner_vs_without": 1.03,
    # No goals are given for these: what was measured is in README.md.
    "ten_joiners_vs_bound": None,
    "large": None,
}
QUICK = tuple(name for name, goal in GOALS.items() if goal)
Row = dict[str, Any]


class Hosts:
    def __init__(self, stack: ExitStack, elements: int) -> None:
        hosts = [Host(name, up_mbit=UP_MBIT, down_mbit=UP_MBIT) for name in DONORS]
        hosts.append(Host("joiner", up_mbit=UP_MBIT, down_mbit=DOWN_MBIT))
        names = [host.name for host in hosts]
        route = Route(delay_ms=DELAY_MS, loss=LOSS)
        wan = stack.enter_context(
            Wan(Topology(tuple(hosts), {(a, b): route for a in names for b in names if a != b}), seed=1)
        )
        self.members: dict[str, Member] = {}
        for name in names:
            large_buffers(wan, name)
            spec = {"name": name, "listen": f"{wan.address(name)}:{PORT}", "mib": MIB_MANY, "elements": elements}
            self.members[name] = Member(stack, name, wan.popen, sys.executable, str(PEER), json.dumps(spec))
        table = {name: member.hear() for name, member in self.members.items()}
        for member in self.members.values():
            member.tell({"members": table})

    def fetch(self, run: str, donors: tuple[str, ...], mib: int = MIB) -> float:
        """MB/s of payload."""
        self.members["joiner"].tell({"fetch": run, "donors": donors, "mib": mib})
        answer = good(self.members["joiner"].hear())
        return mib * 2**20 / 1e6 / float(answer["seconds"])

    def ring(self, run: str) -> float:
        """Seconds of the slowest."""
        for name in RING:
            told = {"run": run, "codec": "int8", "schedule": "ring", "order": RING, "weights": [1.0] * len(RING)}
            self.members[name].tell(told)
        return max(float(good(self.members[name].hear())["seconds"]) for name in RING)


def good(answer: Answer) -> Answer:
    if "seconds" not in answer or "failed" in answer:
        raise SystemExit(f"a host ended without a result: {answer}")
    return answer


def rate(name: str, mb_per_s: float, mbit: float, what: str) -> Row:
    line = mbit / 8
    return {
        "name": name,
        "value": round(mb_per_s, 2),
        "unit": "MB/s",
        "against": f"{what}, {line:g} MB/s",
        "ratio": round(mb_per_s / line, 3),
    }


def many(hosts: Hosts) -> Row:
    hosts.fetch("warm-up", DONORS)
    return rate("many_donors_vs_downlink", hosts.fetch("many", DONORS, MIB_MANY), DOWN_MBIT, "the joiner's downlink")


def one(hosts: Hosts) -> Row:
    return rate("one_donor_vs_uplink", hosts.fetch("one", DONORS[:1]), UP_MBIT, "the donor's uplink")


def beside(hosts: Hosts, pairs: int) -> tuple[Row, str]:
    hosts.ring("cold"), hosts.ring("warm")
    ratios, alone_s, fetched = [], [], []
    for pair in range(pairs):
        alone = hosts.ring(f"alone {pair}")
        hosts.members["joiner"].tell({"fetch": f"beside {pair}", "donors": RING, "mib": MIB})
        together = hosts.ring(f"beside {pair}")
        answer = good(hosts.members["joiner"].hear())
        fetched.append(MIB * 2**20 / 1e6 / float(answer["seconds"]))
        alone_s.append(alone)
        ratios.append(together / alone)
    row = {
        "name": "round_time_with_joiner_vs_without",
        "value": round(statistics.median(ratios), 3),
        "unit": "times",
        "against": f"rings without a joiner, {statistics.median(alone_s):.2f} s",
        "ratio": round(statistics.median(ratios), 3),
    }
    note = (
        f"each: {', '.join(f'{ratio:.3f}' for ratio in ratios)}; the joiner got {statistics.median(fetched):.1f} MB/s"
    )
    return row, note


def five_donors(quick: bool, wanted: Sequence[str], rows: list[Row], notes: list[str]) -> None:
    with ExitStack() as stack:
        hosts = Hosts(stack, ELEMENTS_QUICK if quick else ELEMENTS)
        if "many_donors_vs_downlink" in wanted:
            rows.append(many(hosts))
        if "one_donor_vs_uplink" in wanted:
            rows.append(one(hosts))
        if "round_time_with_joiner_vs_without" in wanted:
            row, note = beside(hosts, PAIRS_QUICK if quick else PAIRS)
            rows.append(row)
            notes.append(note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="within three minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=sorted(GOALS), action="append")
    arguments = parser.parse_args()
    refused = why_not()
    if refused:
        raise SystemExit(f"no network can be emulated here: {refused}")
    wanted = arguments.only or (QUICK if arguments.quick else list(GOALS))
    rows, notes = list[Row](), list[str]()
    if set(QUICK) & set(wanted):
        five_donors(arguments.quick, wanted, rows, notes)
    if "ten_joiners_vs_bound" in wanted:
        row, note = ten()
        rows.append(row)
        notes.append(note)
    if "large" in wanted:
        more, note = large()
        rows += more
        notes.append(note)
    if arguments.json:
        print(json.dumps({"schema": 1, "results": rows, "notes": notes}))
        return
    for row in rows:
        goal = f"goal {GOALS[row['name']]}" if GOALS.get(row["name"]) else "no goal"
        print(
            f"{row['name']:36} {row['value']:>9} {row['unit']:6} ratio {row['ratio']:<6} ({goal}) of {row['against']}"
        )
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
