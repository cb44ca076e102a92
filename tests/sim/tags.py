"""Signatures for tests: a tag that only its owner makes. Stands behind the port where Ed25519 stands in a daemon."""

import hashlib
from functools import cache


@cache
def _keyed(peer: str) -> "hashlib._Hash":
    return hashlib.sha256(b"tag\0" + peer.encode() + b"\0")


def _tag(peer: str, message: bytes) -> bytes:
    tag = _keyed(peer).copy()
    tag.update(message)
    return tag.digest() * 2


class TagCrypto:
    """Verifying recomputes the tag; nothing in a test forges one, because only `sign` of a host makes them."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def sign(self, message: bytes) -> bytes:
        return _tag(self._peer, message)

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool:
        return signature == _tag(peer, message)
