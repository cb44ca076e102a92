"""Where a ring's left neighbour and the ring itself find each other, whichever of them comes first.

Owns authenticated connections whose ring has not started here yet: few, and not for long. Refuses to know what
they will carry.
"""

import threading

from intellectd.daemon.bulk.bell import Mailbox, now_s
from intellectd.daemon.bulk.interface import TransferId
from intellectd.daemon.bulk.limits import PARKED_MAX, PARKED_PER_PEER_MAX, PARKED_S
from intellectd.daemon.bulk.link import Link

_Key = tuple[TransferId, str]  # the transfer, and who must be on the other end


class Rendezvous:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected: dict[_Key, Mailbox[Link]] = {}
        self._parked: dict[_Key, tuple[Link, float]] = {}  # with the time it expires
        self._closed = False

    def expect(self, transfer_id: TransferId, peer: str, arrivals: Mailbox[Link]) -> None:
        """Put the link that `peer` has opened, or will open, for this transfer into `arrivals`; one only."""
        with self._lock:
            link, _expires = self._parked.pop((transfer_id, peer), (None, 0.0))
            if link is None:
                self._expected[transfer_id, peer] = arrivals
            else:
                arrivals.put(link)

    def forget(self, transfer_id: TransferId, arrivals: Mailbox[Link]) -> None:
        with self._lock:
            for key in [key for key, box in self._expected.items() if key[0] == transfer_id and box is arrivals]:
                del self._expected[key]

    def offer(self, transfer_id: TransferId, link: Link) -> None:
        """Take over an authenticated link: to its ring, or parked, or closed where too many wait."""
        key = (transfer_id, link.peer)
        with self._lock:
            arrivals = self._expected.pop(key, None)
            if arrivals is not None:
                arrivals.put(link)
                return
            # The peer has dialled again, so it has given up the earlier one.
            stale = self._parked.pop(key, None)
            if self._has_room(link.peer):
                link.parked = True
                self._parked[key] = (link, now_s() + PARKED_S)
            else:
                link.close()
        if stale is not None:
            stale[0].close()

    def sweep(self) -> bool:
        """Close what has waited too long; its dialler tries again. Whether anything still waits."""
        now = now_s()
        with self._lock:
            for key in [key for key, (_link, expires) in self._parked.items() if expires <= now]:
                self._parked.pop(key)[0].close()
            return bool(self._parked)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for link, _expires in self._parked.values():
                link.close()
            self._parked.clear()

    def _has_room(self, peer: str) -> bool:
        of_peer = sum(1 for _transfer, other in self._parked if other == peer)
        return not self._closed and len(self._parked) < PARKED_MAX and of_peer < PARKED_PER_PEER_MAX
