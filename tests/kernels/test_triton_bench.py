"""The bench of the Triton kernels runs as it is, in the small: so that the first host with a GPU has it."""

import pytest

from intellectd.kernels.codec import CODECS
from tests.bench import kernels_gpu
from tests.kernels.triton_kernels import DEVICE

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy


def test_every_pass_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    names = [row["name"] for row in kernels_gpu.pass_rows(DEVICE, 512, 1)]
    for codec in CODECS:
        for kind in ("encode", "encode_delta", "decode", "decode_add", "outer_step"):
            assert f"gpu_{kind}_{codec}" in names
    assert names[0] == "gpu_copy" and len(names) == len(set(names))


def test_both_ways_to_the_host_end_with_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    rows = {row["name"]: row for row in kernels_gpu.crossing_rows(DEVICE, 20_000, 1)}
    assert rows["delta_1b_encoded_on_gpu"]["against"] == "delta_1b_encoded_on_host"
    assert rows["delta_1b_encoded_on_host"]["ratio"] is None


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a CUDA device is here: there are figures")
def test_without_a_device_no_figure_is_made_up() -> None:
    assert kernels_gpu.run(1) == ([], [kernels_gpu.NO_FIGURES])
