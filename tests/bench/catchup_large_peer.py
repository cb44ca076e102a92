"""One host of the bench of a large state, in a process of its own: the production engine and stores.

`python catchup_large_peer.py SPEC`, a JSON object: name, folder, elements. It answers {"address",
"certificate"}, then each line with a line, always with "cpu_s" (of this process, for that), "all_cpu_s" and "peak_gib"
(the most that was resident so far, and what is there now with no file behind it):

{"make": seed}: writes a snapshot of random vectors, with "digest"; {"members": ...}: as in catchup_peer.py;
{"serve": digest}: gives that snapshot; {"fetch": digest, "donors": [peer]}: fetches it, verifies it once more whole,
takes it into memory, and makes it a snapshot: as daemon/runs/state_fetch.py does, with "seconds" of each.
"""

import json
import queue
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import (
    BulkEvent,
    Endpoint,
    FetchJob,
    MemoryObject,
    PiecesJob,
    ServedObject,
    TransferDone,
    TransferFailed,
)
from intellectd.daemon.store.hot_pieces import FileObject, HotPieces
from intellectd.daemon.store.incoming import Incoming, state_borders
from intellectd.daemon.store.snapshot import State, extent_of, part_of
from intellectd.daemon.store.snapshot_writer import write_snapshot
from intellectd.kernels import ops
from intellectd.kernels.digest import HASH_BYTES, leaf_hashes, state_digest, state_leaves, state_root

STALL_S, DEADLINE_S = 60.0, 280.0
ROUND = 4
THREADS = 2
Told = dict[str, Any]


class Peer:
    def __init__(self, spec: Told) -> None:
        self.engine = Engine(spec["name"], "127.0.0.1:0")
        self.folder, self.elements = Path(spec["folder"]), int(spec["elements"])
        self._hot, self._leaves = HotPieces(), b""

    @property
    def path(self) -> Path:
        return self.folder / "state.safetensors"

    def make(self, seed: int) -> Told:
        torch.set_num_threads(THREADS)
        generator = torch.Generator().manual_seed(seed)
        state = State(*(torch.randn(self.elements, generator=generator) for _ in range(2)))
        digest = state_digest(state.theta, state.momentum, THREADS)
        write_snapshot(self.path, state, ROUND, digest)
        return {"digest": digest.hex()}

    def serve(self) -> Told:
        began = time.monotonic()
        self._leaves = b"".join(state_leaves(part_of(self.path, "theta"), part_of(self.path, "momentum"), THREADS))
        self.engine.serve(self._provide)
        return {"seconds": {"leaves": time.monotonic() - began}}

    def _provide(self, _peer: str, name: str) -> ServedObject | None:
        if name == "leaves":
            return MemoryObject(memoryview(self._leaves))
        return FileObject(self.path, *extent_of(self.path, "state"), self._hot)

    def fetch(self, digest: bytes, donors: tuple[str, ...]) -> Told:
        borders, times = state_borders(self.elements), dict[str, float]()
        marks = [time.monotonic()]

        def done(what: str) -> None:
            marks.append(time.monotonic())
            times[what] = round(marks[-1] - marks[-2], 2)

        raw = bytearray((len(borders) - 1) * HASH_BYTES)
        self._ended(FetchJob(b"l" * 32, donors[0], "leaves", 0, memoryview(raw), STALL_S, DEADLINE_S))
        hashes = tuple(bytes(raw[at : at + HASH_BYTES]) for at in range(0, len(raw), HASH_BYTES))
        assert state_root(hashes) == digest
        incoming = Incoming(self.folder / "incoming", self.elements, ROUND, digest)
        done("begin")
        self._ended(
            PiecesJob(
                b"p" * 32, donors, "state", incoming.data, borders, hashes, (), incoming.prove, STALL_S, DEADLINE_S
            )
        )
        incoming.sync()
        done("fetch")
        half = incoming.data.nbytes // 2
        found = [h for at in (0, half) for h in leaf_hashes(incoming.data[at : at + half], THREADS)]
        assert tuple(found) == hashes
        done("verify")
        vectors = [part.clone() for part in ops.as_bytes(incoming.data).view(torch.float32).chunk(2)]
        done("take")
        incoming.become(self.path)
        done("keep")
        assert sum(vector.numel() for vector in vectors) == 2 * self.elements
        return {"seconds": times}

    def _ended(self, job: FetchJob | PiecesJob) -> None:
        inbox: queue.Queue[BulkEvent] = queue.Queue()
        if isinstance(job, FetchJob):
            self.engine.start_fetch(job, inbox.put)
        else:
            self.engine.start_pieces(job, inbox.put)
        while not isinstance(event := inbox.get(), TransferDone | TransferFailed):
            pass
        assert isinstance(event, TransferDone), event

    def answer(self, told: Told) -> Told:
        if "members" in told:
            found = {
                name: Endpoint(at["address"], bytes.fromhex(at["certificate"])) for name, at in told["members"].items()
            }
            self.engine.trust(found)
            return {}
        if "make" in told:
            return self.make(told["make"])
        if "serve" in told:
            return self.serve()
        return self.fetch(bytes.fromhex(told["fetch"]), tuple(told["donors"]))


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_gib() -> dict[str, float]:
    """The most so far, and what is there now without a file behind it."""
    kib = {
        line.split(":")[0]: line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if "kB" in line
    }
    return {name: round(int(kib[field]) / 2**20, 2) for name, field in (("most", "VmHWM"), ("anonymous", "RssAnon"))}


def main() -> None:
    spec = json.loads(sys.argv[1])
    peer = Peer(spec)
    endpoint = peer.engine.endpoint
    print(json.dumps({"address": endpoint.address, "certificate": endpoint.certificate.hex()}), flush=True)
    for line in sys.stdin:
        before = cpu_s()
        answer = peer.answer(json.loads(line))
        print(
            json.dumps(answer | {"cpu_s": round(cpu_s() - before, 3), "all_cpu_s": cpu_s(), "peak_gib": peak_gib()}),
            flush=True,
        )
    peer.engine.close()


if __name__ == "__main__":
    main()
