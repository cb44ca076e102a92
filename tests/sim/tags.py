"""Signatures for tests: a tag that only its owner makes. Stands behind the port where Ed25519 stands in a daemon.

`TagCrypto` is for tests that forge: nobody makes another's tag, or the same tag for another message. `QuickCrypto` is
for worlds of honest hosts, which sign and verify by the million: a checksum finds what was mixed up, not what was made
to fit.
"""

import hashlib
import zlib
from functools import cache

SECRET = b"all hosts of a test know the run".ljust(32)


@cache
def _keyed(peer: str) -> "hashlib._Hash":
    return hashlib.sha256(b"tag\0" + peer.encode() + b"\0")


def _tag(peer: str, message: bytes) -> bytes:
    tag = _keyed(peer).copy()
    tag.update(message)
    return tag.digest() * 2


class TagCrypto:
    """Verifying recomputes the tag; nothing in a test forges one, because only `sign` of a host makes them."""

    secret = SECRET

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def sign(self, message: bytes) -> bytes:
        return _tag(self._peer, message)

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool:
        return signature == _tag(peer, message)


@cache
def _begun(peer: str) -> tuple[bytes, int]:
    """(the author in 60 bytes, a checksum to go on from)."""
    author = peer.encode()
    assert len(author) <= 60, "the name does not fit into a tag"
    return author.ljust(60, b"\0"), zlib.crc32(author)


class QuickCrypto(TagCrypto):
    """64 bytes: the author, whole, and the CRC-32 of author and message."""

    def sign(self, message: bytes) -> bytes:
        author, checksum = _begun(self._peer)
        return author + zlib.crc32(message, checksum).to_bytes(4, "little")

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool:
        author, checksum = _begun(peer)
        return signature == author + zlib.crc32(message, checksum).to_bytes(4, "little")
