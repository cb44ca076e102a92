"""The protocol's signature port over this daemon's Ed25519 identity. Owns nothing but the wiring."""

from collections import OrderedDict

from intellectd.daemon.identity import Identity, verify
from intellectd.protocol.ids import hash_of

# A certificate is checked when it is assembled, again as an entry, and by whoever asks: 44 µs each time.
SEEN_MAX = 4096


class Ed25519Crypto:
    def __init__(self, identity: Identity, secret: bytes) -> None:
        """`secret`: the run's (SPEC I6)."""
        self._identity, self.secret = identity, secret
        self._good: OrderedDict[bytes, None] = OrderedDict()

    def sign(self, message: bytes) -> bytes:
        return self._identity.sign(message)

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool:
        key = hash_of("seen", peer.encode(), message, signature)
        if key in self._good:
            return True
        if not verify(peer, message, signature):
            return False
        self._good[key] = None
        if len(self._good) > SEEN_MAX:
            self._good.popitem(last=False)
        return True
