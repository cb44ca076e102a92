"""Collectives of the production engine: against other packages, against the formula, and through faults.

`python tests/bench/collectives.py [--quick] [--json] [--only PART] [--no-rivals]`. README.md here names the parts and
the results, and what the other packages need. Nothing is asserted here.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench import loopback, wan_faults, wan_order, wan_scaling

Row = dict[str, Any]
Made = tuple[list[Row], list[str]]
ROUNDS, ROUNDS_QUICK = 9, 3
QUICK_S = 180.0
QUICK_BEGIN_S_MAX = 0.8 * QUICK_S  # no part takes longer than the rest of it


def parts(quick: bool, rivals: bool) -> dict[str, Callable[[], Made]]:
    rounds = ROUNDS_QUICK if quick else ROUNDS
    theirs = (loopback.BEST if quick else tuple(loopback.THEIRS)) if rivals else ()
    found: dict[str, Callable[[], Made]] = {
        "loopback_2": lambda: loopback.rows(2, rounds, theirs),
        "loopback_4": lambda: loopback.rows(4, rounds, () if quick else theirs, few=quick),
        "scaling": lambda: wan_scaling.rows(quick),
        "three_continents": lambda: wan_order.rows("three-continents", quick),
        "faults": lambda: wan_faults.rows(quick),
    }
    if not quick:
        found["intellect1"] = lambda: wan_order.rows("intellect1", quick)
        found["large"] = lambda: loopback.large("int8", 4 * loopback.ELEMENTS)
    return found


def show(rows: list[Row], notes: list[str]) -> None:
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
        goal = f"   goal {row['goal']}" if "goal" in row else ""
        print(f"{row['name']:44}{row['value']:10.4g}  {row['unit']:12}{ratio:>8}  {row['against']}{goal}")
    print(*(f"  ({note})" for note in notes), sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer bytes: three minutes at most")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", metavar="PART", help="parts whose name has this in it")
    parser.add_argument("--no-rivals", action="store_true", help="of the others gloo alone, which comes with torch")
    options = parser.parse_args()
    rows: list[Row] = []
    notes = [f"{os.cpu_count()} CPUs, load before {os.getloadavg()[0]:.1f}: other work here makes ratios vary"]
    began = time.monotonic()
    for name, part in parts(options.quick, not options.no_rivals).items():
        if not options.only or options.only in name:
            at = time.monotonic() - began
            late = options.quick and at > QUICK_BEGIN_S_MAX
            made, said = ([], [f"{name}: left out, {QUICK_S:.0f} s are nearly over"]) if late else part()
            said += [] if late else [f"{name} took {time.monotonic() - began - at:.0f} s"]
            rows += made
            notes += said
            if not options.json:
                show(made, said)
    if options.json:
        print(json.dumps({"schema": 1, "results": rows, "notes": notes}))


if __name__ == "__main__":
    main()
