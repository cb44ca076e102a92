"""What the kernel knows of one TCP connection: how busy it was, what held it back, how far away the peer is.

Owns the layout of struct tcp_info (Linux include/uapi/linux/tcp.h), which grows at its end only. Refuses to decide
anything: that is `streams`.
"""

import socket
import struct
from dataclasses import dataclass

# Offsets: 8 bytes of bit fields, 24 u32, then what newer kernels added. busy_time and the like came with 4.10, the
# retransmitted bytes with 4.19.
_INFO_BYTES = 216
_BYTES_ACKED = struct.Struct("=Q"), 120
_MIN_RTT = struct.Struct("=I"), 148
_LIMITS = struct.Struct("=QQQ"), 168  # busy_time, rwnd_limited, sndbuf_limited, in microseconds
_SENT = struct.Struct("=QQ"), 200  # bytes_sent, bytes_retrans
_CONGESTION_NAME_BYTES = 16  # TCP_CA_NAME_MAX
_NO_RTT = 2**32 - 1  # ~0U until the first sample


@dataclass(frozen=True)
class TcpCounters:
    """Sums since the connection began; of several connections, sums over all but the times, which are the longest."""

    acked_bytes: int = 0
    sent_bytes: int = 0  # retransmissions included
    retransmitted_bytes: int = 0
    busy_s: float = 0.0  # with bytes not yet acknowledged
    rwnd_limited_s: float = 0.0  # of which the peer's window had no room
    sndbuf_limited_s: float = 0.0  # of which this host's buffer had none
    min_rtt_s: float | None = None

    def since(self, earlier: "TcpCounters") -> "TcpCounters":
        return TcpCounters(
            self.acked_bytes - earlier.acked_bytes,
            self.sent_bytes - earlier.sent_bytes,
            self.retransmitted_bytes - earlier.retransmitted_bytes,
            self.busy_s - earlier.busy_s,
            self.rwnd_limited_s - earlier.rwnd_limited_s,
            self.sndbuf_limited_s - earlier.sndbuf_limited_s,
            self.min_rtt_s,
        )

    def beside(self, other: "TcpCounters") -> "TcpCounters":
        """Of two connections that ran at the same time."""
        rtts = [rtt for rtt in (self.min_rtt_s, other.min_rtt_s) if rtt is not None]
        return TcpCounters(
            self.acked_bytes + other.acked_bytes,
            self.sent_bytes + other.sent_bytes,
            self.retransmitted_bytes + other.retransmitted_bytes,
            max(self.busy_s, other.busy_s),
            max(self.rwnd_limited_s, other.rwnd_limited_s),
            max(self.sndbuf_limited_s, other.sndbuf_limited_s),
            min(rtts) if rtts else None,
        )


def read_counters(connection: socket.socket) -> TcpCounters | None:
    """None where the kernel does not tell, or the socket is closed."""
    try:
        raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return None
    return parse_counters(raw)


def parse_counters(raw: bytes) -> TcpCounters | None:
    """Of a struct tcp_info as this machine lays it out; None for one of an older kernel."""
    if len(raw) < _INFO_BYTES:
        return None
    (acked,) = _BYTES_ACKED[0].unpack_from(raw, _BYTES_ACKED[1])
    (rtt_us,) = _MIN_RTT[0].unpack_from(raw, _MIN_RTT[1])
    busy_us, rwnd_us, sndbuf_us = _LIMITS[0].unpack_from(raw, _LIMITS[1])
    sent, again = _SENT[0].unpack_from(raw, _SENT[1])
    rtt_s = None if rtt_us == _NO_RTT else rtt_us / 1e6
    return TcpCounters(acked, sent, again, busy_us / 1e6, rwnd_us / 1e6, sndbuf_us / 1e6, rtt_s)


def congestion_control(connection: socket.socket) -> str:
    """Its name, like "bbr" or "cubic"; "" where the kernel does not tell."""
    try:
        raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_NAME_BYTES)
    except OSError:
        return ""
    return raw.split(b"\0")[0].decode("ascii", "replace")
