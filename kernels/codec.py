"""How a flat fp32 vector becomes bytes on the wire: sizes, positions, bounds and uses, not the arithmetic.

Owns the layouts and the numbers that define them; `reference` says what the arithmetic is, a file per codec.
Refuses to touch data, and does not import torch, so that planners and the protocol can use it.
"""

from dataclasses import dataclass

BLOCK = 256  # elements; where tensors start, and what fp32, bf16, int8, int4 and e3m0 encode at a time
GROUP = 64 * BLOCK  # elements; the granularity of slices. A 1 MiB leaf of fp32 is exactly 16 groups
BLOCKS_PER_GROUP = GROUP // BLOCK

# A magnitude (bits of |x| as an integer) from which an element is refused: NaN and infinity.
REFUSED_BITS_FP32 = 0x7F800000
# What would round up to bf16's infinity.
REFUSED_BITS_BF16 = 0x7F7F8000
# The quantizing codecs refuse from 2**127 up: what is decoded may be larger than what was encoded (127 times a
# rounded absmax/127, the next power of two), and must not be infinite.
REFUSED_BITS_QUANTIZED = 0x7F000000
# A unit whose largest magnitude is below 2**-100 is encoded as zeros: 127/absmax stays finite, scales are normal
# numbers, and a denormal element could not have reached code 1, so flush-to-zero cannot change a code. Top-k
# selects nothing below it.
ZERO_BITS = 0x0D800000
# What is refused is written as this one NaN: payloads differ between machines, this does not.
CANONICAL_NAN_BITS = 0x7FC00000
CANONICAL_NAN_BITS_BF16 = 0x7FC0
INFINITY_BITS_BF16 = 0x7F80
# Adding 1.5 * 2**23 leaves the value rounded half to even in the low bits of the float.
ROUNDING_MAGIC = 12582912.0

CODE_MAX = 127.0
# An int8 scale from which a block decodes to NaN, 2**121: below, even code -128 of a hostile peer stays finite.
REFUSED_BITS_SCALE = 0x7C000000

# int4 and e3m0: four scales a block. 64 is the block of Decoupled DiLoCo's int4 and costs 4.25 and 4.125 bits.
SMALL_BLOCK = 64
SMALL_BLOCKS = BLOCK // SMALL_BLOCK
INT4_CODE_MAX = 7.0
# An int4 scale (bf16 bits) from which a block decodes to NaN, 2**125: below, code -8 stays finite.
INT4_REFUSED_BITS_SCALE = 0x7E00
# e3m0's scale is the biased exponent of the largest value, one byte (OCP MX's E8M0): code e stands for
# 2**(scale - 127 - 7 + e). Below 8 the smallest would be no normal number; 255 is NaN.
E3M0_CODE_MAX = 7
E3M0_SCALE_MIN = 8
E3M0_SCALE_NAN = 255

# SparseLoCo's chunk, 64 x 64, and its density: 64 of 4,096 is 4 of each block, also in a short last chunk.
CHUNK = 4096
TOPK_PER_BLOCK = 4
TOPK_INDEX_BITS = 12
TOPK_LEVEL_BYTES = 4  # two bf16 magnitudes a chunk

# SparseLoCo keeps .95 of its error from round to round (arXiv 2508.15706); dense codecs lose nothing with 1.
SPARSE_DECAY = 0.95


@dataclass(frozen=True)
class Codec:
    """One layout of encoded bytes. Groups are independent: a run of whole ones is itself a valid vector.

    `error` bounds |x - dec(enc(x))| in units of the largest magnitude in x's unit (of x itself where the unit is
    1); what is below 2**-100 in the whole unit is lost besides. `may_reencode`: whether partial sums of a ring
    may travel in it, being encoded anew at each hop. `feedback_decay`: what part of the encoding error is added
    to the next delta where error feedback is used, None where there is no use in it; `needs_feedback`: whether the
    codec is of no use without it.
    """

    name: str
    native_id: int  # its number in csrc/codecs.h
    unit: int  # elements that share a scale
    block_bytes: int
    refused_bits: int
    error: float
    may_reencode: bool
    feedback_decay: float | None = 1.0
    needs_feedback: bool = False
    chunk_bytes: int = 0  # what a chunk of 16 blocks has besides its blocks' bytes; 0 for codecs without chunks

    @property
    def group_bytes(self) -> int:
        return self._bytes_of(BLOCKS_PER_GROUP)

    @property
    def bytes_per_element(self) -> float:
        return self.group_bytes / GROUP

    def encoded_bytes(self, elements: int) -> int:
        """Bytes of an encoded vector of `elements` (a multiple of 256). Raises ValueError."""
        if elements < 0 or elements % BLOCK:
            raise ValueError(f"a vector has a multiple of {BLOCK} elements, not {elements}")
        return self._bytes_of(elements // BLOCK)

    def elements(self, encoded_bytes: int) -> int:
        """Elements of an encoded vector of `encoded_bytes`. Raises ValueError."""
        chunks, rest = divmod(encoded_bytes, self._bytes_of(CHUNK // BLOCK))
        blocks = (rest - (self.chunk_bytes if rest else 0)) // self.block_bytes
        if encoded_bytes < 0 or blocks < 0 or self._bytes_of(blocks) != rest:
            apart = f" and {self.chunk_bytes} per {CHUNK} elements" if self.chunk_bytes else ""
            raise ValueError(
                f"{self.name} bytes come in {self.block_bytes} per block{apart}, {encoded_bytes} is no multiple"
            )
        return chunks * CHUNK + blocks * BLOCK

    def byte_range(self, first_element: int, last_element: int) -> tuple[int, int]:
        """Bytes [start, stop) of elements [first, last) of a longer encoded vector.

        Both are multiples of GROUP; `last` may also be the vector's end, which only the caller knows.
        """
        if not 0 <= first_element <= last_element:
            raise ValueError(f"elements {first_element} to {last_element} are no range")
        if first_element % GROUP and first_element != last_element:
            raise ValueError(f"a slice starts at a multiple of {GROUP} elements, not {first_element}")
        return self.encoded_bytes(first_element), self.encoded_bytes(last_element)

    def _bytes_of(self, blocks: int) -> int:
        return blocks * self.block_bytes + -(-blocks * BLOCK // CHUNK) * self.chunk_bytes


def _half_step(code_max: float, float_errors: float) -> float:
    """Half a code, in units of absmax, and what the rounding of scales and products adds."""
    return 0.5 / code_max * (1 + float_errors)


FP32 = Codec("fp32", 0, 1, 4 * BLOCK, REFUSED_BITS_FP32, error=0.0, may_reencode=True, feedback_decay=None)
INT8 = Codec(
    "int8", 1, BLOCK, 4 + BLOCK, REFUSED_BITS_QUANTIZED, error=_half_step(CODE_MAX, 2.0**-12), may_reencode=True
)
BF16 = Codec("bf16", 2, 1, 2 * BLOCK, REFUSED_BITS_BF16, error=2.0**-8, may_reencode=True)
INT4 = Codec(
    "int4",
    3,
    SMALL_BLOCK,
    2 * SMALL_BLOCKS + BLOCK // 2,
    REFUSED_BITS_QUANTIZED,
    error=_half_step(INT4_CODE_MAX, 2.0**-7),  # its scale is rounded to bf16
    may_reencode=False,
)
E3M0 = Codec(
    "e3m0",
    4,
    SMALL_BLOCK,
    SMALL_BLOCKS + BLOCK // 2,
    REFUSED_BITS_QUANTIZED,
    error=1 / 3,  # 1.5 * 2**k becomes 2 * 2**k
    may_reencode=False,
)
TOPK = Codec(
    "topk",
    5,
    CHUNK,
    TOPK_PER_BLOCK * (TOPK_INDEX_BITS + 2) // 8,
    REFUSED_BITS_QUANTIZED,
    error=1.0,  # what is not selected is lost: not to be used without error feedback
    may_reencode=False,
    feedback_decay=SPARSE_DECAY,
    needs_feedback=True,
    chunk_bytes=TOPK_LEVEL_BYTES,
)
CODECS = {codec.name: codec for codec in (FP32, INT8, BF16, INT4, E3M0, TOPK)}


def codec_by_name(name: str) -> Codec:
    codec = CODECS.get(name)
    if codec is None:
        raise ValueError(f"unknown codec {name!r}; known: {', '.join(sorted(CODECS))}")
    return codec


def update_codec(codec: Codec) -> Codec:
    """In which the mean of deltas in `codec` is encoded for everybody: the same one, or int8 where that loses too much.

    A mean of 4-bit deltas in 4 bits again would have half their error once more, in all peers' steps alike, where no
    error feedback makes it good; and top-k keeps 1 of 64 elements, of a mean of eight peers' deltas at most one in
    eight of those it has. int8 adds .007 (kernels/README.md) and can be audited: nobody has to remember anything.
    """
    return codec if codec.may_reencode else INT8


def ring_codec(name: str) -> Codec:
    """A codec in which partial sums may travel around a ring. Raises ValueError naming those there are."""
    codec = codec_by_name(name)
    if not codec.may_reencode:
        rings = ", ".join(sorted(other.name for other in CODECS.values() if other.may_reencode))
        raise ValueError(f"{name} loses too much to be encoded anew at each hop of a ring; known: {rings}")
    return codec
