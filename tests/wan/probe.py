"""Round trips as the hosts' kernels answer them: ICMP echo, so that no process of the other end is in the way.

Owns the echo's format (RFC 792). Refuses to know the network.
"""

import select
import socket
import struct
import time

from tests.wan.network import Wan

ECHO, ECHO_REPLY = 8, 0
SO_TIMESTAMPNS_NEW = 64  # asm-generic/socket.h: two 64 bit numbers
ANSWER_S = 5.0  # no path of a test is as long


def arrival(ancillary: list[tuple[int, int, bytes]]) -> float:
    """When the kernel got a packet, of a socket with SO_TIMESTAMPNS_NEW: seconds of time.time()."""
    seconds, nanoseconds = memoryview(ancillary[0][2]).cast("q")
    return float(seconds) + 1e-9 * nanoseconds


def round_trips(wan: Wan, start: str, end: str, count: int, interval_s: float = 0.01) -> list[float]:
    """Seconds, of those that were answered; one is sent every `interval_s`, whether answered or not.

    An answer counts from when the kernel had it, not from when this process got to read it.
    """
    sent: dict[int, float] = {}
    trips = []
    with wan.open_socket(start, socket.SOCK_RAW, socket.IPPROTO_ICMP) as echo:
        echo.connect((wan.address(end), 0))
        echo.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
        began = time.time()
        while True:
            now = time.time()
            if len(sent) < count and now >= began + len(sent) * interval_s:
                number = len(sent)
                sent[number] = time.time()
                echo.send(_request(number))
                continue
            until = began + len(sent) * interval_s if len(sent) < count else sent[count - 1] + ANSWER_S
            readable, _, _ = select.select([echo], [], [], max(0.0, until - now))
            if readable:
                packet, ancillary, _, _ = echo.recvmsg(2048, 256)
                number = _reply(packet)
                if number is not None:
                    trips.append(arrival(ancillary) - sent[number])
            if len(trips) == count or (len(sent) == count and not readable):
                return trips


def _request(number: int) -> bytes:
    head = struct.pack("!BBHHH", ECHO, 0, 0, 0x77, number)
    total = sum(struct.unpack("!4H", head))
    return struct.pack("!BBHHH", ECHO, 0, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF, 0x77, number)


def _reply(packet: bytes) -> int | None:
    kind, _, _, ours, number = struct.unpack_from("!BBHHH", packet, 4 * (packet[0] & 15))
    return number if kind == ECHO_REPLY and ours == 0x77 else None
