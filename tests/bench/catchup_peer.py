"""One host of the catch-up bench, in a process of its own: an engine that serves a state, or fetches one.

`python catchup_peer.py SPEC`, a JSON object: name, listen, mib, elements. First it answers {"address", "certificate"}.
A line {"members": {peer: such an answer}} has it trust them; {"fetch": run, "donors": [peer]} fetches the state from
these, with {"seconds", "received"} or {"failed": reason}; {"run": ...} takes part in a
ring, as in collective_peer.py. A state is 1 MiB pieces, each of which says which one it is.
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
from intellectd.daemon.bulk.interface import BulkEvent, DonorLost, Endpoint, PiecesJob, TransferDone, TransferProgress
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


def fetch(engine: Engine, told: Told, hashes: tuple[bytes, ...]) -> Told:
    into = memoryview(bytearray(len(hashes) * LEAF_BYTES))
    inbox: queue.Queue[BulkEvent] = queue.Queue()
    borders = tuple(range(0, len(into) + 1, LEAF_BYTES))
    name, came = blake3(told["fetch"].encode()).digest(), list[int]()
    job = PiecesJob(name, tuple(told["donors"]), "state", into, borders, hashes, (), came.append, STALL_S, DEADLINE_S)
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
    pieces = [piece(number) for number in range(spec["mib"])]
    hashes, state = tuple(leaf_hash(each) for each in pieces), memoryview(b"".join(pieces))
    del pieces
    delta = torch.randn(spec["elements"], generator=torch.Generator().manual_seed(1)) * 1e-3
    vector = Vector("int8", delta, whole=False)

    def provide(_peer: str, name: str) -> memoryview | None:
        return state if name == "state" else None

    engine.serve(provide)
    endpoint = engine.endpoint
    print(json.dumps({"address": endpoint.address, "certificate": endpoint.certificate.hex()}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        if "members" in told:
            members = {name: (at["address"], bytes.fromhex(at["certificate"])) for name, at in told["members"].items()}
            engine.trust({name: Endpoint(*where) for name, where in members.items() if name != spec["name"]})
            continue
        answer = fetch(engine, told, hashes) if "fetch" in told else reduce(engine, told, vector)
        print(json.dumps(answer), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
