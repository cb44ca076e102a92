"""What peers say to each other: frozen, bounded, versioned by the transport's preamble. SPEC W*, A*.

Every message travels in an Envelope signed by its author, so that it can be forwarded. Decoding is total:
hostile bytes end in BadMessage, never in another exception.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from intellectd.protocol import limits
from intellectd.protocol.entries import Collective, Entry, Member, Proposal, Streams
from intellectd.protocol.ids import (
    At,
    Ballot,
    Count,
    Float32Hex,
    Hash,
    Name,
    PeerId,
    Round,
    Signature,
    Text,
    Wire,
    encode,
    hash_of,
)
from intellectd.protocol.port import Crypto

T = TypeVar("T")
# What a peer did wrong, for counting: bytes that are no message (W3); an envelope of another run, by another author or
# with a false signature (W4); a message that is not its to send, a proposal, result or vote that is not valid (W6); a
# decided record that is not (R13); a piece of a state that is not the one that the log proves (K11).
FaultKind = Literal["bytes", "envelope", "sender", "content", "record", "piece"]


class BadMessage(ValueError):
    """The peer's fault: bytes that are no message."""

    kind: FaultKind = "bytes"


class BadEnvelope(BadMessage):
    """The neighbour's fault: a message that it should not have delivered so."""

    kind: FaultKind = "envelope"


class Message(Wire, frozen=True, array_like=True, tag_field="type", tag=lambda name: name.lower()):
    """Base of everything inside an envelope."""


class Ready(Wire, frozen=True, array_like=True):
    """My inner steps of this round are done and my encoded delta is frozen (SPEC A3)."""

    at: At
    state_digest: Hash  # of the state my delta starts from
    tokens: Count
    steps: Count
    norm: Float32Hex
    delta_root: Hash
    streams: Streams


class Transfer(Wire, frozen=True, array_like=True):
    """How far my part of a transfer is: the evidence that an attempt makes progress (SPEC A5)."""

    transfer: Hash
    done_bytes: Count
    total_bytes: Count


class Link(Wire, frozen=True, array_like=True):
    """What the sender has measured of its link to another peer (SPEC B13)."""

    to: PeerId
    rate: Annotated[int, Meta(ge=0, le=limits.RATE_STEP_MAX)]  # quarters of an octave above 1,024 bytes a second
    rtt: Annotated[int, Meta(ge=0, le=limits.RTT_STEP_MAX)]  # likewise above 0.1 ms


class Lineage(Wire, frozen=True, array_like=True):
    """How the sender's line of history compares with another: what is claimed here is proven by its records (G6)."""

    recoveries: Annotated[int, Meta(ge=0, le=limits.BRANCHES_MAX)]
    branches: Annotated[int, Meta(ge=0, le=limits.BRANCHES_MAX)]
    tokens: Count
    quorum: bool  # a quorum of its voters is alive to the sender
    votes: bool  # the sender remembers its votes on it since before the head: it may vote here and on a branch


class Beacon(Message, frozen=True, array_like=True):
    """I am here, this is where I stand. The newest (incarnation, sequence) of a peer counts (SPEC B1)."""

    incarnation: Count  # milliseconds at the start of the daemon: restarts supersede
    sequence: Count
    generation: Hash
    head_round: Annotated[int, Meta(ge=-1, le=limits.ROUND_MAX)]
    head: Hash
    applied: Annotated[int, Meta(ge=-2, le=limits.ROUND_MAX)]  # -2: no state yet; -1: the first parameters
    state: Name
    leaving: bool
    voted: bool  # I accepted a value in the decision that follows my head: it may be decided (SPEC A13)
    addresses: Annotated[
        list[Annotated[str, Meta(max_length=limits.ADDRESS_CHARS_MAX)]], Meta(max_length=limits.ADDRESSES_MAX)
    ]
    bulk: Annotated[str, Meta(max_length=limits.ADDRESS_CHARS_MAX)]
    certificate: Annotated[bytes, Meta(max_length=limits.CERTIFICATE_BYTES_MAX)]
    ready: Ready | None
    transfer: Transfer | None
    snapshots: Annotated[list[Round], Meta(max_length=8)]  # rounds whose state I can serve whole
    updates_from: Round  # the oldest round whose encoded update I still hold
    lineage: Lineage
    links: Annotated[list[Link], Meta(max_length=limits.LINKS_TOLD_MAX)]


class Prepare(Message, frozen=True, array_like=True):
    at: At
    ballot: Ballot


class Promise(Message, frozen=True, array_like=True):
    """I take part in no lower ballot. `accepted` is what I voted for last, in full."""

    at: At
    ballot: Ballot
    state_digest: Hash
    accepted_ballot: Ballot | None
    accepted: Proposal | None
    completed: Collective | None  # of a transfer whose result I hold
    silent: Annotated[list[PeerId], Meta(max_length=limits.VOTERS_MAX)]  # voters I have not heard for expel_s


class Refuse(Message, frozen=True, array_like=True):
    """No: I promised more, or the attempt before still makes progress."""

    at: At
    ballot: Ballot
    promised: Ballot
    reason: Text


class Plan(Message, frozen=True, array_like=True):
    """Start this transfer."""

    at: At
    ballot: Ballot
    collective: Collective
    codec: Name

    @property
    def members(self) -> list[Member]:
        return self.collective.members


class Result(Message, frozen=True, array_like=True):
    """I hold the result's bytes on disk. `signature` is over result_bytes, so that it stands alone."""

    at: At
    transfer: Hash
    root: Hash
    update_bytes: Count
    signature: Signature


class Abort(Message, frozen=True, array_like=True):
    """The attempt's transfer failed here. Inputs are kept; `suspect` is left out of the next try."""

    at: At
    ballot: Ballot
    suspect: PeerId | None
    silent: bool
    reason: Text


class Accept(Message, frozen=True, array_like=True):
    at: At
    ballot: Ballot
    proposal: Proposal


class Accepted(Message, frozen=True, array_like=True):
    """My vote, on disk. `signature` is over accepted_bytes, so that it stands in a certificate."""

    at: At
    ballot: Ballot
    record: Hash
    signature: Signature


class Commit(Message, frozen=True, array_like=True):
    entry: Entry


class Relay(Message, frozen=True, array_like=True):
    """Forward this envelope, once, to a peer that its author cannot dial (SPEC W8)."""

    to: PeerId
    envelope: Annotated[bytes, Meta(max_length=limits.BLOB_BYTES_MAX)]


class Spread(Message, frozen=True, array_like=True):
    """Pass my plan on to these; you and I are voters (W11)."""

    to: Annotated[list[PeerId], Meta(min_length=1, max_length=limits.SPREAD_MAX)]
    envelope: Annotated[bytes, Meta(max_length=limits.BLOB_BYTES_MAX)]


class Introduce(Message, frozen=True, array_like=True):
    """The newest beacons of those whom you are about to deal with (B12)."""

    beacons: Annotated[
        list[Annotated[bytes, Meta(max_length=limits.BEACON_BYTES_MAX)]], Meta(max_length=limits.INTRODUCED_MAX)
    ]


AnyMessage = (
    Beacon
    | Prepare
    | Promise
    | Refuse
    | Plan
    | Result
    | Abort
    | Accept
    | Accepted
    | Commit
    | Relay
    | Spread
    | Introduce
)


class Envelope(Wire, frozen=True, array_like=True):
    run: Hash  # the run key
    sender: PeerId
    body: bytes  # an encoded message
    signature: Signature


class EntriesRequest(Wire, frozen=True, array_like=True):
    """Call `entries`: the decided records of a generation, from a round on."""

    run: Hash
    proof: Hash  # call_proof
    generation: Hash
    from_round: Round


class EntriesAnswer(Wire, frozen=True, array_like=True):
    entries: Annotated[list[Entry], Meta(max_length=limits.ENTRIES_PER_CALL_MAX)]


class RunRequest(Wire, frozen=True, array_like=True):
    """Call `manifest` or `members`."""

    run: Hash
    proof: Hash  # call_proof


class MembersAnswer(Wire, frozen=True, array_like=True):
    """The newest beacons the peer holds, in their authors' envelopes."""

    beacons: Annotated[list[bytes], Meta(max_length=limits.PEERS_MAX)]


def seal(run: bytes, sender: str, message: AnyMessage, crypto: Crypto) -> bytes:
    """The signed envelope's bytes."""
    body = encode(message)
    return encode(Envelope(run, sender, body, crypto.sign(signed_bytes(crypto.secret, body))))


def open_envelope(data: bytes) -> Envelope:
    """Parse, without judging the signature. Raises BadMessage."""
    return decode(data, Envelope)


def open_message(envelope: Envelope, crypto: Crypto) -> AnyMessage:
    """Check the author's signature and decode the body. Raises BadMessage."""
    if not crypto.verify(envelope.sender, signed_bytes(crypto.secret, envelope.body), envelope.signature):
        raise BadEnvelope(f"the signature is not {envelope.sender}'s, or the run's id is not known to it")
    return decode(envelope.body, AnyMessage)  # type: ignore[arg-type]


# Of a union msgspec makes its tables anew with each call: 12 us for a beacon, against 1 us by a decoder that is kept.
_ANY_MESSAGE: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyMessage)


def decode(data: bytes, kind: type[T]) -> T:
    """Bounded, typed decoding of bytes from a peer. Raises BadMessage, nothing else."""
    try:
        union: object = AnyMessage
        decoded: T = _ANY_MESSAGE.decode(data) if kind is union else msgspec.msgpack.decode(data, type=kind)
        return decoded
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, MemoryError) as error:
        raise BadMessage(f"not a valid {getattr(kind, '__name__', 'message')}: {error}") from None


def signed_bytes(secret: bytes, body: bytes) -> bytes:
    """`secret` is the run's, so that who does not know its id can sign nothing (SPEC W1)."""
    return b"intellectd/1/message\0" + secret + body


def call_proof(secret: bytes, caller: str, callee: str) -> bytes:
    """That the caller knows the run's id. Of no use to another caller, nor for another callee: the connection says who
    these are (SPEC W10)."""
    return hash_of("call", secret, caller.encode(), callee.encode())
