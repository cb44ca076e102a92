"""One host of the catch-up bench, in a process of its own: an engine that serves a state, or fetches one.

`python catchup_peer.py SPEC`, a JSON object: name, listen, mib, elements. First it answers {"address", "certificate"}.
A line {"members": {peer: such an answer}} has it trust them; {"fetch": run, "donors": [peer]} fetches the state, or its
first "mib", from these, with {"seconds", "received"} or {"failed": reason}; with "fellows": [peer] and "first", a
piece, it gives these what it has of it meanwhile, and afterwards (with "seed": false it has nothing before). {"run":
...} takes part in a ring, as in collective_peer.py. A state is 1 MiB pieces, each of which says which one it is.
"""

import itertools
import json
import queue
import struct
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from blake3 import blake3

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import (
    BulkEvent,
    DonorLost,
    Endpoint,
    PiecesJob,
    ServedObject,
    TransferDone,
    TransferProgress,
)
from intellectd.kernels.digest import LEAF_BYTES, leaf_hash
from tests.bench.collective_peer import Vector, begin

STALL_S, DEADLINE_S = 30.0, 200.0
Told = dict[str, Any]


def piece(number: int) -> bytes:
    """Not compressible by anything on the way, and cheap to make."""
    block = blake3(struct.pack("<I", number)).digest(4096)
    return block * (LEAF_BYTES // len(block))


def ended(inbox: "queue.Queue[BulkEvent]") -> BulkEvent:
    while True:
        event = inbox.get()
        if not isinstance(event, TransferProgress | DonorLost):
            return event


class Arriving:
    """What has come of it, for fellows (daemon/store/arriving.py does the same over a file)."""

    def __init__(self, into: memoryview, pieces: int) -> None:
        self._into, self.came = into, bytearray(pieces)
        self.nbytes = len(into)

    def held(self) -> memoryview:
        bits = int("".join("1" if came else "0" for came in reversed(self.came)), 2)
        return memoryview(bits.to_bytes(-(-len(self.came) // 8), "little"))

    def part(self, start: int, stop: int) -> memoryview:
        piece = start // LEAF_BYTES
        if not self.came[piece]:
            raise OSError(f"piece {piece} is not here yet")
        return self._into[start : min(stop, (piece + 1) * LEAF_BYTES)]


class Whole:
    """All of it, made as it is asked for: it need not lie in memory once for each host."""

    def __init__(self, pieces: int) -> None:
        self.nbytes = pieces * LEAF_BYTES

    def part(self, start: int, stop: int) -> memoryview:
        number, at = divmod(start, LEAF_BYTES)
        return memoryview(piece(number))[at : at + stop - start]


class States:
    """What this host can give: all of it, or what has come."""

    def __init__(self, state: Whole | None) -> None:
        self._state = state
        self.arriving: Arriving | None = None

    def provide(self, _peer: str, name: str) -> memoryview | ServedObject | None:
        if self._state is not None:
            return self._state if name == "state" else None
        if self.arriving is None:
            return None
        return self.arriving.held() if name == "held" else self.arriving


def fetch(engine: Engine, told: Told, hashes: tuple[bytes, ...], states: States) -> Told:
    hashes = hashes[: told.get("mib", len(hashes))]
    into = memoryview(bytearray(len(hashes) * LEAF_BYTES))
    states.arriving = arriving = Arriving(into, len(hashes))
    inbox: queue.Queue[BulkEvent] = queue.Queue()
    borders = tuple(range(0, len(into) + 1, LEAF_BYTES))
    name = blake3(told["fetch"].encode()).digest()

    def came(piece: int) -> None:
        arriving.came[piece] = 1

    donors, fellows = tuple(told["donors"]), tuple(told.get("fellows", ()))
    job = PiecesJob(
        name,
        donors,
        "state",
        into,
        borders,
        hashes,
        (),
        came,
        STALL_S,
        DEADLINE_S,
        fellows,
        "held",
        told.get("first", 0),
    )
    began = time.monotonic()
    engine.start_pieces(job, inbox.put)
    event, seconds = ended(inbox), time.monotonic() - began
    if not isinstance(event, TransferDone):
        return {"failed": getattr(event, "reason", repr(event)), "seconds": seconds}
    assert all(leaf_hash(into[a:b]) == hashes[n] for n, (a, b) in enumerate(itertools.pairwise(borders)))
    return {"seconds": seconds, "received": event.received_bytes}


def reduce(engine: Engine, told: Told, vector: Vector) -> Told:
    inbox: queue.Queue[BulkEvent] = queue.Queue()
    began = time.monotonic()
    begin(engine, told, vector, inbox.put)
    event, seconds = ended(inbox), time.monotonic() - began
    if not isinstance(event, TransferDone):
        return {"failed": getattr(event, "reason", repr(event)), "seconds": seconds}
    return {"seconds": seconds, "digest": blake3(vector.out).hexdigest()}


def main() -> None:
    spec = json.loads(sys.argv[1])
    engine = Engine(spec["name"], spec["listen"])
    hashes = tuple(leaf_hash(piece(number)) for number in range(spec["mib"]))
    states = States(Whole(spec["mib"]) if spec.get("seed", True) else None)
    vector = None
    if spec["elements"]:
        delta = torch.randn(spec["elements"], generator=torch.Generator().manual_seed(1)) * 1e-3
        vector = Vector("int8", delta, whole=False)
    engine.serve(states.provide)
    endpoint = engine.endpoint
    print(json.dumps({"address": endpoint.address, "certificate": endpoint.certificate.hex()}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        if "members" in told:
            members = {name: (at["address"], bytes.fromhex(at["certificate"])) for name, at in told["members"].items()}
            engine.trust({name: Endpoint(*where) for name, where in members.items() if name != spec["name"]})
            continue
        if "fetch" in told:
            answer = fetch(engine, told, hashes, states)
        else:
            assert vector is not None
            answer = reduce(engine, told, vector)
        print(json.dumps(answer), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
