"""Frames sealed with AES-256-GCM: the keys of one wire, and the counters that make a replayed frame worthless.

Owns key derivation (HKDF-SHA256, RFC 5869) and nonces. Refuses to know sockets and what a frame means. Both secrets
have travelled under TLS 1.3 between two pinned certificates, so whoever can derive the keys is one of the two. A key
serves one direction of one wire; its nonce is the number of the frame (NIST SP 800-38D, 8.2.1: deterministic), never
sent, so that a frame repeated, left out or out of order does not authenticate.
"""

import ctypes
import struct
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from intellectd.daemon.bulk.errors import NotAuthentic

SECRET_BYTES = 32  # from each side; one side's alone would already be as strong as AES-256
KEY_BYTES = 32
TAG_BYTES = 16
TOKEN_BYTES = 32  # of what the two ends of a wire alone know, as long as a key
WIRE_ID_BYTES = 8  # tells apart the few wires of one pair; means nothing else
_LABEL = b"intellectd channel 1"
_COUNTER = struct.Struct(">IQ")

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class WireKeys:
    from_dialler: bytes
    from_acceptor: bytes
    wire_id: bytes
    token: bytes  # for what is handed over beside the connection


def derive_keys(dialler: str, acceptor: str, dialler_secret: bytes, acceptor_secret: bytes) -> WireKeys:
    """The same on both ends, other ones for any other pair, direction or wire."""

    def derived(purpose: bytes, length: int) -> bytes:
        # Lengths before the names: no two pairs of peers may give one info.
        names = b"".join(struct.pack(">H", len(name)) + name for name in (dialler.encode(), acceptor.encode()))
        kdf = HKDF(SHA256(), length, salt=None, info=_LABEL + b"/" + purpose + names)
        return kdf.derive(dialler_secret + acceptor_secret)

    return WireKeys(
        derived(b"dialler to acceptor", KEY_BYTES),
        derived(b"acceptor to dialler", KEY_BYTES),
        derived(b"wire id", WIRE_ID_BYTES),
        derived(b"shared memory", TOKEN_BYTES),
    )


class Cipher(Protocol):
    """One direction of one wire, in the hands of one thread."""

    tag_bytes: int

    def seal(self, header: Buffer, payload: Buffer, out: memoryview) -> None:
        """`payload`, encrypted and followed by its tag, into `out` (exact length), where it may begin already."""
        ...

    def open(self, header: Buffer, sealed: memoryview, place: memoryview) -> None:
        """The payload into `place` (exact length), where `sealed` may begin already; or NotAuthentic."""
        ...


class AesGcm:
    tag_bytes = TAG_BYTES

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._nonce = bytearray(_COUNTER.size)
        self._frames = 0

    def seal(self, header: Buffer, payload: Buffer, out: memoryview) -> None:
        _COUNTER.pack_into(self._nonce, 0, 0, self._frames)
        self._frames += 1
        self._aead.encrypt_into(self._nonce, payload, header, out)

    def open(self, header: Buffer, sealed: memoryview, place: memoryview) -> None:
        _COUNTER.pack_into(self._nonce, 0, 0, self._frames)
        try:
            self._aead.decrypt_into(self._nonce, sealed, header, place)
        except InvalidTag:
            raise NotAuthentic("a frame that does not authenticate") from None
        self._frames += 1


class Clear:
    """No secrecy at all, for benchmarks of everything else: nothing but an engine that was told so uses it."""

    tag_bytes = 0

    def seal(self, header: Buffer, payload: Buffer, out: memoryview) -> None:
        _copy(payload, out)

    def open(self, header: Buffer, sealed: memoryview, place: memoryview) -> None:
        _copy(sealed, place)


def _copy(source: Buffer, to: memoryview) -> None:
    """Without the interpreter's lock, as AES is: a chunk takes a tenth of a millisecond."""
    view = memoryview(source)
    if view.readonly or not view.nbytes or view.nbytes != to.nbytes:
        to[:] = view
        return
    at, there = (ctypes.addressof(ctypes.c_char.from_buffer(memory)) for memory in (view, to))
    if at != there:
        ctypes.memmove(there, at, view.nbytes)
