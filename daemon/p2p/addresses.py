"""Multiaddrs as text: `/ip4/203.0.113.7/tcp/4001/p2p/12D3Koo...`, parsed, checked and listed.

Owns which addresses this program accepts (TCP over IPv4, IPv6 or a DNS name) and what a wildcard listen
address is advertised as. Refuses to know libp2p, so that its in-memory twin reads the same addresses.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from intellectd.daemon.net import BadAddress
from intellectd.daemon.p2p.interfaces import interface_hosts
from intellectd.daemon.p2p.limits import ADDRESS_CHARS_MAX, ADDRESSES_PER_PEER_MAX
from intellectd.daemon.peer_id import public_key_of_peer_id

EXAMPLE = "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWGRUrbUcLyGE9xKdMmKjDsHmKDqUvDcBkGQBz9rm8vFrE"
# RFC 1123: letters, digits and hyphens. multiaddr's own parser refuses underscores too.
_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_FAMILIES = ("ip4", "ip6", "dns", "dns4", "dns6")


@dataclass(frozen=True)
class Address:
    """Where to dial, and whom to expect there ("" where the address does not say)."""

    family: str
    host: str
    port: int
    peer: str = ""

    def __str__(self) -> str:
        return self.transport() + (f"/p2p/{self.peer}" if self.peer else "")

    def transport(self) -> str:
        return f"/{self.family}/{self.host}/tcp/{self.port}"

    def wildcard(self) -> bool:
        return self.family in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_unspecified

    def loopback(self) -> bool:
        return self.family in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_loopback


def parse(text: str) -> Address:
    """Raises BadAddress, which says what is wrong with the text and shows a good one."""
    shown = repr(text[:ADDRESS_CHARS_MAX])
    parts = text.split("/")
    if len(text) > ADDRESS_CHARS_MAX or len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp":
        raise BadAddress(f"{shown} is no TCP multiaddr; a good one: {EXAMPLE}")
    family, host = parts[1], parts[2]
    if family not in _FAMILIES or not _is_host(family, host):
        raise BadAddress(f"{shown}: /{family}/{host} names no host; a good one: {EXAMPLE}")
    # isascii: str.isdigit accepts digits that int() reads but nobody else does.
    if not (parts[4].isascii() and parts[4].isdigit() and len(parts[4]) <= 5 and int(parts[4]) < 65536):
        raise BadAddress(f"{shown}: {parts[4]!r} is no TCP port; a good one: {EXAMPLE}")
    return Address(family, host, int(parts[4]), _peer_of(parts, shown))


def parse_dialable(text: str) -> Address:
    """An address that can be dialled: with a peer id, a port and a host that is not a wildcard."""
    address = parse(text)
    if not address.peer:
        raise BadAddress(f"{text!r} does not end in /p2p/<peer id>, so nobody can tell who answers; e.g. {EXAMPLE}")
    if address.wildcard() or address.port == 0:
        raise BadAddress(f"{text!r} is an address to listen on, not one to dial; a good one: {EXAMPLE}")
    return address


def parse_listen(text: str) -> Address:
    address = parse(text)
    if address.family not in ("ip4", "ip6") or address.peer:
        raise BadAddress(f"{text!r} is no listen address; good ones: /ip4/0.0.0.0/tcp/4001, /ip6/::/tcp/4001")
    return address


def not_dialable(text: str) -> BadAddress:
    return BadAddress(f"announce address {text!r} cannot be dialled by others; give the public one")


def parse_announce(text: str, own_peer: str) -> Address:
    address = parse(text)
    if address.wildcard() or address.port == 0:
        raise not_dialable(text)
    if address.peer not in ("", own_peer):
        raise BadAddress(f"announce address {text!r} ends in another peer's id; this one is {own_peer}")
    return Address(address.family, address.host, address.port, own_peer)


def advertised(bound: Sequence[Address], own_peer: str) -> list[str]:
    """What others may dial, given the sockets that listen. Wildcards become the host's interface addresses."""
    expanded: list[Address] = []
    for address in bound:
        hosts = _hosts_behind(address)
        expanded += [Address(address.family, host, address.port, own_peer) for host in hosts]
    # Loopback only serves peers on this very machine, so it goes last.
    expanded.sort(key=Address.loopback)
    return list(dict.fromkeys(str(address) for address in expanded))[:ADDRESSES_PER_PEER_MAX]


def _hosts_behind(address: Address) -> list[str]:
    if not address.wildcard():
        return [address.host]
    return interface_hosts(address.family) or ["127.0.0.1" if address.family == "ip4" else "::1"]


def _is_host(family: str, host: str) -> bool:
    if family.startswith("dns"):
        return len(host) <= 253 and _HOSTNAME.fullmatch(host) is not None
    try:  # a zone, as in fe80::1%eth0, means something on one host alone, and multiaddrs have no place for it here
        return "%" not in host and ipaddress.ip_address(host).version == int(family[2:])
    except ValueError:
        return False


def _peer_of(parts: list[str], shown: str) -> str:
    if len(parts) == 5:
        return ""
    if parts[5] != "p2p":
        raise BadAddress(f"{shown}: /{parts[5]} is not understood after the port; a good one: {EXAMPLE}")
    try:
        public_key_of_peer_id(parts[6])
    except ValueError as error:
        raise BadAddress(f"{shown}: {error}; a good one: {EXAMPLE}") from error
    return parts[6]
