"""What the directory takes for a key, and the keys this host announces.

Owns their bounds. Refuses to know what a key stands for.
"""

from intellectd.daemon.net import NetworkError
from intellectd.daemon.p2p.limits import KEY_BYTES_MAX, KEYS_ANNOUNCED_MAX


class TooManyKeys(NetworkError):
    """The directory would not take one more of this host."""


def key_bytes(key: str) -> bytes:
    raw = key.encode()
    if not 2 <= len(raw) <= KEY_BYTES_MAX:
        raise ValueError(f"a key of the directory has 2 to {KEY_BYTES_MAX} bytes, {key!r} has {len(raw)}")
    return raw


class Announced:
    """In the order of their announcement."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}

    def add(self, key: str) -> None:
        """Raises TooManyKeys, and ValueError for what is no key."""
        key_bytes(key)
        if key not in self._keys and len(self._keys) >= KEYS_ANNOUNCED_MAX:
            raise TooManyKeys(f"{KEYS_ANNOUNCED_MAX} keys of this host are announced already: withdraw one first")
        self._keys[key] = None

    def discard(self, key: str) -> None:
        self._keys.pop(key, None)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def all(self) -> list[str]:
        return list(self._keys)
