"""The record that a run's history must contain on this host, kept beside its log (SPEC K14).

Owns that one file. Refuses to judge histories: the node's pin does.
"""

from pathlib import Path

from intellectd.daemon.atomic import storage_errors, write_atomic
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.run_store import RunStore
from intellectd.protocol.manifest import manifest_hash
from intellectd.protocol.records import record_hash

PIN_NAME = "pin"
HASH_DIGITS = 64  # of 32 bytes, in hex


def parse_pin(text: str) -> bytes:
    """Raises ValueError."""
    pin = bytes.fromhex(text)
    if len(text) != HASH_DIGITS:
        raise ValueError(f"{len(text)} characters, not {HASH_DIGITS}")
    return pin


def write_pin(folder: Path, pin: bytes) -> None:
    """Raises StorageError."""
    write_atomic(folder / PIN_NAME, pin.hex().encode())


def read_pin(folder: Path) -> bytes | None:
    """Raises CorruptFile or StorageError: a pin that cannot be read is not taken for none."""
    path = folder / PIN_NAME
    if not path.exists():
        return None
    with storage_errors(path):
        raw = path.read_bytes()
    try:
        return parse_pin(raw.decode("ascii"))
    except ValueError as error:
        remedy = "write the 64 hex digits of the record anew, or remove it"
        raise CorruptFile(f"{path} is damaged: {error}", remedy) from error


def contains(store: RunStore, pin: bytes) -> bool:
    """Does the log on this disk, as far as it goes? It reads all of it."""
    if manifest_hash(store.manifest().manifest) == pin:
        return True
    return any(record_hash(store.entry(round_).record) == pin for round_ in reversed(range(store.length)))
