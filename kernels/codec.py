"""How a flat fp32 vector becomes bytes on the wire: sizes and positions, not the arithmetic.

Owns the two layouts and the bounds of what they can hold; `reference` says what the arithmetic is. Refuses to
touch data, and does not import torch, so that planners and the protocol can use it.
"""

from dataclasses import dataclass

BLOCK = 256  # elements per scale: .7% relative error on Gaussian data, 1.6% of the bytes for scales
GROUP = 64 * BLOCK  # elements; the granularity of slices. A 1 MiB leaf of fp32 is exactly 16 groups
BLOCKS_PER_GROUP = GROUP // BLOCK
SCALE_BYTES = 4

# A magnitude (bits of |x| as an integer) from which an element is refused: NaN and infinity.
REFUSED_BITS_FP32 = 0x7F800000
# int8 refuses from 2**127 up: absmax/127 rounds, and 127 times it could overflow to infinity when decoded.
REFUSED_BITS_INT8 = 0x7F000000
# A scale from which a block decodes to NaN, 2**121: below, even code -128 of a hostile peer stays finite.
REFUSED_BITS_SCALE = 0x7C000000
# A block whose largest magnitude is below 2**-100 is encoded as zeros: 127/absmax stays finite, the scale a
# normal number, and a denormal element could not have reached code 1, so flush-to-zero cannot change a code.
ZERO_BLOCK_BITS = 0x0D800000
# What is refused is written as this one NaN: payloads differ between machines, this does not.
CANONICAL_NAN_BITS = 0x7FC00000
# Adding 1.5 * 2**23 leaves the value rounded half to even in the low bits of the float.
ROUNDING_MAGIC = 12582912.0
CODE_MAX = 127.0


@dataclass(frozen=True)
class Codec:
    """One layout of encoded bytes. Groups are independent: a run of whole ones is itself a valid vector."""

    name: str
    native_id: int  # its number in csrc/native.c
    block_bytes: int
    refused_bits: int

    @property
    def group_bytes(self) -> int:
        return self.block_bytes * BLOCKS_PER_GROUP

    def encoded_bytes(self, elements: int) -> int:
        """Bytes of an encoded vector of `elements` (a multiple of 256)."""
        if elements < 0 or elements % BLOCK:
            raise ValueError(f"a vector has a multiple of {BLOCK} elements, not {elements}")
        return elements // BLOCK * self.block_bytes

    def elements(self, encoded_bytes: int) -> int:
        """Elements of an encoded vector of `encoded_bytes`."""
        if encoded_bytes < 0 or encoded_bytes % self.block_bytes:
            raise ValueError(f"{self.name} bytes come in {self.block_bytes} per block, {encoded_bytes} is no multiple")
        return encoded_bytes // self.block_bytes * BLOCK

    def byte_range(self, first_element: int, last_element: int) -> tuple[int, int]:
        """Bytes [start, stop) of elements [first, last) of a longer encoded vector.

        Both are multiples of GROUP; `last` may also be the vector's end, which only the caller knows.
        """
        if not 0 <= first_element <= last_element:
            raise ValueError(f"elements {first_element} to {last_element} are no range")
        if first_element % GROUP and first_element != last_element:
            raise ValueError(f"a slice starts at a multiple of {GROUP} elements, not {first_element}")
        return self.encoded_bytes(first_element), self.encoded_bytes(last_element)


FP32 = Codec("fp32", native_id=0, block_bytes=4 * BLOCK, refused_bits=REFUSED_BITS_FP32)
INT8 = Codec("int8", native_id=1, block_bytes=SCALE_BYTES + BLOCK, refused_bits=REFUSED_BITS_INT8)
CODECS = {codec.name: codec for codec in (FP32, INT8)}


def codec_by_name(name: str) -> Codec:
    codec = CODECS.get(name)
    if codec is None:
        raise ValueError(f"unknown codec {name!r}; known: {', '.join(sorted(CODECS))}")
    return codec
