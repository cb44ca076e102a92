"""Ten that join three at once over an emulated WAN: how long until the last has the state, over what the links allow.

`ten_joiners_vs_bound` of catchup.py. All uplinks 25 Mbit/s, downlinks 100, 60 ms round trip, a packet in ten thousand
lost; a state S of 64 MiB. The bound is max(S / the seeds' uplinks, S / the slowest downlink, 10 S / all uplinks): what
is given comes from somewhere. Rates are a quarter of those of catchup.py: thirteen hosts share this machine's cores.
"""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blake3 import blake3

from tests.bench.members import PORT, Member
from tests.wan.calibrate import large_buffers
from tests.wan.network import Wan
from tests.wan.topology import Host, Route, Topology

PEER = Path(__file__).with_name("catchup_peer.py")
SEEDS = tuple(f"s{n}" for n in range(3))
JOINERS = tuple(f"j{n}" for n in range(10))
UP_MBIT, DOWN_MBIT, DELAY_MS, LOSS = 25.0, 100.0, 30.0, 1e-4
MIB = 64
BITS = MIB * 2**20 * 8


def bound_s() -> float:
    seeds, everybody = len(SEEDS) * UP_MBIT, (len(SEEDS) + len(JOINERS)) * UP_MBIT
    return max(BITS / (seeds * 1e6), BITS / (DOWN_MBIT * 1e6), len(JOINERS) * BITS / (everybody * 1e6))


def members(stack: ExitStack) -> dict[str, Member]:
    hosts = tuple(Host(name, up_mbit=UP_MBIT, down_mbit=DOWN_MBIT) for name in (*SEEDS, *JOINERS))
    names = [host.name for host in hosts]
    route = Route(delay_ms=DELAY_MS, loss=LOSS)
    wan = stack.enter_context(Wan(Topology(hosts, {(a, b): route for a in names for b in names if a != b}), seed=1))
    found: dict[str, Member] = {}
    for name in names:
        large_buffers(wan, name)
        spec = {"name": name, "listen": f"{wan.address(name)}:{PORT}", "mib": MIB, "elements": 0}
        spec |= {"seed": name in SEEDS}
        found[name] = Member(stack, name, wan.popen, sys.executable, str(PEER), json.dumps(spec))
    table = {name: member.hear() for name, member in found.items()}
    for member in found.values():
        member.tell({"members": table})
    return found


def ten() -> tuple[dict[str, Any], str]:
    """The row, and what to say beside it."""
    with ExitStack() as stack:
        hosts, took = members(stack), dict[str, float]()
        for fellows in (True, False):
            for name in JOINERS:
                others = [other for other in JOINERS if other != name] if fellows else []
                told: dict[str, Any] = {"fetch": f"{name} {fellows}", "donors": SEEDS, "fellows": others}
                hosts[name].tell(told | {"first": blake3(name.encode()).digest()[0] % MIB})
            answers = {name: hosts[name].hear() for name in JOINERS}
            failed = [f"{name}: {answer}" for name, answer in answers.items() if "received" not in answer]
            if failed:
                raise SystemExit(f"no result: {'; '.join(failed)}")
            took[str(fellows)] = max(float(answer["seconds"]) for answer in answers.values())
    bound = bound_s()
    row = {
        "name": "ten_joiners_vs_bound",
        "value": round(took["True"], 2),
        "unit": "s",
        "against": f"what the links allow, {bound:.1f} s",
        "ratio": round(took["True"] / bound, 3),
    }
    alone = took["False"]
    return row, f"ten joiners that do not serve each other: {alone:.1f} s, {alone / bound:.2f} of the same bound"
