"""Where peers may be dialled, as far as this program was told.

Owns a bounded table of addresses and the judgement which ones are usable. Refuses to know how one dials.
"""

import logging

from intellectd.daemon.net import BadAddress
from intellectd.daemon.p2p.addresses import Address, parse, parse_dialable
from intellectd.daemon.p2p.limits import ADDRESSES_PER_PEER_MAX, PEERS_KNOWN_MAX

log = logging.getLogger("intellectd.p2p")


class AddressBook:
    """Told by an operator, by a peer's signed beacon, or by a dial that worked."""

    def __init__(self) -> None:
        self._book: dict[str, list[Address]] = {}
        self._met: dict[str, None] = {}  # those of them that were connected since they were learned

    def learn(self, peer: str, texts: list[str]) -> bool:
        """Those told last come first, in the order in which they were told. Returns whether any was new."""
        known, told = self._book.pop(peer, []), usable(peer, texts)
        self._book[peer] = list(dict.fromkeys(told + known))[:ADDRESSES_PER_PEER_MAX]
        if len(self._book) > PEERS_KNOWN_MAX:
            self._forget_one()
        return any(address not in known for address in told)

    def met(self, peer: str) -> None:
        """It is connected: not one of the names that anybody may announce."""
        if peer in self._book:
            self._met[peer] = None

    def _forget_one(self) -> None:
        """The one that was learned longest ago of those that nobody met, or of all: a member may never move, and in a
        year of made-up names its address would be the first to go."""
        oldest = next((peer for peer in self._book if peer not in self._met), next(iter(self._book)))
        del self._book[oldest]
        self._met.pop(oldest, None)

    def of(self, peer: str) -> list[Address]:
        return list(self._book.get(peer, ()))


def usable(peer: str, texts: list[str]) -> list[Address]:
    """Those that can be dialled and claim no other peer. The rest is dropped: a peer may claim anything."""
    found: list[Address] = []
    for text in texts[:ADDRESSES_PER_PEER_MAX]:
        try:
            address = parse(text)
            full = Address(address.family, address.host, address.port, address.peer or peer)
            found += [parse_dialable(str(full))] if full.peer == peer else []
        except BadAddress as error:
            log.debug("an address of %s is of no use: %s", peer, error)
    return found
