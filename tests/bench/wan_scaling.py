"""How the time of a collective grows from 2 to 16 peers on the emulated WAN, beside the formula of its bytes.

Owns the networks for it: hosts alike, each with a link of its own at a rate that keeps all of them together below
TOTAL_MBIT; bytes shrink with the rate, so the formula's time stays. "socket bytes" are what a member's engine gave to
its sockets, headers and tags included. Shared with the other benches on the WAN: building one, and its peers.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from intellectd.kernels.codec import GROUP, codec_by_name
from intellectd.protocol.collectives import torus_rows
from tests.bench import collective_peer
from tests.bench.members import PORT, Answer, Shape, Swarm, agreed, slowest
from tests.wan.calibrate import large_buffers
from tests.wan.network import Wan, why_not
from tests.wan.topology import Route, Topology, uniform

Row = dict[str, Any]
CODEC = "int8"
PEERS, PEERS_QUICK = (2, 4, 8, 16), (2, 8)
HOST_MBIT, TOTAL_MBIT = 500.0, 1800.0
DELAY_MS = 20.0
SECONDS, SECONDS_QUICK = 4.0, 1.0  # what the formula gives
ROUNDS, ROUNDS_QUICK = 3, 1
GOSSIP_GROUP = 4
SCHEDULES = ("ring", "direct", "torus", "gossip")
PAYLOAD = 1448 / 1500  # of an IP packet of the MTU: 20 bytes of IP, 32 of TCP with time stamps


@contextmanager
def swarm_on(topology: Topology, shape: Shape) -> Iterator[tuple[Wan, Swarm]]:
    with Wan(topology, seed=1) as wan, ExitStack() as stack:
        for name in topology.names:
            large_buffers(wan, name)
        addresses = {name: f"{wan.address(name)}:{PORT}" for name in topology.names}
        yield wan, Swarm(stack, wan.popen, addresses, shape).ready()


def formula_bytes(elements: int, members: int) -> float:
    """What each member must send: 2(M-1)/M of the encoded vector."""
    return 2 * (members - 1) / members * codec_by_name(CODEC).encoded_bytes(elements)


def elements_for(seconds: float, members: int, mbit: float) -> int:
    per_element = codec_by_name(CODEC).bytes_per_element * 2 * (members - 1) / members
    return max(members, int(seconds * mbit * 125e3 / per_element) // GROUP) * GROUP


def groups_of(names: Sequence[str], number: int) -> list[tuple[str, ...]]:
    """Gossip's groups of one round: neighbours, then hosts that are far apart."""
    count = max(1, len(names) // GOSSIP_GROUP)
    size = len(names) // count
    if number % 2:
        return [tuple(names[start::count]) for start in range(count)]
    return [tuple(names[start * size : (start + 1) * size]) for start in range(count)]


def shape_of(schedule: str, peers: int) -> list[int]:
    """Of a torus its rows, as near to a square as can be."""
    return [max(rows for rows in torus_rows(peers) if rows * rows <= peers)] if schedule == "torus" else []


def one_round(swarm: Swarm, schedule: str, number: int) -> dict[str, Answer]:
    names = tuple(swarm.members)
    if schedule != "gossip":
        return swarm.run(f"{schedule} {number}", names, schedule, shape=shape_of(schedule, len(names)))
    groups = groups_of(names, number)
    for index, group in enumerate(groups):
        swarm.begin(f"gossip {number} {index}", group)
    answers: dict[str, Answer] = {}
    for group in groups:
        answers |= agreed("gossip", swarm.end(group))
    return answers


def measure(peers: int, seconds: float, rounds: int) -> tuple[list[Row], list[str]]:
    mbit = min(HOST_MBIT, TOTAL_MBIT / peers)
    names = tuple(f"p{number}" for number in range(peers))
    queue_ms = 2 * DELAY_MS
    topology = uniform(names, Route(delay_ms=DELAY_MS), up_mbit=mbit, down_mbit=mbit, queue_ms=queue_ms)
    elements = elements_for(seconds, peers, mbit)
    made: list[Row] = []
    notes: list[str] = []
    with swarm_on(topology, Shape((CODEC,), elements)) as (wan, swarm):
        for schedule in SCHEDULES:
            if schedule == "torus" and not torus_rows(peers):
                continue
            if schedule != "gossip" and schedule not in collective_peer.SCHEDULES:
                notes.append(f"scale_{schedule}_{peers}: no figure, this engine has no such schedule")
                continue
            group = len(groups_of(names, 0)[0]) if schedule == "gossip" else peers
            must = formula_bytes(elements, group)
            one_round(swarm, schedule, 0)  # dials, and lets the links find their rates
            times, sent = [], []
            before = wan.counts()
            for number in range(1, rounds + 1):
                answers = one_round(swarm, schedule, number)
                times.append(slowest(answers))
                sent += [answer["sent"] for answer in answers.values()]
            counts = wan.counts().since(before)
            carried = sum(path.bytes_arrived for path in counts.paths.values()) * PAYLOAD / rounds / peers
            ideal_s = must * 8e-6 / mbit
            value = statistics.median(times)
            row = {"name": f"scale_{schedule}_{peers}", "value": round(value, 3), "unit": "s"}
            made.append(row | {"against": f"{ideal_s:.2f} s: {mbit:.0f} Mbit/s", "ratio": round(value / ideal_s, 3)})
            row = {"name": f"scale_{schedule}_{peers}_bytes", "value": round(max(sent) / 1e6, 2), "unit": "MB"}
            row |= {"against": f"formula; the network carried {carried / must:.3f} of it", "goal": 1.03}
            made.append(row | {"ratio": round(max(sent) / must, 4)})
            doubt = counts.distrust()
            if doubt:
                notes.append(f"scale_{schedule}_{peers}: {doubt}")
    return made, notes


def rows(quick: bool) -> tuple[list[Row], list[str]]:
    refused = why_not()
    if refused:
        return [], [f"scale: no figures, no WAN here: {refused}"]
    made: list[Row] = []
    notes: list[str] = []
    for peers in PEERS_QUICK if quick else PEERS:
        seconds, rounds = (SECONDS_QUICK, ROUNDS_QUICK) if quick else (SECONDS, ROUNDS)
        more, said = measure(peers, seconds, rounds)
        made += more
        notes += said
    return made, notes
