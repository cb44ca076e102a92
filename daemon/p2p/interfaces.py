"""The host's own IP addresses, asked of the kernel.

Owns that question alone. Refuses to judge which of them others can reach: an operator behind NAT says so
with `announce`.
"""

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915  # <linux/sockios.h>
_found_last: dict[str, list[str]] = {}
_IF_INET6 = Path("/proc/net/if_inet6")  # one line per address: 32 hex digits, then index, prefix, scope, ...


def interface_hosts(family: str) -> list[str]:
    """Addresses of `family` ("ip4" or "ip6") but loopback and link-local, which mean nothing elsewhere. Those found
    last where the kernel cannot be asked: a host that is out of file descriptors is still where it was."""
    try:
        found = _ip4() if family == "ip4" else _ip6()
    except OSError:
        return list(_found_last.get(family, ()))
    usable = [ip for ip in found if not (ip.is_loopback or ip.is_link_local or ip.is_unspecified)]
    _found_last[family] = list(dict.fromkeys(str(ip) for ip in usable))
    return list(_found_last[family])


def _ip4() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            found.append(ipaddress.ip_address(answer[20:24]))
    return found


def _ip6() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        lines = _IF_INET6.read_text().splitlines()
    except FileNotFoundError:
        return []  # IPv6 is switched off
    return [ipaddress.ip_address(bytes.fromhex(line.split()[0])) for line in lines if line]
