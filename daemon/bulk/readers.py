"""Who is served: so many connections in all and of each peer, and a place for everybody in the end.

Owns the places, and the queue of those that were turned away. Who finds no room asks again; meanwhile, of those that
have been served for a while, one makes room for each that waits. Pure: the caller brings the time and the lock.
"""

from dataclasses import dataclass

from intellectd.daemon.bulk.limits import SERVE_TENURE_S, SERVE_WAIT_S, SERVES_MAX, SERVES_PER_PEER_MAX, TRUSTED_MAX


@dataclass(eq=False)
class Place:
    """One connection's."""

    peer: str
    since: float


class Readers:
    def __init__(self) -> None:
        self._places: list[Place] = []
        self._waiting: dict[str, float] = {}  # peers without any place, and when each asked last; the first first

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, peer: str, now: float) -> Place | None:
        """A place, or None: none is free, this peer has as many as one may, or others have waited longer."""
        self._forget_silent(now)
        of_peer = sum(place.peer == peer for place in self._places)
        free = SERVES_MAX - len(self._places)
        ahead = len(self._waiting) if peer not in self._waiting else list(self._waiting).index(peer)
        if of_peer < SERVES_PER_PEER_MAX and free > ahead:
            self._waiting.pop(peer, None)
            place = Place(peer, now)
            self._places.append(place)
            return place
        if not of_peer and len(self._waiting) < TRUSTED_MAX:
            self._waiting[peer] = now  # an older place in the queue is kept
        return None

    def leave(self, place: Place) -> None:
        self._places.remove(place)

    def must_go(self, place: Place, now: float) -> bool:
        """Between two requests: others wait in vain, and this one has had its time. It may ask again."""
        self._forget_silent(now)
        return len(self._waiting) > SERVES_MAX - len(self._places) and now - place.since >= SERVE_TENURE_S

    def _forget_silent(self, now: float) -> None:
        self._waiting = {peer: at for peer, at in self._waiting.items() if now - at <= SERVE_WAIT_S}
