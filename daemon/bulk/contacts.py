"""Who has reached whom, between this host and its peers: what an operator wants to know of ports and NAT.

Owns a bounded table of the last success and failure with each peer. Nothing depends on it but what people are told.
"""

import threading
from dataclasses import dataclass, replace
from typing import Protocol

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.interface import PeerLink
from intellectd.daemon.bulk.limits import CONTACTS_MAX
from intellectd.daemon.bulk.streams import LinkMeasure


@dataclass(frozen=True)
class Contact:
    """Times are on the bulk plane's clock; None: never."""

    came_s: float | None = None  # it connected to this host and proved who it is
    reached_s: float | None = None  # this host connected to it and it proved who it is
    address: str = ""  # where this host tried last
    failure: str = ""  # of the last attempt; "": it succeeded


class Contacts:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: dict[str, Contact] = {}  # who was heard of last stands last

    def came(self, peer: str) -> None:
        with self._lock:
            self._put(peer, replace(self._of(peer), came_s=now_s()))

    def reached(self, peer: str, address: str) -> None:
        with self._lock:
            self._put(peer, replace(self._of(peer), reached_s=now_s(), address=address, failure=""))

    def failed(self, peer: str, address: str, reason: str) -> None:
        with self._lock:
            self._put(peer, replace(self._of(peer), address=address, failure=reason))

    def all(self) -> dict[str, Contact]:
        with self._lock:
            return dict(self._peers)

    def _of(self, peer: str) -> Contact:
        return self._peers.get(peer, Contact())

    def _put(self, peer: str, contact: Contact) -> None:
        self._peers.pop(peer, None)
        self._peers[peer] = contact
        if len(self._peers) > CONTACTS_MAX:
            del self._peers[next(iter(self._peers))]


class Measured(Protocol):
    def measured(self, peer: str) -> LinkMeasure | None: ...

    def wires(self) -> dict[str, int]: ...


def links_of(contacts: Contacts, channels: Measured) -> dict[str, PeerLink]:
    """What interface.PeerLink says, of all peers with which there was anything."""
    now, wires = now_s(), channels.wires()
    return {
        peer: _link(contact, wires.get(peer, 0), channels.measured(peer), now)
        for peer, contact in contacts.all().items()
    }


def _link(contact: Contact, wires: int, measure: LinkMeasure | None, now: float) -> PeerLink:
    def age_s(at_s: float | None) -> float | None:
        return None if at_s is None else max(0.0, now - at_s)

    link = PeerLink(wires, age_s(contact.came_s), age_s(contact.reached_s), contact.address, contact.failure)
    if measure is None:
        return link
    rated = measure.bytes_per_s is not None
    return replace(
        link,
        bytes_per_s=measure.bytes_per_s,
        rtt_s=measure.rtt_s,
        limit=measure.limit if rated else "",
        measured_s=age_s(measure.measured_s) if rated else None,
    )
