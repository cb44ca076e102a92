"""Replays the checks of the whole log, offline: chain, blobs, certificates. Owns nothing; reads one store."""

from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.run_store import RunStore
from intellectd.protocol.manifest import Manifest
from intellectd.protocol.port import Crypto
from intellectd.protocol.records import BadRecord, Entry, Head, check_entry


def verify_log(store: RunStore, manifest: Manifest, run: bytes, crypto: Crypto) -> list[Entry]:
    """Every entry from the opening to the head, each checked against the one before. Raises CorruptFile."""
    head = Head(manifest, run, None)
    entries = store.entries()
    for index, entry in enumerate(entries):
        try:
            check_entry(head, entry, crypto)
        except BadRecord as error:
            raise CorruptFile(
                f"record {index} in {store.path / 'log'} is not valid: {error}; it was left as it is",
                f"restore {store.path} from a backup, or move it away and `intellectd join` again",
            ) from error
        head = head.next(entry)
    return entries
