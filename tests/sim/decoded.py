"""What goes to many hosts is opened once: the same bytes are the same message by the same author, whoever reads them.

Owns what stands in place of the production functions that open envelopes while a world runs. A message is handed out as
a copy, since the machines tell one that they keep from one that has come again by identity; what is in it they never
change. What is not as it should be is not remembered: it is opened, and refused, each time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from intellectd.protocol import inbox
from intellectd.protocol.messages import AnyMessage, Envelope, open_envelope, open_message
from intellectd.protocol.port import Crypto

KEPT_MAX = 2048  # a few seconds of a large swarm: whatever is still under way was sent no longer ago


class Opened:
    """An envelope, and what is in it once somebody has looked."""

    def __init__(self, envelope: Envelope | None) -> None:
        self.envelope = envelope
        self.message: Any = None


class Memory:
    """Of the envelopes that were opened last."""

    def __init__(self) -> None:
        self._opened: dict[bytes, Opened] = {}
        self._newest = Opened(None)  # whose message is asked for next

    def open_envelope(self, data: bytes) -> Envelope:
        """As the production one. Raises what it raises."""
        opened = self._opened.get(data)
        if opened is None:
            if len(self._opened) >= KEPT_MAX:
                self._opened = {}
            opened = self._opened[data] = Opened(open_envelope(data))
        self._newest = opened
        assert opened.envelope is not None
        return opened.envelope

    def open_message(self, envelope: Envelope, crypto: Crypto) -> AnyMessage:
        """As the production one; out of memory if this envelope was opened last. Raises what that raises."""
        opened = self._newest
        if opened.envelope is not envelope:
            return open_message(envelope, crypto)
        if opened.message is None:
            opened.message = open_message(envelope, crypto)
        copy: AnyMessage = opened.message.__copy__()
        return copy


@contextmanager
def once(memory: Memory) -> Iterator[None]:
    """While it is entered, protocol/inbox.py opens what it has opened before out of memory."""
    honest = inbox.open_envelope, inbox.open_message  # type: ignore[attr-defined]
    inbox.open_envelope, inbox.open_message = memory.open_envelope, memory.open_message  # type: ignore[attr-defined]
    try:
        yield
    finally:
        inbox.open_envelope, inbox.open_message = honest  # type: ignore[attr-defined]
