"""The small types every message is made of, with their bounds. SPEC T*.

Hashes are SHA-256 with a domain word in front; this file is the only one that calls hashlib.
"""

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from intellectd.protocol import limits

# `\Z`: `$` would let a newline through at the end, and from there into the log.
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
PeerId = Annotated[str, Meta(min_length=2, max_length=64, pattern=r"^[1-9A-HJ-NP-Za-km-z]+\Z")]
Round = Annotated[int, Meta(ge=0, le=limits.ROUND_MAX)]
Count = Annotated[int, Meta(ge=0, le=limits.TOKENS_MAX)]
Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
Float32Hex = Annotated[str, Meta(min_length=8, max_length=8, pattern=r"^[0-9a-f]{8}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9_-]+\Z")]

NO_HASH = bytes(32)


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that is hashed, signed or sent: an array, in field order, nothing more."""


class Ballot(Wire, frozen=True, array_like=True, order=True):
    """One try at a round. Ordered by attempt, then by leader, so that no two are equal (SPEC A2)."""

    attempt: Count
    leader: PeerId


class At(Wire, frozen=True, array_like=True):
    """Which decision a message is about: the round after `parent`. The hash gate compares it whole (A1)."""

    generation: Hash
    round: Round
    parent: Hash


class Stream(Wire, frozen=True, array_like=True):
    """A data slot of a round: sample i of it is a pure function of (seed, round, slot, i)."""

    round: Round
    slot: Annotated[int, Meta(ge=0, le=limits.PEERS_MAX * 4)]


def hash_of(domain: str, *parts: bytes) -> bytes:
    """SHA-256 over the domain and the length-prefixed parts, so that no two inputs collide by joining."""
    digest = hashlib.sha256(b"intellectd/1/" + domain.encode() + b"\0")
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def encode(value: object) -> bytes:
    """The canonical bytes of a wire struct: arrays in field order, so equal values have equal bytes."""
    return msgspec.msgpack.encode(value)


def state_name(round_: int) -> str:
    """For people: rounds -1 and 0 leave the state as it was made (SPEC M7)."""
    return f"the state after round {round_}" if round_ > 0 else "the first parameters"
