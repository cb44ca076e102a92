"""The other members of this host's runs, as `peers` and the metrics show them.

Owns who counts as one: whoever spoke in the run, or was given a seat or data by its head. Addresses of the other
runs' members, which this host also knows, are none, and who has left is none any more.
"""

from collections.abc import Iterable
from typing import Any

import trio

from intellectd.daemon.runs.service import RunService, member_states
from intellectd.protocol.node import Node

OWN_SOFTWARE = "intellectd/"


def peer_rows(services: Iterable[RunService]) -> list[dict[str, Any]]:
    """One for each run and peer."""
    now = trio.current_time()
    rows = [
        _row(service, peer, state, now)
        for service in services
        for peer, state in member_states(service.node, now).items()
    ]
    runs: dict[str, list[str]] = {}
    for row in rows:
        runs.setdefault(row["peer"], []).append(row["run"])
    return [{**row, "runs": runs[row["peer"]]} for row in rows]


def _row(service: RunService, peer: str, state: str, now: float) -> dict[str, Any]:
    node, contact = service.node, service.host.network.contact(peer)
    view = node.membership.peers.get(peer)
    beacon = view.beacon if view else None
    return {
        "peer": peer,
        "run": service.config.name,
        "addresses": list(view.addresses) if view else [],
        "state": state,
        "role": _role(node, peer),
        "doing": beacon.state if beacon else None,
        "head_round": max(0, beacon.head_round) if beacon else None,
        "heard_s": round(now - view.heard_at, 1) if view and view.heard_at is not None else None,
        "round_trip_s": contact.round_trip_s,
        "version": contact.software.removeprefix(OWN_SOFTWARE) or None,
    }


def _role(node: Node, peer: str) -> str:
    if peer in node.head.voters:
        return "voter"
    return "member" if node.head.assignment(peer) else "joiner"
