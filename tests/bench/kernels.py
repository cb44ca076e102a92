"""How fast the kernels are, against what this machine's memory gives in the same run.

`python tests/bench/kernels.py [--quick] [--json]`. All cases take turns, round after round, each right after what it
is compared with; a figure is the median of the rounds, a ratio the median of each round's own. GB/s are of fp32
elements at 4 bytes, whatever a codec makes of them; a memcpy's N bytes count as N. Nothing is asserted here.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from intellectd.kernels import ops
from intellectd.kernels.codec import CODECS, FP32, INT8, Codec
from intellectd.kernels.digest import state_leaves
from intellectd.kernels.interface import Feedback
from intellectd.kernels.outer import NesterovStep, OuterVectors
from tests.bench import kernels_gpu, rivals
from tests.bench.codec_quality import EXPECTED, errors

ELEMENTS = 2**26  # 256 MiB of fp32: no cache of a core's own holds it
SLOW_ELEMENTS = 2**24  # for what takes a second a go
ROUNDS, ROUNDS_QUICK = 15, 5
STEP = NesterovStep(1e-6, 0.9)
GOALS = {
    "encode_int8": "10.9 GB/s where memcpy moved 7.2: 1.51",
    "decode_add_int8": "10.7 GB/s where memcpy moved 7.2: 1.49",
    "ring_hop_int8": "8 GB/s: 1.11 where memcpy moved 7.2",
}


@dataclass(frozen=True)
class Case:
    """`against` is another case; `times` says that the ratio is of times (lower is better), not of GB/s."""

    name: str
    run: Callable[[], object]
    elements: int
    against: str = ""
    times: bool = False


class Vectors:
    """What all cases work on; made once, every page touched."""

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.a, self.b, self.c = (torch.randn(elements) for _ in range(3))
        self.out = torch.zeros(elements)
        self.encoded = {codec.name: self._encoded(codec) for codec in CODECS.values()}
        self.room = {name: torch.zeros_like(encoded) for name, encoded in self.encoded.items()}

    def _encoded(self, codec: Codec) -> Tensor:
        encoded = torch.zeros(codec.encoded_bytes(self.elements), dtype=torch.uint8)
        ops.encode(codec, self.a * 1e-3, encoded, ops.usable_threads())
        return encoded


def memcpy(vectors: Vectors, pool: ThreadPoolExecutor, threads: int) -> None:
    """torch's copy_, a share for each thread: what the goals' 7.2 GB/s were measured with."""
    list(pool.map(lambda part: vectors.out[part].copy_(vectors.a[part]), shares(vectors, threads)))


def libc_memcpy(vectors: Vectors, pool: ThreadPoolExecutor, threads: int) -> None:
    """libc's, which writes around the caches where that is faster; ctypes lets the other threads run."""
    to, source = vectors.out.data_ptr(), vectors.a.data_ptr()

    def copy(part: slice) -> None:
        ctypes.memmove(to + part.start * 4, source + part.start * 4, (part.stop - part.start) * 4)

    list(pool.map(copy, shares(vectors, threads)))


def shares(vectors: Vectors, threads: int) -> list[slice]:
    size = vectors.elements // threads
    return [slice(i * size, (i + 1) * size) for i in range(threads)]


def add(vectors: Vectors, pool: ThreadPoolExecutor, threads: int) -> None:
    """a += b in torch, a share for each thread."""
    list(pool.map(lambda part: vectors.b[part].add_(vectors.c[part], alpha=1e-9), shares(vectors, threads)))


def codec_cases(v: Vectors, codec: Codec, t: int) -> list[Case]:
    """Every pass of one codec, each against memcpy."""
    enc, room, name, memory = v.encoded[codec.name], v.room[codec.name], codec.name, f"memcpy_{t}t"
    runs: dict[str, Callable[[], object]] = {
        "encode": partial(ops.encode, codec, v.a, room, t),
        "encode_delta": partial(ops.encode_delta, codec, v.a, v.b, room, None, t),
        "decode_add": partial(ops.decode_add, codec, enc, 1e-6, v.b, t),
    }
    if codec.feedback_decay is not None:
        runs["encode_feedback"] = partial(ops.encode_delta, codec, v.a, v.b, room, Feedback(v.c, 0.0, v.out), t)
    if codec.may_reencode:
        runs["ring_hop"] = partial(ops.ring_hop, codec, enc, enc, 0.3, None, room, t)
        runs["last_ring_hop"] = partial(ops.ring_hop, codec, enc, enc, 0.3, 1.3, room, t)
    return [Case(f"{run}_{name}_{t}t", call, v.elements, memory) for run, call in runs.items()]


def step_cases(v: Vectors, t: int) -> list[Case]:
    """The outer step over `a += b` on the same arrays, and with the digest over the sum of its parts."""
    state, update = OuterVectors(v.b, v.c), v.encoded["int8"]
    step = partial(ops.outer_step, INT8, update, STEP, state, t)
    digested = partial(ops.outer_step_leaves, INT8, update, STEP, state, t)

    def parts() -> None:
        step()
        hashes(v, t)

    return [
        Case(f"outer_step_int8_{t}t", step, v.elements, f"add_{t}t", times=True),
        Case(f"outer_step_digest_{t}t", digested, v.elements, f"memcpy_{t}t"),
        Case(f"step_then_digest_{t}t", parts, v.elements),
        Case(f"outer_step_digest_over_parts_{t}t", digested, v.elements, f"step_then_digest_{t}t", times=True),
    ]


def hashes(v: Vectors, threads: int) -> None:
    """One BLAKE3 pass over theta and momentum, by as many threads."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: state_leaves(v.b[part], v.c[part]), shares(v, threads)))


def fast_cases(v: Vectors, pool: ThreadPoolExecutor) -> list[Case]:
    cases: list[Case] = []
    for t in (1, 2):
        cases.append(Case(f"memcpy_{t}t", partial(memcpy, v, pool, t), v.elements))
        cases.append(Case(f"memcpy_libc_{t}t", partial(libc_memcpy, v, pool, t), v.elements, f"memcpy_{t}t"))
        cases.append(Case(f"add_{t}t", partial(add, v, pool, t), v.elements, f"memcpy_{t}t"))
        for codec in CODECS.values() if t == 1 else (INT8, FP32):
            cases += codec_cases(v, codec, t)
        cases += step_cases(v, t)
    return cases


def slow_cases(v: Vectors, notes: list[str]) -> list[Case]:
    """Our int8 against other ways to do it, on one thread; ratios are of times, ours over theirs."""
    plain = rivals.encode_plain(v.a)
    book = rivals.encode_codebook(v.a)
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "torch": (lambda: rivals.encode_plain(v.a), lambda: rivals.decode_add_plain(*plain, v.out)),
        "codebook": (lambda: rivals.encode_codebook(v.a), lambda: rivals.decode_add_codebook(*book, v.out)),
    }
    fast = rivals.compiled()
    if isinstance(fast, str):
        notes.append(fast)
    else:
        encode, decode_add = fast
        pairs["compile"] = (lambda: encode(v.a), lambda: decode_add(*plain, v.out))
    cases = []
    ours = {
        "encode": partial(ops.encode, INT8, v.a, v.room["int8"]),
        "decode_add": partial(ops.decode_add, INT8, v.encoded["int8"], 1e-6, v.b),
    }
    for rival, runs in pairs.items():
        for kernel, run in zip(ours, runs, strict=True):
            cases.append(Case(f"{rival}_{kernel}_int8_1t", run, v.elements))
            ratio = f"{kernel}_int8_over_{rival}_1t"
            cases.append(Case(ratio, ours[kernel], v.elements, f"{rival}_{kernel}_int8_1t", times=True))
    return cases


Seconds = dict[str, list[tuple[float, float | None]]]  # of a case, and of its rival just before


def measure(cases: list[Case], rounds: int) -> Seconds:
    """All cases in turn, round after round, each right after its rival; a round before them warms up."""
    by_name = {case.name: case for case in cases}
    found: Seconds = {case.name: [] for case in cases}
    for number in range(rounds + 1):
        for case in cases:
            theirs = timed(by_name[case.against]) if case.against else None
            mine = timed(case)
            if number:
                found[case.name].append((mine, theirs))
    return found


def timed(case: Case) -> float:
    began = time.perf_counter()
    case.run()
    return time.perf_counter() - began


def rows_of(cases: list[Case], seconds: Seconds) -> list[dict[str, Any]]:
    rows = []
    for case in cases:
        pairs = seconds[case.name]
        times = [mine / theirs for mine, theirs in pairs if theirs is not None]
        ratio = None
        if times:
            ratio = round(statistics.median(times) if case.times else 1 / statistics.median(times), 3)
        speed = round(4 * case.elements / statistics.median(mine for mine, _ in pairs) / 1e9, 2)
        rows.append({"name": case.name, "value": speed, "unit": "GB/s", "against": case.against, "ratio": ratio})
    return rows


def quality_rows() -> list[dict[str, Any]]:
    rows = []
    for codec, kind, error in errors():
        expected = EXPECTED.get(codec) if kind == "gaussian" else None
        against = "" if expected is None else f"{expected} computed apart"
        ratio = None if expected is None else round(error / expected, 3)
        name = f"error_{codec}_{kind}"
        rows.append(
            {"name": name, "value": round(error, 5), "unit": "relative RMS", "against": against, "ratio": ratio}
        )
    return rows


def run(rounds: int) -> tuple[list[dict[str, Any]], list[str]]:
    torch.set_num_threads(1)
    notes = [f"{platform.machine()}, {os.cpu_count()} CPUs, {ops.implementation()} {ops.instructions()}"]
    notes.append(f"load before: {os.getloadavg()[0]:.1f}; other work on these CPUs makes figures lower and ratios vary")
    with ThreadPoolExecutor(2) as pool:
        cases = fast_cases(Vectors(ELEMENTS), pool)
        rows = rows_of(cases, measure(cases, rounds))
    cases = slow_cases(Vectors(SLOW_ELEMENTS), notes)
    rows += rows_of(cases, measure(cases, max(3, rounds // 3)))
    gpu_rows, gpu_notes = kernels_gpu.run(rounds)
    return rows + gpu_rows + quality_rows(), notes + gpu_notes


def show(rows: list[dict[str, Any]], notes: list[str]) -> None:
    print(f"{'':40}{'value':>9}  {'unit':14}{'ratio':>7}  against")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        goal = next((f"   goal {text}" for name, text in GOALS.items() if row["name"] == f"{name}_1t"), "")
        print(f"{row['name']:40}{row['value']:9.4g}  {row['unit']:14}{ratio:>7}  {row['against']}{goal}")
    for note in notes:
        print(note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{ROUNDS_QUICK} rounds instead of {ROUNDS}")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows, notes = run(ROUNDS_QUICK if arguments.quick else ROUNDS)
    if arguments.json:
        print(json.dumps({"schema": 1, "results": rows, "notes": notes}))
    else:
        show(rows, notes)


if __name__ == "__main__":
    main()
