"""TCP as the bulk plane wants it: parsing addresses, listening, and the options of a connection.

Owns socket options and their reasons. Refuses to know TLS and what is sent.
"""

import contextlib
import errno
import fcntl
import socket
import sys
import termios
from ipaddress import ip_address
from pathlib import Path

from intellectd.daemon.bulk.errors import BulkAddressInUse, BulkBadAddress
from intellectd.daemon.bulk.limits import LISTEN_BACKLOG, SOCKET_BUFFER_BYTES, UNSENT_BYTES_MAX
from intellectd.daemon.p2p.interfaces import interface_hosts


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"; ValueError says what is wrong with it."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'{address!r} is no address; write "host:port", like "0.0.0.0:4002"')
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(address: str) -> socket.socket:
    """A bound, listening, non-blocking socket."""
    host, port = split_address(address)
    try:
        family, kind, protocol, _name, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(address, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart must not wait for TIME_WAIT
        tune(listener)  # buffers decide the window scale, which is agreed before accept() returns
        listener.bind(where)
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise BulkAddressInUse(f"{address} is in use; stop the other process or set network.bulk_listen") from error
        raise _cannot_listen(address, error) from error
    return listener


def _cannot_listen(address: str, error: OSError) -> BulkBadAddress:
    return BulkBadAddress(f"cannot listen on {address} for tensors (`network.bulk_listen`): {error.strerror}")


def public_address(listener: socket.socket) -> str:
    """Where others may dial a listener. One on all interfaces gets the host's own address, if it has one."""
    return address_of(*listener.getsockname()[:2])


def address_of(host: str, port: int) -> str:
    """Asked anew, it may be another one: hosts move."""
    if host not in ("0.0.0.0", "::"):
        return join_address(host, port)
    # Not by the host's name: Debian's /etc/hosts makes that 127.0.1.1, which no other host can dial.
    hosts = interface_hosts("ip4") or interface_hosts("ip6")
    return join_address(hosts[0] if hosts else "127.0.0.1", port)


def is_within_host(connection: socket.socket) -> bool:
    """Do both its ends seem to be this host's? A connection to an own address comes from that address."""
    try:
        here, there = (
            ip_address(str(end()[0]).partition("%")[0]) for end in (connection.getsockname, connection.getpeername)
        )
    except (OSError, ValueError, IndexError):
        return False
    return here == there or (here.is_loopback and there.is_loopback)


def tune(connection: socket.socket) -> None:
    """Options that help where they exist; none of them is needed to be correct."""
    _try(connection, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # headers are small and must not wait
    unsent_at_most(connection, UNSENT_BYTES_MAX)
    # Measured at 500 Mbit/s, 100 ms, loss 1e-4: bbr 494 Mbit/s, cubic 409 with one connection.
    _try(connection, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    _enlarge(connection, socket.SO_SNDBUF, "wmem")
    _enlarge(connection, socket.SO_RCVBUF, "rmem")


def give_up_after(connection: socket.socket, stall_s: float) -> None:
    """What was sent and is not acknowledged for so long breaks the connection."""
    _try(connection, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(stall_s * 1000)))


def unsent_at_most(connection: socket.socket, count: int) -> None:
    _try(connection, socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, count)


def bytes_under_way(connection: socket.socket) -> int:
    """Given to the kernel and not acknowledged yet; 0 where it does not tell."""
    count = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


def segment_bytes(connection: socket.socket) -> int:
    """Of payload in a packet, at most."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


def _enlarge(connection: socket.socket, option: int, name: str) -> None:
    """Set a buffer only where that gives more than the kernel's own tuning reaches: setting it turns that off."""
    fixed_max, tuned_max = _buffers(name)
    if fixed_max > tuned_max:
        _try(connection, socket.SOL_SOCKET, option, fixed_max)


def largest_buffer() -> int:
    """Bytes that a connection may have in its send buffer at most."""
    return max(_buffers("wmem"))


def _buffers(name: str) -> tuple[int, int]:
    """(what may be set, what the kernel's own tuning reaches); nothing where the kernel does not tell."""
    try:
        fixed_max = int(Path(f"/proc/sys/net/core/{name}_max").read_text())
        tuned_max = int(Path(f"/proc/sys/net/ipv4/tcp_{name}").read_text().split()[2])
    except (OSError, ValueError, IndexError):
        return 0, 0
    return min(fixed_max, SOCKET_BUFFER_BYTES), tuned_max


def _try(connection: socket.socket, level: int, option: int, value: int | bytes) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(level, option, value)
