"""How fast the Triton kernels are, against the bandwidth of a copy on the same GPU, in the same run.

Part of `python tests/bench/kernels.py`, or alone: `python tests/bench/kernels_gpu.py [--quick] [--json]`. Bytes of a
pass are those that it must read and write; the copy's N bytes count as 2 N, read and written. Then the time until the
delta of a billion parameters lies encoded in the host's memory: encoded on the GPU, and by the host's kernels after
the parameters have crossed whole. Without a CUDA device it says that no figure exists.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from intellectd.daemon.sdk.encoder import DeviceEncoder
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.kernels import device as gpu
from intellectd.kernels import ops
from intellectd.kernels.codec import CODECS, INT8, Codec
from intellectd.kernels.interface import Feedback
from intellectd.kernels.outer import NesterovStep, OuterVectors

if TYPE_CHECKING:
    from intellectd.kernels.cuda.launch import Triton

# 2 GiB of fp32, half a millisecond of an H200's memory: the goal is for more than 256 MiB, and the few microseconds
# between a pass's end and the host's next word should not show.
ELEMENTS = 2**29
PARAMETERS = 10**9
ROUNDS, ROUNDS_QUICK = 20, 5
GOAL = 0.85
NO_FIGURES = "no GPU figure exists yet: there is no CUDA device here"
Row = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    name: str
    run: Callable[[], object]
    bytes: int  # read and written


class Vectors:
    """On the device; `out` and `room` are written to."""

    def __init__(self, elements: int, device: torch.device) -> None:
        self.elements, self.device = elements, device
        self.a, self.b, self.c, self.out = (torch.randn(elements, device=device) for _ in range(4))

    def encoded(self, kernels: "Triton", codec: Codec) -> tuple[Tensor, Tensor]:
        enc = torch.zeros(codec.encoded_bytes(self.elements), dtype=torch.uint8, device=self.device)
        kernels.encode(codec, self.a, enc)
        return enc, torch.zeros_like(enc)


def passes_of(v: Vectors, kernels: "Triton", codec: Codec) -> list[Pass]:
    enc, room = v.encoded(kernels, codec)
    n, e, name = 4 * v.elements, enc.numel(), codec.name
    found = [
        Pass(f"gpu_encode_{name}", partial(kernels.encode, codec, v.a, room), n + e),
        Pass(f"gpu_encode_delta_{name}", partial(kernels.encode_delta_groups, codec, v.a, v.b, room), 2 * n + e),
        Pass(f"gpu_decode_{name}", partial(kernels.decode, codec, enc, v.out), n + e),
        Pass(f"gpu_decode_add_{name}", partial(kernels.decode_add, codec, enc, 1e-6, v.out), 2 * n + e),
    ]
    if codec.feedback_decay is not None:
        feedback = Feedback(v.c, 0.5, v.out)
        run = partial(kernels.encode_delta_groups, codec, v.a, v.b, room, feedback)
        found.append(Pass(f"gpu_encode_feedback_{name}", run, 4 * n + e))
    if codec.may_reencode:
        run_hop = partial(kernels.ring_hop, codec, enc, enc, 1.0, None, room)
        found.append(Pass(f"gpu_ring_hop_{name}", run_hop, 3 * e))
    vectors = OuterVectors(v.out, v.c)
    run_step = partial(kernels.outer_step, codec, enc, NesterovStep(1e-6, 0.9), vectors)
    found.append(Pass(f"gpu_outer_step_{name}", run_step, 4 * n + e))
    return found


def seconds_of(run: Callable[[], object], ahead: Callable[[], object], device: torch.device) -> float:
    """By the device's own clock. While it does what is `ahead`, the host launches what is measured."""
    ahead()
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def pass_rows(device: torch.device, elements: int, rounds: int) -> list[Row]:
    """Each pass right after a copy, round after round; medians, and the median of each round's own ratio."""
    kernels, v = gpu.load(device), Vectors(elements, device)
    copy = Pass("gpu_copy", lambda: v.out.copy_(v.a), 8 * elements)
    copies: list[float] = []
    rows = []
    for codec in CODECS.values():
        for one in passes_of(v, kernels, codec):
            one.run()  # compiles
            timed = partial(seconds_of, ahead=copy.run, device=device)
            pairs = [(timed(copy.run), timed(one.run)) for _ in range(rounds)]
            copies += [theirs for theirs, _ in pairs]
            of_copy = statistics.median((one.bytes / mine) / (copy.bytes / theirs) for theirs, mine in pairs)
            speed = one.bytes / statistics.median(mine for _, mine in pairs) / 1e9
            rows.append(row(one.name, speed, "gpu_copy", of_copy))
    return [row("gpu_copy", copy.bytes / statistics.median(copies) / 1e9), *rows]


def row(name: str, value: float, against: str = "", ratio: float | None = None, unit: str = "GB/s moved") -> Row:
    rounded = None if ratio is None else round(ratio, 3)
    return {"name": name, "value": float(f"{value:.4g}"), "unit": unit, "against": against, "ratio": rounded}


class OneTensor(torch.nn.Module):
    def __init__(self, parameters: int, device: torch.device) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(parameters, device=device) * 0.02)


def crossing_rows(device: torch.device, parameters: int, rounds: int, codec: Codec = INT8) -> list[Row]:
    """Both ways end with the same bytes in the host's ordinary memory, as a trainer's arena is; and in pinned."""
    model = OneTensor(parameters, device)
    held = Parameters(model)
    elements = held.layout.elements
    anchor, arena = torch.zeros(elements), torch.zeros(elements)
    held.store(anchor)
    encoder = DeviceEncoder(held, device, gpu.load(device))
    encoder.load(anchor)
    with torch.no_grad():
        model.weight.mul_(1.001)
    size, threads = codec.encoded_bytes(elements), ops.usable_threads()
    ours, theirs = (torch.zeros(size, dtype=torch.uint8) for _ in range(2))

    def on_the_host() -> None:
        held.store(arena)
        ops.encode_delta(codec, anchor, arena, theirs, threads=threads)

    runs: dict[str, Callable[[], object]] = {
        "on_gpu": lambda: encoder.encode(codec.name, ours),
        "on_host": on_the_host,
    }
    if device.type == "cuda":
        pinned = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
        runs["on_gpu_pinned"] = lambda: encoder.encode(codec.name, pinned)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()  # both wait for their last byte
            run()
            if number:
                times[name].append(time.perf_counter() - began)
    if not torch.equal(ours, theirs):
        raise RuntimeError("what the GPU encoded differs from what the host encodes: nothing measured here counts")
    host = "delta_1b_encoded_on_host"
    return [
        row(
            f"delta_1b_encoded_{name}",
            statistics.median(mine),
            "" if name == "on_host" else host,
            None if name == "on_host" else ratio(mine, times["on_host"]),
            "s",
        )
        for name, mine in times.items()
    ]


def ratio(mine: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def run(rounds: int) -> tuple[list[Row], list[str]]:
    if not torch.cuda.is_available():
        return [], [NO_FIGURES]
    device = torch.device("cuda", torch.cuda.current_device())
    try:
        for codec in CODECS.values():
            gpu.trusted(device, codec)
    except gpu.DeviceUnavailable as why:
        return [], [f"no GPU figure: {why}"]
    notes = [f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}; the goal is {GOAL} of gpu_copy"]
    rows = pass_rows(device, ELEMENTS, rounds)
    return rows + crossing_rows(device, PARAMETERS, max(3, rounds // 4)), notes


def main() -> None:
    parser = argparse.ArgumentParser(description="The Triton kernels against a copy on the same GPU.")
    parser.add_argument("--quick", action="store_true", help=f"{ROUNDS_QUICK} rounds instead of {ROUNDS}")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows, notes = run(ROUNDS_QUICK if arguments.quick else ROUNDS)
    if arguments.json:
        print(json.dumps({"schema": 1, "results": rows, "notes": notes}))
        return
    for one in rows:
        ratio = "" if one["ratio"] is None else f"{one['ratio']:.2f}"
        print(f"{one['name']:40}{one['value']:9.4g}  {one['unit']:14}{ratio:>7}  {one['against']}")
    for note in notes:
        print(note)


if __name__ == "__main__":
    main()
