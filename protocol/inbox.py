"""From bytes to a message and its author, or to whose fault it is that there is none. SPEC W1-W6.

Owns who answers for what: the neighbour for what it delivers, the author for what it signed. Refuses to know
what the message means.
"""

from intellectd.protocol import limits
from intellectd.protocol.context import Context
from intellectd.protocol.messages import AnyMessage, BadEnvelope, Beacon, open_envelope, open_message


def receive(context: Context, via: str, data: bytes, introduced: bool) -> tuple[str, AnyMessage] | None:
    """(author, message); None for what needs no answer. Raises BadMessage: the neighbour's fault.

    `introduced`: an envelope that a member passes on, which only beacons may be, this host's own too.
    """
    envelope = open_envelope(data)
    if envelope.run != context.run:
        raise BadEnvelope("it is of another run")
    if envelope.sender == context.peer and not introduced:
        return None
    if not introduced and via != envelope.sender:
        raise BadEnvelope(f"it is {envelope.sender}'s and was not relayed")
    message = open_message(envelope, context.crypto)
    if introduced and not isinstance(message, Beacon):
        raise BadEnvelope("only beacons can be introduced")
    if isinstance(message, Beacon) and len(data) > limits.BEACON_BYTES_MAX:
        # Whoever introduced it would be blamed: what is passed on is refused beyond that.
        raise BadEnvelope(f"a beacon in {len(data)} bytes")
    return envelope.sender, message
