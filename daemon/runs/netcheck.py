"""Who reaches whom, and what a person could do about it: the answer behind `netcheck`.

Owns the facts' form and the words of advice. Looks at what has happened anyway; sends nothing. Refuses to change
anything.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from intellectd.daemon.bulk.interface import PeerLink
from intellectd.daemon.bulk.sockets import split_address
from intellectd.daemon.p2p.addresses import parse
from intellectd.daemon.runs.host import Host
from intellectd.daemon.runs.service import RunService, member_states
from intellectd.daemon.runs.status import some
from intellectd.protocol.words import counted

QUIET_S = 120.0  # so long after the start nobody needs to have come: beacons, dials and a first round take a minute
NO_PEER = PeerLink()


@dataclass(frozen=True)
class _Known:
    """A member of one or several runs here."""

    peer: str
    state: str  # as `peers` has it
    runs: tuple[str, ...]
    addresses: tuple[str, ...]  # of its control plane
    announces: str | None  # its bulk address, "" for none; None: it has not spoken yet
    link: PeerLink

    @property
    def here(self) -> bool:
        return self.state in ("alive", "leaving")

    @property
    def reach(self) -> str:
        """How tensors pass between it and this host, as far as that was tried."""
        came, reached = self.link.came_s is not None, self.link.reached_s is not None
        if came or reached:
            return "both" if came and reached else "in" if came else "out"
        return "failed" if self.link.failure else "untried"


def netcheck(host: Host, services: Iterable[RunService], uptime_s: float) -> dict[str, Any]:
    runs = list(services)
    known = _known(host, runs, trio.current_time())
    problems, notes = _advice(host, known, uptime_s)
    config, came = host.config.network, host.network.came()
    return {
        "uptime_s": round(uptime_s, 3),
        "runs": [service.config.name for service in runs],
        "control": {
            "addresses": host.network.addresses(),
            "announced": bool(config.announce),
            "came": sorted(member.peer for member in known if member.peer in came),
        },
        "tensors": {
            "address": host.bulk.endpoint.address,
            "announced": bool(config.bulk_announce),
            "came": sorted(member.peer for member in known if member.link.came_s is not None),
            "upload_mbit": config.upload_mbit,
            "download_mbit": config.download_mbit,
        },
        "peers": [_row(host, member, came) for member in known],
        "problems": problems,
        "notes": notes,
    }


def _known(host: Host, services: list[RunService], now: float) -> list[_Known]:
    links, found = host.bulk.links(), dict[str, _Known]()
    for service in services:
        for peer, state in member_states(service.node, now).items():
            before, name = found.get(peer), service.config.name
            view, beacon = service.node.membership.peers.get(peer), service.node.membership.beacon(peer)
            found[peer] = _Known(
                peer,
                state if before is None or not before.here else before.state,
                (name,) if before is None else (*before.runs, name),
                tuple(view.addresses) if view is not None else before.addresses if before is not None else (),
                beacon.bulk if beacon is not None else before.announces if before is not None else None,
                links.get(peer, NO_PEER),
            )
    return list(found.values())


def _row(host: Host, member: _Known, came: Mapping[str, float]) -> dict[str, Any]:
    link = member.link
    return {
        "peer": member.peer,
        "runs": list(member.runs),
        "state": member.state,
        "control": {
            "connected": member.peer in host.network.connected(),
            "came": member.peer in came,
            "addresses": list(member.addresses),
            "round_trip_s": host.network.contact(member.peer).round_trip_s,
        },
        "tensors": {
            "address": member.announces,
            "reach": member.reach,
            "came_s": _rounded(link.came_s),
            "reached_s": _rounded(link.reached_s),
            "failure": link.failure,
            "wires": link.wires,
            "round_trip_s": link.rtt_s,
            "bytes_per_s": _rounded(link.bytes_per_s),
            "limit": link.limit or None,
            "measured_s": _rounded(link.measured_s),
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


# ---- advice


def _advice(host: Host, known: list[_Known], uptime_s: float) -> tuple[list[str], list[str]]:
    """What keeps bytes from passing, and what is worth knowing."""
    here = [member for member in known if member.here]
    return _apart(host, here), [*_own_address(host, here), *_quiet(host, here, uptime_s), *_windows(here)]


def _apart(host: Host, here: list[_Known]) -> list[str]:
    found = []
    hidden = tuple(member.peer for member in here if member.announces == "")
    if hidden and not host.bulk.endpoint.address:
        found.append(
            f"neither this host nor {some(hidden)} can be dialled for tensors, so none pass between them but "
            f"through a relay; if one of them can be opened: {_way_in(host)}"
        )
    for member in here:
        if member.reach == "failed":
            found.append(
                f"no tensors pass between this host and {some((member.peer,))}: {member.link.address} "
                f"({member.link.failure})"
            )
    return found


def _own_address(host: Host, here: list[_Known]) -> list[str]:
    address = host.bulk.endpoint.address
    if not address:
        return ["this host announces no address for tensors (network.bulk_announce): it dials the others"]
    if _is_global(address) is False and any(member.announces and _is_global(member.announces) for member in here):
        return [
            f"this host announces {address}, which only its own network can dial, to peers elsewhere: {_way_in(host)}"
        ]
    return []


def _quiet(host: Host, here: list[_Known], uptime_s: float) -> list[str]:
    """It may only mean that this host was always quicker to dial: a note, then, no problem."""
    if not here or uptime_s < QUIET_S:
        return []
    found, came = [], host.network.came()
    if not any(member.peer in came for member in here):
        found.append(
            f"nobody has connected to this host's control plane in the {_minutes(uptime_s)} it has run; if it is "
            f"behind a router: forward port {_control_port(host)} or set network.announce"
        )
    if host.bulk.endpoint.address and not any(member.link.came_s is not None for member in here):
        # Of two hosts the one with the lower id dials at once, the other a second later.
        late = [m.peer for m in here if m.peer < host.identity.peer_id and m.reach == "out"]
        though = f", though {some(tuple(late))} dials first where it can" if late else ""
        found.append(
            f"nobody has connected to this host for tensors in the {_minutes(uptime_s)} it has run{though}; if it is "
            f"behind a router: {_way_in(host)}"
        )
    return found


def _windows(here: list[_Known]) -> list[str]:
    """Limits that a person can lift."""
    found = []
    for limit, words in (
        ("sndbuf", "by this host's send buffer: raise net.core.wmem_max and net.ipv4.tcp_wmem here"),
        ("rwnd", "by the receiver's window: raise net.core.rmem_max and net.ipv4.tcp_rmem there"),
        ("loss", "by losses under a congestion control that takes them for a full queue: load tcp_bbr here"),
    ):
        peers = tuple(member.peer for member in here if member.link.limit == limit)
        if peers:
            found.append(f"sending to {counted(len(peers), 'peer')} ({some(peers)}) is held back {words}")
    return found


def _way_in(host: Host) -> str:
    """To this host's tensors, for people behind a router."""
    _, port = split_address(host.config.network.bulk_listen)
    forward = f"forward port {port}" if port else "forward the port of network.bulk_listen"
    return f'{forward} or set network.bulk_announce to what others can dial ("none" if nothing is)'


def _control_port(host: Host) -> str:
    ports = [parse(text).port for text in host.config.network.listen]
    return " or ".join(str(port) for port in ports if port) or "of network.listen"


def _is_global(address: str) -> bool | None:
    """Whether it means the same everywhere; None of a name, which may mean anything."""
    try:
        return ipaddress.ip_address(split_address(address)[0]).is_global
    except ValueError:
        return None


def _minutes(seconds: float) -> str:
    return counted(round(seconds / 60), "minute") if seconds >= 90 else f"{seconds:.0f} s"
