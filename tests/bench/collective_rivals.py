"""One rank of another package's all-reduce, in that package's own environment: told by lines of JSON, like ours.

`python collective_rivals.py SPEC`, a JSON object: kind, rank, world, folder (where the ranks find each other),
elements. It answers {"ready": version}, then each line with {"seconds", "cpu_s", "error"}: of one all-reduce of fp32,
and how far the result was from the true one. Nothing of this project is imported: those environments lack it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

TIMEOUT_S = 120.0
TICKS = 100.0  # of /proc, a second
Spec = dict[str, Any]
Kept = list[Any]  # what must live as long as the process


class Rank:
    """`put` the vector (not timed), `reduce` it over all ranks (timed), `got`: the sum, or the mean."""

    mean = False

    def __init__(self, spec: Spec, all_reduce: Callable[[torch.Tensor], object], mean: bool = False) -> None:
        self.mean, self._all_reduce, self._vector = mean, all_reduce, torch.empty(spec["elements"])

    def put(self, vector: torch.Tensor) -> None:
        self._vector.copy_(vector)

    def reduce(self) -> None:
        self._all_reduce(self._vector)

    def got(self) -> torch.Tensor:
        return self._vector

    def end(self) -> None:
        """Before the process ends, if anything is owed to the others."""


def gloo(spec: Spec, kept: Kept) -> Rank:
    import torch.distributed as dist

    store = f"file://{spec['folder']}/gloo"
    dist.init_process_group("gloo", init_method=store, rank=spec["rank"], world_size=spec["world"])
    return Rank(spec, dist.all_reduce)


def torchft_gloo(spec: Spec, kept: Kept) -> Rank:
    """torchft's process group alone, without quorum and vote."""
    from torch.distributed import ReduceOp, TCPStore
    from torchft.process_group import ProcessGroupGloo

    found = Path(spec["folder"], "store")
    if spec["rank"] == 0:
        kept.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        publish(found, f"127.0.0.1:{kept[0].port}")
    group = ProcessGroupGloo(timeout=timedelta(seconds=TIMEOUT_S))
    group.configure(f"{awaited(found)}/bench", "bench", spec["rank"], spec["world"])
    return Rank(spec, lambda vector: group.allreduce([vector], ReduceOp.SUM).wait())


def torchft(spec: Spec, kept: Kept) -> Rank:
    """As a training step has it: a quorum, the all-reduce, a vote. Each rank is a replica group of its own."""
    from torch.distributed import TCPStore
    from torchft import Manager
    from torchft.coordination import LighthouseServer
    from torchft.process_group import ProcessGroupGloo

    found = Path(spec["folder"], "lighthouse")
    if spec["rank"] == 0:
        server = LighthouseServer(bind="127.0.0.1:0", min_replicas=spec["world"], join_timeout_ms=60_000)
        kept.append(server)
        publish(found, server.address())
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    kept.append(store)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=TIMEOUT_S)),
        load_state_dict=lambda state: None,
        state_dict=dict,
        min_replica_size=spec["world"],
        use_async_quorum=False,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        hostname="127.0.0.1",
        lighthouse_addr=awaited(found),
        replica_id=f"rank{spec['rank']}",
        timeout=timedelta(seconds=TIMEOUT_S),
        init_sync=False,  # nothing to heal: the ranks begin alike
    )

    def all_reduce(vector: torch.Tensor) -> None:
        manager.start_quorum()
        manager.allreduce(vector).wait()
        if not manager.should_commit():
            raise RuntimeError(f"torchft's vote was no: {manager.errored()}")

    return Rank(spec, all_reduce, mean=True)


class HivemindRank(Rank):
    """Its averager keeps the vector in memory that it shares with a process of its own."""

    def __init__(self, averager: Any, dht: Any) -> None:
        self.mean, self._averager, self._dht = True, averager, dht

    def put(self, vector: torch.Tensor) -> None:
        with self._averager.get_tensors() as (shared,):
            shared.copy_(vector)

    def reduce(self) -> None:
        if self._averager.step(timeout=TIMEOUT_S) is None:
            raise RuntimeError("hivemind found no group")

    def got(self) -> torch.Tensor:
        with self._averager.get_tensors() as (shared,):
            return shared.clone()

    def end(self) -> None:
        self._averager.shutdown()
        self._dht.shutdown()


def hivemind(spec: Spec, kept: Kept) -> Rank:
    import hivemind as package

    names = {"fp32": "NoCompression", "fp16": "Float16Compression"}
    found = Path(spec["folder"], "dht")
    where = {"host_maddrs": ["/ip4/127.0.0.1/tcp/0"], "start": True}
    if spec["rank"]:
        dht = package.DHT(initial_peers=json.loads(awaited(found)), **where)
    else:
        dht = package.DHT(**where)
        publish(found, json.dumps([str(address) for address in dht.get_visible_maddrs()]))
    averager = package.averaging.DecentralizedAverager(
        [torch.zeros(spec["elements"])],
        dht,
        prefix="bench",
        target_group_size=spec["world"],
        min_group_size=spec["world"],
        min_matchmaking_time=0.5,
        compression=getattr(package.compression, names[spec["codec"]])(),
        start=True,
    )
    return HivemindRank(averager, dht)


KINDS: dict[str, Callable[[Spec, Kept], Rank]] = {
    "gloo": gloo,
    "torchft_gloo": torchft_gloo,
    "torchft": torchft,
    "hivemind": hivemind,
}
PACKAGES = {"gloo": "torch", "torchft_gloo": "torchft"}


def publish(path: Path, text: str) -> None:
    whole = path.with_suffix(".new")
    whole.write_text(text)
    whole.rename(path)


def awaited(path: Path) -> str:
    until, pause = time.monotonic() + TIMEOUT_S, threading.Event()
    while not path.exists():
        if time.monotonic() > until:
            raise SystemExit(f"{path.name}: not there after {TIMEOUT_S:.0f} s")
        pause.wait(0.05)
    return path.read_text()


def children_cpu_s() -> float:
    """Of the living processes below this one, in steps of 10 ms."""
    found: dict[int, tuple[int, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        found[int(stat.parent.name)] = int(words[1]), (int(words[11]) + int(words[12])) / TICKS
    me, total = os.getpid(), 0.0
    for pid, (parent, cpu_s) in found.items():
        above = parent
        while above not in (me, 0) and above in found and pid != me:
            above = found[above][0]
        total += cpu_s if above == me else 0.0
    return total


def main(spec: Spec) -> None:
    torch.set_num_threads(1)
    world = spec["world"]
    pattern = torch.arange(spec["elements"], dtype=torch.float32).remainder_(1009).div_(1009)
    mine = pattern * (spec["rank"] + 1.0)
    kept: Kept = []
    rank = KINDS[spec["kind"]](spec, kept)
    rank.put(mine)
    expected = sum(range(1, world + 1)) / (world if rank.mean else 1)
    say({"ready": version(PACKAGES.get(spec["kind"], spec["kind"]))})
    for _line in sys.stdin:
        below, cpu, began = children_cpu_s(), time.process_time(), time.perf_counter()
        rank.reduce()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        cpu_s = cpu + children_cpu_s() - below
        error = float(rank.got().sub(pattern, alpha=expected).abs_().max())
        rank.put(mine)  # before the answer: the next one begins with all ranks ready
        say({"seconds": seconds, "cpu_s": cpu_s, "error": error})
    rank.end()
    os._exit(0)  # some of them wait for each other at the end


def say(what: Spec) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
