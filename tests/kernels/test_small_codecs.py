"""The bytes of bf16, int4, e3m0 and topk, against arithmetic written out here in numpy and plain Python."""

import math
import struct

import numpy as np
import pytest
import torch

from intellectd.kernels.codec import BF16, BLOCK, CHUNK, E3M0, GROUP, INT4, TOPK
from intellectd.kernels.interface import Kernels
from tests.kernels.vectors import EVERYWHERE, bits, room, tame, with_bits

SIZE = GROUP + 3 * BLOCK


def encode(kernels: Kernels, codec: object, x: torch.Tensor) -> bytes:
    out = room(codec, x.numel())  # type: ignore[arg-type]
    assert kernels.encode(codec, x, out) is None  # type: ignore[arg-type]
    return bits(out)


def decode(kernels: Kernels, codec: object, enc: bytes, elements: int) -> torch.Tensor:
    out = torch.empty(elements)
    kernels.decode(codec, torch.frombuffer(bytearray(enc), dtype=torch.uint8), out)  # type: ignore[arg-type]
    return out


def bf16(value: np.ndarray) -> np.ndarray:
    """fp32 rounded to bf16, as fp32: torch's own conversion."""
    return torch.from_numpy(np.ascontiguousarray(value)).bfloat16().float().numpy()


def test_sizes() -> None:
    per_element = {codec.name: codec.bytes_per_element * 8 for codec in (BF16, INT4, E3M0, TOPK)}
    assert per_element == {"bf16": 16, "int4": 4.25, "e3m0": 4.125, "topk": 116 * 8 / 4096}
    assert [TOPK.encoded_bytes(n) for n in (0, 256, CHUNK, CHUNK + 512)] == [0, 11, 116, 116 + 18]
    for blocks in range(70):
        assert TOPK.elements(TOPK.encoded_bytes(blocks * BLOCK)) == blocks * BLOCK
    for wrong in (-1, 1, 4, 10, 115, 117):
        with pytest.raises(ValueError, match="topk bytes come in 7 per block and 4 per 4096 elements"):
            TOPK.elements(wrong)


@EVERYWHERE
def test_bf16_is_the_upper_half_rounded(kernels: Kernels) -> None:
    x = with_bits(tame(1, SIZE), {0: 0x3F808000, 1: 0x3F818000, 2: 1, 3: 0x80000000, 4: 0x7F7F7FFF, 5: 0x00018001})
    assert encode(kernels, BF16, x) == x.bfloat16().view(torch.int16).numpy().tobytes()


@EVERYWHERE
def test_bf16_refuses_what_would_round_to_infinity(kernels: Kernels) -> None:
    x = with_bits(torch.zeros(256), {7: 0xFF7F8000})
    assert kernels.encode(BF16, x, room(BF16, 256)) == 7


@EVERYWHERE
def test_int4_bytes_are_scales_then_halves_in_nibbles(kernels: Kernels) -> None:
    x = tame(2, SIZE)
    expected = b""
    for group in (x[:GROUP].numpy(), x[GROUP:].numpy()):
        rows = group.reshape(-1, 64)
        scales = bf16(np.abs(rows).max(axis=1) / np.float32(7))
        codes = np.rint(rows * (np.float32(1) / scales)[:, None]).astype(np.int8).reshape(-1, 2, 128) & 15
        expected += (scales.view(np.uint32) >> 16).astype("<u2").tobytes()
        expected += (codes[:, 0] | codes[:, 1] << 4).astype(np.uint8).tobytes()
    assert encode(kernels, INT4, x) == expected


@EVERYWHERE
def test_int4_decodes_every_code(kernels: Kernels) -> None:
    """-8 comes only from a peer that does not keep to the rules."""
    scale = struct.pack("<H", 0x3F00)  # 0.5
    enc = scale * 4 + bytes(range(128))
    expected = [((i & 15) ^ 8) - 8 for i in range(128)] + [((i >> 4) ^ 8) - 8 for i in range(128)]
    assert decode(kernels, INT4, enc, 256).tolist() == [code * 0.5 for code in expected]


def nearest_e3m0(value: float, top: int) -> float:
    """Of 0 and ±2**(top - 6) to ±2**top the nearest, halves away from zero."""
    grid = [0.0, *(2.0**e for e in range(top - 6, top + 1))]
    best = min(grid, key=lambda g: (abs(abs(value) - g), -g))
    return math.copysign(best, value) if best else 0.0


@EVERYWHERE
def test_e3m0_takes_the_nearest_power_of_two(kernels: Kernels) -> None:
    x = tame(3, SIZE)
    x[:6] = torch.tensor([1.0, 0.75, -0.375, 2.0**-8, 2.0**-7 + 2.0**-20, -(2.0**-7)])  # ties among them
    back = decode(kernels, E3M0, encode(kernels, E3M0, x), SIZE)
    for row, got in zip(x.view(-1, 64).tolist(), back.view(-1, 64).tolist(), strict=True):
        top = math.frexp(max(map(abs, row)) * 4 / 3)[1] - 1
        assert got == [nearest_e3m0(value, top) for value in row]


@EVERYWHERE
def test_e3m0_bytes(kernels: Kernels) -> None:
    x = torch.zeros(256)
    x[0], x[1], x[128], x[129] = 1.0, -0.5, 2.0**-6, -(2.0**-9)
    enc = encode(kernels, E3M0, x)
    assert enc[:4] == bytes([127, 0, 121, 0])
    assert enc[4:7] == bytes([7 | 7 << 4, 8 | 6 | (8 | 4) << 4, 0])


@EVERYWHERE
def test_e3m0_scales_from_peers(kernels: Kernels) -> None:
    enc = bytes([7, 8, 254, 255]) + b"\x7f" * 128  # codes -7 (low) and 7 (high)... and -8, which is zero
    back = decode(kernels, E3M0, enc, 256)
    assert back[:64].tolist() == [0.0] * 64
    assert back[64:128].tolist() == [-(2.0 ** (8 - 127))] * 64
    assert back[128:192].tolist() == [2.0**127] * 64
    assert bool(back[192:].isnan().all())
    assert decode(kernels, E3M0, bytes([127] * 4) + b"\x88" * 128, 256).view(torch.int32).unique().tolist() == [0]


def topk_by_hand(x: np.ndarray) -> tuple[list[int], list[float]]:
    """Indexes and values that one chunk should send."""
    order = sorted(range(x.size), key=lambda i: (-abs(float(x[i])), i))[: x.size // 64]
    chosen = sorted(i for i in order if abs(x[i]) >= 2.0**-100)
    sizes = [abs(float(x[i])) for i in chosen]
    mean = math.fsum(sizes) / max(1, len(sizes))
    low, high = [s for s in sizes if s < mean], [s for s in sizes if s >= mean]
    levels = [bf16(np.array([math.fsum(part) / max(1, len(part))], dtype=np.float32))[0] for part in (low, high)]
    return chosen, [math.copysign(float(levels[abs(float(x[i])) >= mean]), x[i]) for i in chosen]


@EVERYWHERE
@pytest.mark.parametrize("elements", [CHUNK, CHUNK + 256, 256, SIZE])
def test_topk_sends_the_largest_of_each_chunk(kernels: Kernels, elements: int) -> None:
    x = tame(4, elements)
    back = decode(kernels, TOPK, encode(kernels, TOPK, x), elements)
    for start in range(0, elements, CHUNK):
        chosen, values = topk_by_hand(x[start : start + CHUNK].numpy())
        got = back[start : start + CHUNK]
        assert got.nonzero().view(-1).tolist() == chosen
        assert got[chosen].tolist() == values


@EVERYWHERE
def test_topk_takes_the_first_of_equals(kernels: Kernels) -> None:
    x = torch.full((CHUNK,), -1.0)
    x[4000] = 5.0
    back = decode(kernels, TOPK, encode(kernels, TOPK, x), CHUNK)
    assert back.nonzero().view(-1).tolist() == [*range(63), 4000]
    assert back[:63].tolist() == [-1.0] * 63 and back[4000] == 5.0


@EVERYWHERE
@pytest.mark.parametrize("values", [{}, {17: 2.0}, {17: 2.0, 300: -0.5, 511: 2.0}])
def test_topk_with_fewer_than_it_may_send(kernels: Kernels, values: dict[int, float]) -> None:
    x = torch.full((512,), 2.0**-101)
    for place, value in values.items():
        x[place] = value
    back = decode(kernels, TOPK, encode(kernels, TOPK, x), 512)
    assert {place: float(back[place]) for place in back.nonzero().view(-1).tolist()} == values


def chunk_bytes(low: int, high: int, indexes: list[int], codes: list[int]) -> bytes:
    pairs = zip(indexes[::2], indexes[1::2], strict=True)
    packed = b"".join(bytes([a & 255, a >> 8 | (b & 15) << 4, b >> 4]) for a, b in pairs)
    fours = (codes[at : at + 4] for at in range(0, len(codes), 4))
    return struct.pack("<HH", low, high) + packed + bytes(a | b << 2 | c << 4 | d << 6 for a, b, c, d in fours)


HALF, ONE = 0x3F00, 0x3F80


@EVERYWHERE
@pytest.mark.parametrize(
    ("low", "high", "indexes", "codes", "sound"),
    [
        (HALF, ONE, [1, 3, 255, 255], [0, 3, 2, 2], True),
        (HALF, ONE, [1, 3, 255, 255], [0, 3, 2, 1], False),  # one place, two values
        (HALF, ONE, [3, 1, 5, 7], [0, 0, 0, 0], False),  # falling
        (HALF, ONE, [1, 3, 5, 256], [0, 0, 0, 0], False),  # outside
        (HALF | 0x8000, ONE, [1, 3, 5, 7], [0, 0, 0, 0], False),  # a negative level
        (0x7F80, ONE, [1, 3, 5, 7], [2, 2, 2, 2], False),  # infinite, if unused
        (ONE, HALF, [0, 0, 0, 0], [0, 0, 0, 0], True),  # levels in the wrong order harm nobody
    ],
)
def test_topk_bytes_from_peers(
    kernels: Kernels, low: int, high: int, indexes: list[int], codes: list[int], sound: bool
) -> None:
    enc = chunk_bytes(low, high, indexes, codes)
    back = decode(kernels, TOPK, enc, 256)
    assert kernels.finite(TOPK, torch.frombuffer(bytearray(enc), dtype=torch.uint8)) is sound
    if not sound:
        assert bool(back.isnan().all())
        return
    sizes = {0: low, 1: high}
    expected = torch.zeros(256)
    for index, code in zip(indexes, codes, strict=True):
        size = struct.unpack("<f", struct.pack("<I", sizes[code >> 1] << 16))[0]
        expected[index] = -size if code & 1 else size
    assert torch.equal(back, expected)
