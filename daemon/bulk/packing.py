"""A block of fp32 made smaller for a slow link: the four bytes of each number lie in planes, and zstd takes those that
become smaller. Of parameters and momentum that is the highest byte, sign and exponent, to two fifths; the others are
noise. Lossless.

Owns a block's form and the bounds of unpacking: a peer's bytes cost no more memory than the block that was asked for.
Refuses to judge whether a block is right: its leaf's hash says that, after unpacking.

block: plain u32 | wire u32 (big-endian); wire == plain: the bytes as they are; else: four plane lengths, u32, and the
planes, lowest byte first, each as it is (of a quarter's length) or a zstd frame (shorter).
"""

import struct

import numpy as np
import zstandard

from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.limits import PACK_BLOCK_MAX, PACK_WORTH

ELEMENT_BYTES = 4
SAMPLE_BYTES = 8 * 1024  # of a plane, looked at first: noise is not worth the time
LEVEL = 1  # measured: 3 is no smaller, and slower
BLOCK = struct.Struct(">II")
_PLANES = struct.Struct(">4I")


def pack(part: memoryview) -> bytes:
    """At most PACK_BLOCK_MAX bytes as a block, as they are where packing does not pay."""
    planes = _packed_planes(part)
    size = _PLANES.size + sum(map(len, planes))
    if not planes or size > PACK_WORTH * len(part):
        return BLOCK.pack(len(part), len(part)) + part
    return b"".join((BLOCK.pack(len(part), size), _PLANES.pack(*map(len, planes)), *planes))


def block_of(head: bytes, left: int) -> tuple[int, int]:
    """(plain bytes, bytes on the wire) where at most `left` plain bytes are to come. Raises WireError."""
    plain, wire = BLOCK.unpack(head)
    if not 0 < plain <= min(left, PACK_BLOCK_MAX) or not 0 < wire <= plain:
        raise WireError(f"a block of {wire} bytes for {plain}, {left} are left of what was asked for")
    return plain, wire


def unpack(block: memoryview, plain: int) -> bytes:
    """`plain` bytes. Raises WireError."""
    if len(block) == plain:
        return bytes(block)
    quarter = plain // ELEMENT_BYTES
    if plain % ELEMENT_BYTES or len(block) < _PLANES.size:
        raise WireError(f"a packed block of {len(block)} bytes for {plain}")
    lengths = _PLANES.unpack(block[: _PLANES.size])
    if sum(lengths) != len(block) - _PLANES.size or max(lengths) > quarter:
        raise WireError(f"planes of {lengths} bytes in a block of {len(block)} for {plain}")
    out = np.empty((quarter, ELEMENT_BYTES), np.uint8)
    at = _PLANES.size
    for number, length in enumerate(lengths):
        plane = block[at : at + length]
        out[:, number] = np.frombuffer(plane if length == quarter else _unpacked(plane, quarter), np.uint8)
        at += length
    return out.tobytes()


def _packed_planes(part: memoryview) -> list[bytes]:
    """Lowest byte first, each as it is or smaller; none where that cannot be."""
    if len(part) % ELEMENT_BYTES:
        return []
    rows = np.frombuffer(part, np.uint8).reshape(-1, ELEMENT_BYTES)
    compressor, planes = zstandard.ZstdCompressor(level=LEVEL), list[bytes]()
    for number in range(ELEMENT_BYTES):
        plane = rows[:, number].tobytes()
        sample = plane[:SAMPLE_BYTES]
        small = compressor.compress(plane) if len(compressor.compress(sample)) < PACK_WORTH * len(sample) else plane
        planes.append(small if len(small) < len(plane) else plane)
    return planes


def _unpacked(frame: memoryview, count: int) -> bytes:
    """What the frame claims is looked at before anything is allocated for it."""
    try:
        claimed = zstandard.get_frame_parameters(frame)
        if claimed.content_size != count or claimed.window_size > PACK_BLOCK_MAX or claimed.dict_id:
            raise WireError(f"a plane that claims {claimed.content_size} bytes, not {count}")
        data: bytes = zstandard.ZstdDecompressor().decompress(frame, max_output_size=count, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"a plane that cannot be unpacked: {error}"[:200]) from None
    if len(data) != count:
        raise WireError(f"a plane of {len(data)} bytes, not {count}")
    return data
