"""The one thing the machines need from outside to judge: signatures. The simulator has a cheap twin."""

from typing import Protocol


class Crypto(Protocol):
    @property
    def secret(self) -> bytes:
        """The run's, of 32 bytes: who knows it is admitted (SPEC I6)."""
        ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes by this host's identity."""
        ...

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool: ...
