"""Cutting runs of segments out of a packet that the kernel left whole: every field as if it had been sent so."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wan import compiled
from tests.wan.library import VNET_BYTES, Run, Sizes, cut_packet, read_packet

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="no C compiler for the router")

NEEDS_CHECKSUM, GSO_NONE, GSO_TCPV4 = 1, 0, 1  # linux/virtio_net.h
FIN, PUSH, ACK, REDUCED = 1, 8, 16, 128
SEQUENCE, IDENTITY = 0xFFFF_F000, 0xFFF0  # both wrap
HEADER = 52


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packet(payload: bytes, segment: int, flags: int = ACK | PUSH | FIN | REDUCED) -> bytes:
    vnet = struct.pack("<BBHHHH", NEEDS_CHECKSUM, GSO_TCPV4, HEADER, segment, 20, 16)
    ip = struct.pack(
        "!BBHHHBBH4B4B", 0x45, 0, HEADER + len(payload), IDENTITY, 0, 64, 6, 0, 198, 18, 0, 1, 198, 18, 0, 2
    )
    ip = ip[:10] + struct.pack("!H", ~checksum(ip) & 0xFFFF) + ip[12:]
    tcp = struct.pack("!HHIIBBHHH12x", 4002, 5000, SEQUENCE, 99, 0x80, flags, 500, 0xBEEF, 0)
    return vnet + ip + tcp + payload


@given(data=st.data(), segment=st.integers(8, 1448), size=st.integers(1, 20_000))
def test_a_run_is_what_its_segments_would_have_been(data: st.DataObject, segment: int, size: int) -> None:
    payload = bytes(n * 31 & 0xFF for n in range(size))
    whole = packet(payload, segment)
    read = read_packet(whole)
    assert read is not None
    to, sizes = read
    assert (to, sizes.header, sizes.payload, sizes.segment) == (0xC612_0002, HEADER, size, segment)
    segments = -(-size // segment)
    first = data.draw(st.integers(0, segments - 1))
    count = data.draw(st.integers(1, segments - first))
    cut = cut_packet(whole, sizes, Run(first, count, 0.0, 0.0))
    if count == segments:
        assert cut == whole
        return
    ip, tcp = cut[VNET_BYTES : VNET_BYTES + 20], cut[VNET_BYTES + 20 : VNET_BYTES + HEADER]
    assert cut[VNET_BYTES + HEADER :] == payload[first * segment : (first + count) * segment]
    assert struct.unpack_from("!HH", ip, 2) == (len(cut) - VNET_BYTES, (IDENTITY + first) & 0xFFFF)
    assert checksum(ip) == 0xFFFF
    assert struct.unpack_from("!I", tcp, 4)[0] == (SEQUENCE + first * segment) & 0xFFFF_FFFF
    last = first + count == segments
    assert tcp[13] == ACK | (PUSH | FIN if last else 0) | (REDUCED if first == 0 else 0)
    pseudo = ip[12:20] + struct.pack("!HH", 6, len(cut) - VNET_BYTES - 20)
    assert struct.unpack_from("!H", tcp, 16)[0] == checksum(pseudo)
    told = struct.unpack_from("<BBHHHH", cut)
    assert told == (NEEDS_CHECKSUM, *((GSO_NONE, 0, 0) if count == 1 else (GSO_TCPV4, HEADER, segment)), 20, 16)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        packet(b"x", 8)[: VNET_BYTES + 19],
        packet(b"xyz", 0),  # to be cut in segments of nothing
        packet(b"", 8),
        bytes(VNET_BYTES) + b"\x60" + bytes(60),  # IPv6
        packet(b"x", 8).replace(b"\x40\x06", b"\x40\x11", 1),  # UDP that claims to be TCP
    ],
)
def test_what_is_no_such_packet_is_not_carried(broken: bytes) -> None:
    assert read_packet(broken) is None


def test_a_packet_that_is_one_segment_is_left_alone() -> None:
    plain = bytes(VNET_BYTES) + packet(b"hello", 8)[VNET_BYTES:]
    read = read_packet(plain)
    assert read is not None
    assert (read[1].header, read[1].payload, read[1].segment) == (0, len(plain) - VNET_BYTES, 0)
    assert cut_packet(plain, Sizes(0, len(plain) - VNET_BYTES, 0), Run(0, 1, 0.0, 0.0)) == plain
