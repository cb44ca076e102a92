"""What every codec makes of NaN, infinity, denormals, empty blocks, outliers, short last blocks and any bytes."""

import pytest
import torch

from intellectd.kernels.codec import BF16, BLOCK, CHUNK, CODECS, E3M0, FP32, GROUP, INT4, INT8, TOPK, Codec
from intellectd.kernels.interface import Feedback, Kernels
from tests.kernels.vectors import EVERYWHERE, bits, encoded, raw_bytes, room, spoilt, tame, with_bits

ALL_CODECS = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
QUANTIZED = pytest.mark.parametrize("codec", [INT8, INT4, E3M0, TOPK], ids=lambda codec: codec.name)
# What else is lost with an element that is refused.
UNITS = {FP32: 1, BF16: 1, INT8: BLOCK, INT4: 64, E3M0: 64, TOPK: CHUNK}


def there_and_back(kernels: Kernels, codec: Codec, x: torch.Tensor) -> torch.Tensor:
    out, back = room(codec, x.numel()), torch.empty(x.numel())
    assert kernels.encode(codec, x, out) is None
    assert kernels.finite(codec, out)
    kernels.decode(codec, out, back)
    return back


@EVERYWHERE
@ALL_CODECS
@pytest.mark.parametrize("value", [0xFF800000, 0x7F800001], ids=["infinity", "nan"])
def test_nonfinite_is_refused_by_index_and_marked(kernels: Kernels, codec: Codec, value: int) -> None:
    out, back = room(codec, GROUP + 512), torch.empty(GROUP + 512)
    x = with_bits(tame(3, GROUP + 512), {GROUP + 300: value, GROUP + 301: 0x7FC00001})
    assert kernels.encode(codec, x, out) == GROUP + 300
    assert not kernels.finite(codec, out)
    kernels.decode(codec, out, back)
    unit = UNITS[codec]
    start, last = GROUP + 300 // unit * unit, GROUP + 301 // unit * unit + unit
    assert back.isnan().nonzero().view(-1).tolist() == list(range(start, min(last, GROUP + 512)))
    assert back[back.isnan()].view(torch.int32).unique().tolist() == [0x7FC00000]


@EVERYWHERE
@ALL_CODECS
def test_a_residual_of_what_was_refused_is_nan(kernels: Kernels, codec: Codec) -> None:
    if codec.feedback_decay is None:
        return
    x = with_bits(tame(3, GROUP + 512), {5: 0x7F800000})
    residual, out = torch.empty(GROUP + 512), room(codec, GROUP + 512)
    feedback = Feedback(tame(4, GROUP + 512), 1.0, residual)
    _, refused = kernels.encode_delta(codec, x, torch.zeros(GROUP + 512), out, feedback)
    assert refused == 5
    unit = max(UNITS[codec], BLOCK)
    assert residual[:unit].view(torch.int32).unique().tolist() == [0x7FC00000]
    assert bool(residual[unit:].isfinite().all())


@EVERYWHERE
@QUANTIZED
def test_what_would_decode_to_infinity_is_refused(kernels: Kernels, codec: Codec) -> None:
    x = with_bits(torch.zeros(512), {400: 0xFF000000})  # -2**127
    assert kernels.encode(codec, x, room(codec, 512)) == 400
    assert kernels.encode(FP32, x, room(FP32, 512)) is None
    assert kernels.encode(BF16, x, room(BF16, 512)) is None


@EVERYWHERE
@QUANTIZED
def test_blocks_below_2_to_minus_100_are_zeros(kernels: Kernels, codec: Codec) -> None:
    for largest in (0, 1, 0x007FFFFF, 0x0D7FFFFF):
        out = room(codec, BLOCK)
        assert kernels.encode(codec, with_bits(torch.zeros(BLOCK), {7: largest}), out) is None
        assert bits(out) == bytes(out.numel()), hex(largest)


@EVERYWHERE
@pytest.mark.parametrize("codec", [FP32, BF16], ids=lambda codec: codec.name)
def test_denormals_are_kept(kernels: Kernels, codec: Codec) -> None:
    x = with_bits(torch.zeros(BLOCK), {0: 0x00010000, 1: 0x807F0000, 2: 0x80000000})
    assert bits(there_and_back(kernels, codec, x)) == bits(x)


@EVERYWHERE
@ALL_CODECS
def test_smallest_and_largest_blocks_come_back(kernels: Kernels, codec: Codec) -> None:
    error = 2.0**-8 if codec is TOPK else max(codec.error, 2.0**-23)  # top-k sends both: only bf16 rounds them
    for largest in (0x0D800000, 0x0D800001, 0x3F7FFFFF, 0x3FBFFFFF, 0x7EFFFFFF):
        x = with_bits(torch.zeros(BLOCK), {0: largest, 1: largest | 0x80000000})
        back, x = there_and_back(kernels, codec, x).double(), x.double()
        assert bool(((back - x).abs() <= x.abs() * error).all()), hex(largest)


@EVERYWHERE
@ALL_CODECS
@pytest.mark.parametrize("elements", [256, GROUP + 768])
def test_the_error_stays_within_what_the_codec_declares(kernels: Kernels, codec: Codec, elements: int) -> None:
    """Cubes of uniform numbers, one huge outlier: it costs its own unit's neighbours, nobody else."""
    for exponent in (-126, -90, 0, 126):
        x = tame(7, elements, exponent)
        x[elements - 100] *= 500 if exponent < 100 else 1
        unit = UNITS[codec]
        wide = torch.nn.functional.pad(x, (0, -elements % unit)).view(-1, unit).abs().amax(dim=1, keepdim=True)
        bound = (wide.double() * codec.error + 2.0**-100).expand(-1, unit).reshape(-1)[:elements]
        assert bool(((there_and_back(kernels, codec, x).double() - x.double()).abs() <= bound).all()), exponent


@EVERYWHERE
@ALL_CODECS
def test_padding_stays_zero(kernels: Kernels, codec: Codec) -> None:
    """The rest of a block after a tensor's last element is zero in every vector, and has to stay so."""
    x = tame(8, GROUP + 512)
    x[GROUP + 300 :] = 0.0
    assert there_and_back(kernels, codec, x)[GROUP + 300 :].view(torch.int32).unique().tolist() == [0]


@EVERYWHERE
@ALL_CODECS
def test_any_bytes_decode_and_finite_tells(kernels: Kernels, codec: Codec) -> None:
    for seed in range(10):
        noise = torch.frombuffer(raw_bytes(seed, codec.encoded_bytes(BLOCK * 3)), dtype=torch.uint8)
        for enc in (noise, spoilt(encoded(codec, tame(seed, 4 * GROUP)), seed)):
            out = torch.empty(codec.elements(enc.numel()))
            kernels.decode(codec, enc, out)
            assert kernels.finite(codec, enc) == bool(out.isfinite().all())


@EVERYWHERE
@ALL_CODECS
def test_nothing_is_a_vector(kernels: Kernels, codec: Codec) -> None:
    nothing, none = torch.empty(0), torch.empty(0, dtype=torch.uint8)
    assert kernels.encode(codec, nothing, none) is None
    assert kernels.encode_delta(codec, nothing, nothing, none) == (0.0, None)
    assert kernels.finite(codec, none)
