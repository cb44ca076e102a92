"""Signatures for tests: a tag that only its owner makes. Stands behind the port where Ed25519 stands in a daemon."""

from intellectd.protocol.ids import hash_of


class TagCrypto:
    """Verifying recomputes the tag; nothing in a test forges one, because only `sign` of a host makes them."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def sign(self, message: bytes) -> bytes:
        return hash_of("tag", self._peer.encode(), message) * 2

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool:
        return signature == hash_of("tag", peer.encode(), message) * 2
