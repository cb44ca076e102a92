"""One member of a benched swarm, in a process of its own: an engine, told by lines of JSON what to do.

`python collective_peer.py SPEC`, a JSON object: name, listen, hidden, codecs, elements, seed, plain, whole, near. Owns
its vectors, one of each codec. First it answers {"address", "certificate"}: where it listens. A line {"members": {peer:
such an answer}} has it trust them; to each line {"run": name, "codec", "schedule", "order": [peer], "weights":
[number]} it answers {"seconds", "cpu_s", "sent", "received", "digest", "own_mib"}, or {"failed": reason, "suspect",
"silent", "seconds"}. Further keys of such a line: "stall_s", "deadline_s"; "beats": a trio task of this process beats
meanwhile, and "late_ms" says how late; "whole": the fp32 vector is encoded before and decoded after, and both count.
"""

import json
import queue
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import trio
from blake3 import blake3

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import BulkEvent, CollectiveJob, Endpoint, TransferDone, TransferFailed
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name

STALL_S, DEADLINE_S = 30.0, 150.0  # an undisturbed one that takes longer hangs
BEAT_S = 0.002
PROCESS = Path("/proc/self")
Told = dict[str, Any]
Hear = Callable[[BulkEvent], None]

SCHEDULES = ("ring", "direct", "torus")


def begin(engine: Engine, told: Told, vector: "Vector", hear: Hear) -> None:
    job = CollectiveJob(
        blake3(told["run"].encode()).digest(),
        tuple(told["order"]),
        tuple(told["weights"]),
        vector.codec.name,
        vector.elements,
        memoryview(vector.own).toreadonly(),
        memoryview(vector.out),
        told.get("stall_s", STALL_S),
        told.get("deadline_s", DEADLINE_S),
        told["schedule"],
        tuple(told.get("shape", ())),
    )
    engine.start_collective(job, hear)


class Vector:
    """What is reduced: every page touched before anything is measured."""

    def __init__(self, codec: str, delta: torch.Tensor, whole: bool) -> None:
        self.codec, self.elements = codec_by_name(codec), delta.numel()
        size = self.codec.encoded_bytes(self.elements)
        self.own, self.out = bytearray(size), bytearray(size)
        self.delta = delta
        self.encode()
        self.out[:] = self.own
        if not whole:
            del self.delta

    def encode(self) -> None:
        ops.encode(self.codec, self.delta, ops.as_bytes(self.own), ops.usable_threads())

    def decode(self) -> None:
        ops.decode(self.codec, ops.as_bytes(self.out), self.delta, ops.usable_threads())


def vectors(spec: Told) -> dict[str, Vector]:
    delta = torch.randn(spec["elements"], generator=torch.Generator().manual_seed(spec["seed"])) * 1e-3
    return {codec: Vector(codec, delta, spec["whole"]) for codec in spec["codecs"]}


def heard_in_a_thread(start: Callable[[Hear], None]) -> tuple[BulkEvent, float, list[float]]:
    """The end, and when it came (time.perf_counter)."""
    events: queue.Queue[tuple[BulkEvent, float]] = queue.Queue()
    start(lambda event: events.put((event, time.perf_counter())))
    event, at = events.get()
    while not isinstance(event, TransferDone | TransferFailed):
        event, at = events.get()
    return event, at, []


async def heard_in_an_event_loop(start: Callable[[Hear], None]) -> tuple[BulkEvent, float, list[float]]:
    """As the daemon hears it, and how late each beat of another task was, in milliseconds."""
    token, over = trio.lowlevel.current_trio_token(), trio.Event()
    ends: list[tuple[BulkEvent, float]] = []
    late_ms: list[float] = []

    def hear(event: BulkEvent) -> None:
        if isinstance(event, TransferDone | TransferFailed):
            ends.append((event, time.perf_counter()))
            token.run_sync_soon(over.set)

    async def beat() -> None:
        while True:
            due = trio.current_time() + BEAT_S
            await trio.sleep_until(due)
            late_ms.append(1e3 * (trio.current_time() - due))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        start(hear)
        await over.wait()
        nursery.cancel_scope.cancel()
    return (*ends[0], late_ms)


def memory_kib(what: str) -> int:
    """VmRSS: now; VmHWM: the most since `forget_peak`."""
    line = next(line for line in (PROCESS / "status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1])


def forget_peak() -> None:
    (PROCESS / "clear_refs").write_text("5")  # proc(5)


def run(engine: Engine, vector: Vector, told: Told, before_kib: int) -> Told:
    forget_peak()
    cpu, began = time.process_time(), time.perf_counter()
    if told.get("whole"):
        vector.encode()

    def start(hear: Hear) -> None:
        begin(engine, told, vector, hear)

    event, at, late_ms = trio.run(heard_in_an_event_loop, start) if told.get("beats") else heard_in_a_thread(start)
    if told.get("whole"):
        vector.decode()
        at = time.perf_counter()
    spent = {"seconds": at - began, "cpu_s": time.process_time() - cpu, "late_ms": late_ms}
    if isinstance(event, TransferFailed):
        return spent | {"failed": event.reason, "suspect": event.suspect, "silent": event.silent}
    assert isinstance(event, TransferDone)
    own_mib = (memory_kib("VmHWM") - before_kib) / 1024
    moved = {"sent": event.sent_bytes, "received": event.received_bytes}
    return spent | moved | {"digest": blake3(vector.out).hexdigest(), "own_mib": own_mib}


def say(what: Told) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(spec: Told) -> None:
    torch.set_num_threads(1)  # as many processes as hosts share the CPUs
    mine = vectors(spec)
    before_kib = memory_kib("VmRSS")
    announce, sealed, near = None if spec.get("hidden") else "", not spec["plain"], spec["near"]
    engine = Engine(spec["name"], spec["listen"], announce, sealed=sealed, near=near)
    certificate = engine.endpoint.certificate.hex()
    say({"address": engine.endpoint.address, "certificate": certificate})
    for line in sys.stdin:
        told = json.loads(line)
        if "members" in told:
            ends = told["members"].items()
            engine.trust({peer: Endpoint(end["address"], bytes.fromhex(end["certificate"])) for peer, end in ends})
        else:
            say(run(engine, mine[told["codec"]], told, before_kib))
    engine.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
