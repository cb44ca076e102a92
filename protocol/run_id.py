"""The run id: what a person copies to join. Short, checksummed, and secret where knowing it admits.

`rn1` + base32 of the first 20 bytes of the manifest's hash + 4 characters of checksum. SPEC I1-I3.
Light on purpose: the command line imports it.
"""

import base64
import hashlib

PREFIX = "rn1"
HASH_BYTES = 20  # 80 bits against collisions, 160 against a second manifest with the same id
CHECK_CHARS = 4  # 20 bits: one typo in a million goes unnoticed
BODY_CHARS = 32  # 20 bytes in base32, without padding


class BadRunId(ValueError):
    """The text is no run id; the message says what is wrong with it."""


def _checksum(body: str) -> str:
    digest = hashlib.sha256(b"intellectd/1/run-id-check\0" + body.encode()).digest()
    return base64.b32encode(digest).decode().lower()[:CHECK_CHARS]


def from_manifest_hash(manifest_hash: bytes) -> str:
    """The id of the run whose manifest hashes to these 32 bytes."""
    body = base64.b32encode(manifest_hash[:HASH_BYTES]).decode().lower()
    return PREFIX + body + _checksum(body)


def parse(text: str) -> bytes:
    """The 20 hash bytes inside a run id. Raises BadRunId."""
    run_id = text.strip().lower()
    if not run_id.startswith(PREFIX):
        raise BadRunId(f"{text!r} is no run id: one starts with {PREFIX!r}; copy it from `intellectd runs`")
    body, check = run_id[len(PREFIX) : -CHECK_CHARS], run_id[-CHECK_CHARS:]
    if len(body) != BODY_CHARS:
        expected = len(PREFIX) + BODY_CHARS + CHECK_CHARS
        raise BadRunId(f"a run id has {expected} characters, this one {len(run_id)}: part of it is missing or doubled")
    if check != _checksum(body):
        raise BadRunId("the run id's checksum does not match: one of its characters was mistyped")
    try:
        return base64.b32decode(body.upper())
    except ValueError as error:
        raise BadRunId(f"{text!r} is no run id: {error}") from None


def run_key(run_id: str) -> bytes:
    """The public name of a run, 32 bytes: what the DHT, messages and logs carry instead of the secret id."""
    return hashlib.sha256(b"intellectd/1/run-key\0" + parse(run_id)).digest()


def run_secret(run_id: str) -> bytes:
    """What stands in every signature of a message and in the proof of every call, and is never sent: 32 bytes that only
    who knows the id has, though the run key is known to all. SPEC I6."""
    return hashlib.sha256(b"intellectd/1/run-secret\0" + parse(run_id)).digest()
