"""The bytes of int8 and fp32, against arithmetic written out here; sizes and slices."""

import struct

import numpy as np
import pytest
import torch

from intellectd.kernels.codec import (
    BLOCK,
    CODECS,
    FP32,
    GROUP,
    INT8,
    Codec,
    codec_by_name,
)
from intellectd.kernels.interface import Kernels
from tests.kernels.vectors import EVERYWHERE, bits, decoded, encoded, room, tame, with_bits

ALL_CODECS = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def test_known_names() -> None:
    assert (codec_by_name("int8"), codec_by_name("fp32")) == (INT8, FP32)
    with pytest.raises(ValueError, match="unknown codec 'int5'; known: bf16, e3m0, fp32, int4, int8, topk"):
        codec_by_name("int5")


def test_sizes_and_slices() -> None:
    assert (INT8.group_bytes, FP32.group_bytes) == (64 * 4 + 64 * 256, 64 * 1024)
    assert INT8.encoded_bytes(GROUP + 2 * BLOCK) == INT8.group_bytes + 2 * 260
    assert INT8.byte_range(GROUP, 3 * GROUP) == (INT8.group_bytes, 3 * INT8.group_bytes)
    assert INT8.byte_range(GROUP, GROUP + 512) == (INT8.group_bytes, INT8.group_bytes + 520)
    assert FP32.byte_range(512, 512) == (2048, 2048)  # nothing, at the end of a vector of 512
    assert INT8.elements(INT8.encoded_bytes(768)) == 768


@pytest.mark.parametrize(("first", "last"), [(256, 512), (-GROUP, 0), (GROUP, 0), (0, 100)])
def test_no_slices_inside_a_group(first: int, last: int) -> None:
    with pytest.raises(ValueError, match=r"multiple of|no range"):
        INT8.byte_range(first, last)


def test_no_partial_blocks() -> None:
    for wrong in (-256, 1, 255):
        with pytest.raises(ValueError, match="multiple of 256"):
            INT8.encoded_bytes(wrong)
    for wrong in (-260, 261, 259):
        with pytest.raises(ValueError, match="260 per block"):
            INT8.elements(wrong)


@EVERYWHERE
def test_int8_bytes_are_scales_then_codes_per_group(kernels: Kernels) -> None:
    x = tame(1, GROUP + 3 * BLOCK).numpy()
    expected = b""
    for group in (x[:GROUP], x[GROUP:]):
        blocks = group.reshape(-1, BLOCK)
        absmax = np.abs(blocks).max(axis=1, keepdims=True)
        codes = np.rint(blocks * (np.float32(127) / absmax))  # rint rounds half to even
        expected += (absmax / np.float32(127)).astype("<f4").tobytes() + codes.astype(np.int8).tobytes()
    out = room(INT8, x.size)
    assert kernels.encode(INT8, torch.from_numpy(x), out) is None
    assert bits(out) == expected


@EVERYWHERE
def test_halves_round_to_even(kernels: Kernels) -> None:
    x = torch.zeros(BLOCK)
    x[:6] = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -3.5])
    out = room(INT8, BLOCK)
    kernels.encode(INT8, x, out)
    assert struct.unpack("<f6b", bits(out)[:10]) == (1.0, 127, 0, 2, 2, 0, -4)


@EVERYWHERE
def test_fp32_bytes_are_the_floats(kernels: Kernels) -> None:
    x = with_bits(tame(2, 512), {3: 1, 4: 0x80000000, 5: 0xFF7FFFFF})  # denormal, -0, the lowest
    out = room(FP32, 512)
    assert kernels.encode(FP32, x, out) is None
    assert bits(out) == bits(x)


@EVERYWHERE
@ALL_CODECS
def test_a_delta_is_the_difference_with_its_norm(kernels: Kernels, codec: Codec) -> None:
    anchor, local = tame(4, GROUP + 256), tame(5, GROUP + 256)
    out = room(codec, GROUP + 256)
    squares, refused = kernels.encode_delta(codec, anchor, local, out)
    assert refused is None
    assert bits(out) == bits(encoded(codec, anchor - local))
    assert squares == pytest.approx(float((anchor - local).double().square().sum()), rel=1e-14)


@EVERYWHERE
@pytest.mark.parametrize(("scale", "sound"), [(0x7BFFFFFF, True), (0xFBFFFFFF, True), (0x7C000000, False)])
def test_the_worst_code_with_the_largest_scale(kernels: Kernels, scale: int, sound: bool) -> None:
    enc = torch.frombuffer(bytearray(struct.pack("<I", scale) + b"\x80" * 256), dtype=torch.uint8)
    out = torch.empty(BLOCK)
    kernels.decode(INT8, enc, out)
    assert kernels.finite(INT8, enc) is sound
    assert bool(out.isfinite().all()) is sound


@EVERYWHERE
@ALL_CODECS
def test_buffers_at_odd_addresses(kernels: Kernels, codec: Codec) -> None:
    x = tame(6, GROUP + 256)
    space = torch.zeros(codec.encoded_bytes(x.numel()) + 1, dtype=torch.uint8)
    kernels.encode(codec, x, space[1:])
    assert bits(space[1:]) == bits(encoded(codec, x))
    back = torch.empty(x.numel())
    kernels.decode(codec, space[1:], back)
    assert bits(back) == bits(decoded(codec, encoded(codec, x)))
