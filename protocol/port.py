"""The one thing the machines need from outside to judge: signatures. The simulator has a cheap twin."""

from typing import Protocol


class Crypto(Protocol):
    def sign(self, message: bytes) -> bytes:
        """64 bytes by this host's identity."""
        ...

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool: ...
