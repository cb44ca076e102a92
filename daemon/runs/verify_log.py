"""Replays the checks of the whole log, offline: manifest, chain, blobs, certificates. Owns nothing; light."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from intellectd.daemon.identity import verify
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.log_files import remedy_for
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.head import Head
from intellectd.protocol.manifest import BadManifest, Manifest, SignedManifest, manifest_hash, signed_bytes
from intellectd.protocol.port import Crypto
from intellectd.protocol.records import BadRecord, Entry, check_entry

if TYPE_CHECKING:
    from intellectd.daemon.store.run_store import RunStore


def verify_log(store: "RunStore", manifest: Manifest, run: bytes, crypto: Crypto) -> list[Entry]:
    """All of `verified`, in memory."""
    return list(verified(store, manifest, run, crypto))


def verified(store: "RunStore", manifest: Manifest, run: bytes, crypto: Crypto) -> Iterator[Entry]:
    """Every entry from the opening to the head, each checked against the one before, and kept no longer: of 64 members
    one has 57 kB decoded. Raises CorruptFile."""
    head = Head(manifest, run, None)
    for index in range(store.length):
        entry = store.entry(index)
        try:
            check_entry(head, entry, crypto)
        except BadRecord as error:
            raise CorruptFile(
                f"record {index} in {store.path / 'log'} is not valid: {error}; it was left as it is",
                remedy_for(store.path),
            ) from error
        head = head.next(entry)
        yield entry


def check_manifest(run_id: str, signed: SignedManifest) -> None:
    """The manifest that this id names, signed by its owner. Raises BadManifest."""
    if run_ids.from_manifest_hash(manifest_hash(signed.manifest)) != run_id:
        raise BadManifest("it is the manifest of another run")
    if not verify(signed.manifest.owner, signed_bytes(signed.manifest), signed.signature):
        raise BadManifest("the owner's signature on the manifest is false")
