"""Which implementation is used and why; what `ops` refuses before any kernel sees it."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from intellectd.kernels import native, ops, reference
from intellectd.kernels.agreement import first_difference
from intellectd.kernels.codec import FP32, GROUP, INT4, INT8, TOPK, Codec
from intellectd.kernels.digest import LEAF_BYTES, leaf_hashes, state_leaves
from intellectd.kernels.outer import AverageStep, DelayedNesterovStep, NesterovStep, OuterStep, OuterVectors
from intellectd.kernels.step_leaves import step_leaves
from tests.kernels.vectors import IMPLEMENTATIONS, bits, encoded, fingerprint, room, tame


def test_wishes() -> None:
    assert ops.choose({"INTELLECTD_KERNELS": "torch"}).name == "torch"
    assert ops.choose({"INTELLECTD_KERNELS": "torch"}).reason == "INTELLECTD_KERNELS=torch asks for it"
    with pytest.raises(ops.KernelChoiceError, match='use "native" or "torch"'):
        ops.choose({"INTELLECTD_KERNELS": "fast"})


def test_the_best_there_is_by_default() -> None:
    best = ops.choose({})
    assert (best.name == "native") == (best.reason == "")
    if len(IMPLEMENTATIONS) > 1:
        assert best.name == "native"


@pytest.mark.parametrize("default", [torch.bfloat16, torch.device("meta")], ids=str)
def test_what_a_program_has_made_torchs_default_changes_nothing(default: torch.dtype | torch.device) -> None:
    """The choice is made when a trainer's program first asks for the SDK, whatever it has set by then."""
    without = ops.choose({}).name
    try:
        if isinstance(default, torch.dtype):
            torch.set_default_dtype(default)
        else:
            torch.set_default_device(default)
        assert first_difference(reference, reference) is None
        assert ops.choose({}).name == without
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.skipif("baseline" not in IMPLEMENTATIONS and "neon" not in IMPLEMENTATIONS, reason="torch was asked for")
def test_the_instruction_set_can_be_forced() -> None:
    names = [name for name in IMPLEMENTATIONS if name != "torch"]
    assert ops.choose({}).instructions == names[-1]  # the best of them
    for name in names:
        choice = ops.choose({"INTELLECTD_KERNELS_CPU": name})
        assert (choice.name, choice.instructions) == ("native", name)
    with pytest.raises(ops.KernelChoiceError, match=f"no 'sse9' kernels, only {', '.join(names)}"):
        ops.choose({"INTELLECTD_KERNELS_CPU": "sse9"})


def test_a_library_that_does_not_load_means_torch_with_a_reason(tmp_path: Path) -> None:
    broken = tmp_path / "_native.so"
    broken.write_bytes(b"not a library")
    choice = ops.choose({}, lambda: str(broken))
    assert choice.name == "torch"
    assert "did not load" in choice.reason
    assert "reinstall" in choice.reason
    with pytest.raises(ops.KernelChoiceError, match="asks for native kernels, but the C kernels did not load"):
        ops.choose({"INTELLECTD_KERNELS": "native"}, lambda: str(broken))


def test_without_a_compiler_there_is_no_library_and_torch_is_used() -> None:
    def not_built() -> str:
        raise native.NativeUnavailable(f"the C kernels were not built; {native.REBUILD}")

    choice = ops.choose({}, not_built)
    assert (choice.name, choice.instructions) == ("torch", "")
    assert "not built" in choice.reason and "C compiler" in choice.reason


def test_a_library_of_another_kind_means_torch() -> None:
    """The interpreter's own libc has no such functions: what a renamed or foreign file would look like."""
    assert ops.choose({}, lambda: "libc.so.6").name == "torch"


def python(code: str, **environment: str) -> list[str]:
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
    )
    return finished.stdout.split("\n")


def test_the_environment_decides_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is loaded a second time, as another process would."""
    monkeypatch.setenv(ops.ENVIRONMENT, "torch")
    spec = importlib.util.spec_from_file_location("ops_of_another_process", ops.__file__)
    assert spec is not None and spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    assert (other.implementation(), other.reason()) == ("torch", "INTELLECTD_KERNELS=torch asks for it")
    out, same = room(INT8, 512), room(INT8, 512)
    ops.encode(INT8, tame(1, 512), out)
    other.encode(INT8, tame(1, 512), same)
    assert fingerprint(out) == fingerprint(same)


def test_planners_need_no_torch() -> None:
    imports = ", ".join(
        f"intellectd.kernels.{name}" for name in ("layout", "codec", "digest", "outer", "fragments", "shards")
    )
    assert python(f"import sys, {imports}; print('torch' in sys.modules)")[0] == "False"


def test_delta_stats() -> None:
    anchor, local, out = torch.full((512,), 3.0), torch.full((512,), 1.0), room(INT8, 512)
    assert ops.encode_delta(INT8, anchor, local, out) == ops.DeltaStats(math.sqrt(512 * 4.0), None)
    local[300] = math.inf
    stats = ops.encode_delta(INT8, anchor, local, out)
    assert math.isnan(stats.norm)
    assert stats.first_nonfinite == 300
    assert not ops.finite(INT8, out)


def test_an_update_that_is_not_finite_is_not_applied() -> None:
    update = room(FP32, 256)
    assert ops.encode(FP32, torch.full((256,), math.nan), update) == 0
    theta, momentum = tame(1, 256), tame(2, 256)
    with pytest.raises(ops.NotFinite, match="not applied"):
        ops.outer_step(FP32, update, NesterovStep(0.7, 0.9), OuterVectors(theta, momentum))
    assert (bits(theta), bits(momentum)) == (bits(tame(1, 256)), bits(tame(2, 256)))


LEAVES_AND_A_BIT = 2 * LEAF_BYTES // 4 + GROUP + 512


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("codec", [INT8, TOPK], ids=lambda codec: codec.name)
def test_a_step_with_its_leaves_is_the_step_and_the_leaves(codec: Codec, threads: int) -> None:
    update = encoded(codec, tame(1, LEAVES_AND_A_BIT))
    apart, fused = ((tame(2, LEAVES_AND_A_BIT), tame(3, LEAVES_AND_A_BIT)) for _ in range(2))
    ops.outer_step(codec, update, NesterovStep(0.7, 0.9), OuterVectors(*apart))
    best = list(IMPLEMENTATIONS.values())[-1]  # below ops, which thinks so few elements not worth threads
    leaves = step_leaves(best, codec, update, NesterovStep(0.7, 0.9), OuterVectors(*fused), threads)
    assert leaves == state_leaves(*apart) == state_leaves(*fused)
    only = ops.outer_step_leaves(codec, update, AverageStep(), OuterVectors(fused[0]), threads)
    assert only == leaf_hashes(fused[0])


def test_what_a_delayed_optimizer_has_gathered_has_leaves_too() -> None:
    update = encoded(INT8, tame(1, LEAVES_AND_A_BIT))
    vectors = OuterVectors(*(tame(n, LEAVES_AND_A_BIT) for n in (2, 3, 4)))
    leaves = ops.outer_step_leaves(INT8, update, DelayedNesterovStep(0.7, 0.9, 3, turn=False), vectors)
    assert vectors.momentum is not None and vectors.gathered is not None
    assert leaves == state_leaves(vectors.theta, vectors.momentum) + leaf_hashes(vectors.gathered)
    assert bits(vectors.gathered) != bits(tame(4, LEAVES_AND_A_BIT))


def test_threads_are_had_where_they_are_worth_it() -> None:
    assert 1 <= ops.usable_threads() <= 16


@pytest.mark.parametrize(
    ("step", "vectors", "complaint"),
    [
        (NesterovStep(math.inf, 0.9), OuterVectors(torch.zeros(256), torch.zeros(256)), "lr inf is not a finite fp32"),
        (NesterovStep(0.7, 1e39), OuterVectors(torch.zeros(256), torch.zeros(256)), "mu 1e.39 is not a finite fp32"),
        (NesterovStep(0.7, 0.9), OuterVectors(torch.zeros(256)), "NesterovStep needs a momentum vector"),
        (NesterovStep(0.7, 0.9), OuterVectors(torch.zeros(256), torch.zeros(512)), "momentum has 512 elements"),
        (DelayedNesterovStep(0.7, 0.9, 0, False), OuterVectors(*[torch.zeros(256)] * 3), "1 to 1024 updates, not 0"),
        (DelayedNesterovStep(0.7, 0.9, 2, False), OuterVectors(*[torch.zeros(256)] * 2), "vector of gathered updates"),
    ],
)
def test_steps_that_cannot_be(step: OuterStep, vectors: OuterVectors, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ops.outer_step(INT8, encoded(INT8, tame(1, 256)), step, vectors)


def test_feedback_and_rings_that_cannot_be() -> None:
    x, out = tame(1, 512), room(FP32, 512)
    with pytest.raises(ValueError, match="fp32 loses nothing that could be fed back"):
        ops.encode_delta(FP32, x, x, out, ops.Feedback(x, 1.0, x))
    with pytest.raises(ValueError, match="overlaps its source 4 bytes off"):
        error = torch.zeros(513)
        ops.encode_delta(INT8, x, x, room(INT8, 512), ops.Feedback(error[:512], 1.0, error[1:]))
    with pytest.raises(ValueError, match="int4 loses too much to be encoded anew"):
        ops.ring_hop(INT4, None, encoded(INT4, x), 1.0, None, room(INT4, 512))


@pytest.mark.parametrize(
    ("x", "out", "complaint"),
    [
        (torch.zeros(256), torch.zeros(259, dtype=torch.uint8), "out has 259 bytes, int8 of 256 elements is 260"),
        (torch.zeros(255), torch.zeros(260, dtype=torch.uint8), "multiple of 256 elements, not 255"),
        (torch.zeros(256, dtype=torch.float64), torch.zeros(260, dtype=torch.uint8), "x is torch.float64 on cpu"),
        (torch.zeros(512)[::2], torch.zeros(260, dtype=torch.uint8), "a contiguous torch.float32"),
        (torch.zeros(256), torch.zeros(260, dtype=torch.int8), "out is torch.int8 on cpu"),
        (torch.zeros(256, device="meta"), torch.zeros(260, dtype=torch.uint8), "x is torch.float32 on meta"),
        (
            torch.frombuffer(bytearray(1025), dtype=torch.uint8)[1:].numpy().view("<f4"),
            torch.zeros(260, dtype=torch.uint8),
            "x is not aligned to 4 bytes",
        ),
    ],
)
def test_tensors_the_kernels_cannot_take(x: torch.Tensor, out: torch.Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ops.encode(INT8, torch.as_tensor(x), out)


def test_vectors_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="local has 512 elements where 256"):
        ops.encode_delta(INT8, torch.zeros(256), torch.zeros(512), room(INT8, 256))


def test_out_shifted_over_its_source_is_refused() -> None:
    space = torch.zeros(INT8.encoded_bytes(2 * GROUP), dtype=torch.uint8)
    own, out = space[: INT8.group_bytes], space[4 : INT8.group_bytes + 4]
    with pytest.raises(ValueError, match="overlaps its source 4 bytes off"):
        ops.ring_hop(INT8, None, own, 1.0, None, out)
    assert ops.ring_hop(INT8, None, own, 1.0, None, space[INT8.group_bytes :])


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e39])
def test_weights_that_fp32_cannot_hold(weight: float) -> None:
    own = encoded(INT8, tame(1, 256))
    with pytest.raises(ValueError, match="not a finite fp32"):
        ops.ring_hop(INT8, None, own, weight, None, room(INT8, 256))
    with pytest.raises(ValueError, match="not a finite fp32"):
        ops.ring_hop(INT8, None, own, 1.0, weight, room(INT8, 256))


@pytest.mark.parametrize("divisor", [0.0, -1.0, 1e-50])
def test_divisors_are_above_zero(divisor: float) -> None:
    with pytest.raises(ValueError, match="not above 0 in fp32"):
        ops.ring_hop(INT8, None, encoded(INT8, tame(1, 256)), 1.0, divisor, room(INT8, 256))


@pytest.mark.filterwarnings("error")
def test_bytes_from_anywhere_without_a_copy() -> None:
    source = bytearray(b"abc")
    view = ops.as_bytes(memoryview(source)[1:])
    source[1] = 0x7A
    assert view.tolist() == [0x7A, 0x63]
    assert ops.as_bytes(b"").numel() == 0
