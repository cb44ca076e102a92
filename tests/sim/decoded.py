"""What goes to many hosts is decoded once: the same bytes are the same message, whoever reads them.

Owns what stands in place of the production `decode` while a world runs. A message is handed out as a copy, since the
machines tell one that they keep from one that has come again by identity; what is in it they never change.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from intellectd.protocol import messages

KEPT_MAX = 2048  # a few seconds of a large swarm: whatever is still under way was sent no longer ago


def remembering(decode: Callable[[bytes, Any], Any]) -> Callable[[bytes, Any], Any]:
    """`decode` with a memory: a second time it makes no new message of the same bytes. Raises what it raises."""
    envelopes: dict[bytes, messages.Envelope] = {}
    bodies: dict[bytes, Any] = {}

    def remembered(data: bytes, kind: Any) -> Any:
        if kind is messages.Envelope:
            envelope = envelopes.get(data)
            if envelope is None:
                if len(envelopes) >= KEPT_MAX:
                    envelopes.clear()
                envelope = envelopes[data] = decode(data, kind)
            return envelope
        if kind is not messages.AnyMessage:
            return decode(data, kind)
        body = bodies.get(data)
        if body is None:
            if len(bodies) >= KEPT_MAX:
                bodies.clear()
            body = bodies[data] = decode(data, kind)
        return body.__copy__()

    return remembered


@contextmanager
def once() -> Iterator[None]:
    """While it is entered, protocol/messages.py decodes what it has decoded before out of memory."""
    honest = messages.decode
    messages.decode = remembering(honest)  # type: ignore[assignment]
    try:
        yield
    finally:
        messages.decode = honest
