"""One member of a benched ring, in a process of its own: an engine, told by lines of JSON what to do.

Owns its vectors and what it answers: {"address", "certificate"} when it listens, then for each line
{"ring": name, "members": {peer: {"address", "certificate"}}} one of {"seconds", "sent", "digest", "cpu_s"}.
"""

import hashlib
import json
import os
import queue
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import BulkEvent, CollectiveJob, Endpoint, TransferDone, TransferFailed
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name

STALL_S, DEADLINE_S = 30.0, 600.0


def main(name: str, listen: str, codec: str, elements: int, seed: int) -> None:
    torch.set_num_threads(1)  # as many processes as hosts share the CPUs
    size = codec_by_name(codec).encoded_bytes(elements)
    own, out = bytearray(size), bytearray(size)
    delta = torch.randn(elements, generator=torch.Generator().manual_seed(seed)) * 1e-3
    ops.encode(codec_by_name(codec), delta, ops.as_bytes(own))
    del delta
    engine = Engine(name, listen)
    say({"address": engine.endpoint.address, "certificate": engine.endpoint.certificate.hex()})
    for line in sys.stdin:
        told = json.loads(line)
        members = {
            peer: Endpoint(end["address"], bytes.fromhex(end["certificate"])) for peer, end in told["members"].items()
        }
        engine.trust(members)
        events: queue.Queue[BulkEvent] = queue.Queue()
        transfer = hashlib.sha256(told["ring"].encode()).digest()
        weights = (1.0,) * len(members)
        halves = memoryview(own).toreadonly(), memoryview(out)
        before = os.times()
        job = CollectiveJob(transfer, tuple(members), weights, codec, elements, *halves, STALL_S, DEADLINE_S)
        engine.start_collective(job, events.put)
        event = events.get()
        while not isinstance(event, TransferDone | TransferFailed):
            event = events.get()
        after = os.times()
        if isinstance(event, TransferFailed):
            raise SystemExit(f"{name}: the ring failed: {event}")
        cpu_s = sum(after[:2]) - sum(before[:2])
        digest = hashlib.sha256(out).hexdigest()
        say({"seconds": event.seconds, "sent": event.sent_bytes, "digest": digest, "cpu_s": cpu_s})
    engine.close()


def say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
