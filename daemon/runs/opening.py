"""A run from its folder: manifest, log, votes and state, each checked before it is believed.

Owns which check stands for which file. Reads a whole state and verifies a whole log, so it runs in a thread;
refuses to change anything on the way. A damaged file is an error that names it, never a new beginning.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from intellectd.daemon.atomic import storage_errors
from intellectd.daemon.identity import Identity
from intellectd.daemon.runs.crypto import Ed25519Crypto
from intellectd.daemon.runs.history import History, load_history
from intellectd.daemon.runs.outer_state import OuterState
from intellectd.daemon.runs.pinning import read_pin
from intellectd.daemon.runs.verify_log import check_manifest, verified
from intellectd.daemon.store.budget import KEEP_FEW, Retention
from intellectd.daemon.store.entries import Entries
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.log_files import remedy_for
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.store.snapshot import damaged, read_snapshot
from intellectd.kernels.layout import Layout, TensorSpec
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.effects import PersistVote
from intellectd.protocol.ids import encode
from intellectd.protocol.manifest import BadManifest, Manifest
from intellectd.protocol.records import Entry

NO_STATE = -2  # as in Beacon.applied


@dataclass(frozen=True)
class Opened:
    run_id: str
    store: RunStore
    manifest: Manifest
    manifest_bytes: bytes  # signed, for peers that join
    entries: Sequence[Entry]  # verified; read from the disk, one by one
    vote: PersistVote | None  # the newest
    votes: tuple[PersistVote, ...]  # the newest of each line of history
    state: OuterState
    applied: int  # the round whose state is loaded
    digest: bytes | None
    held_updates: tuple[bytes, ...]
    incarnation: int
    history: History
    pin: bytes | None  # the record that this host's history must contain
    written_at: float | None  # of the state that is loaded, seconds since 1970


def open_run(path: Path, identity: Identity, retention: Retention = KEEP_FEW) -> Opened:
    """Raises CorruptFile or StorageError."""
    with storage_errors(path):
        return _open_run(path, identity, retention)


def _open_run(path: Path, identity: Identity, retention: Retention) -> Opened:
    store = RunStore(path)
    store.retention = retention
    try:
        signed = store.manifest()
        try:
            check_manifest(path.name, signed)
        except BadManifest as error:
            raise CorruptFile(f"{store.manifest_path} is damaged: {error}", remedy_for(path)) from error
        manifest = signed.manifest
        # A crypto of its own: this is another thread than that of the host's.
        crypto = Ed25519Crypto(identity, run_ids.run_secret(path.name))
        for _entry in verified(store, manifest, run_ids.run_key(path.name), crypto):
            pass
        entries = Entries(store)
        state = OuterState(layout_of(manifest))
        applied, digest = _load_state(store, manifest, state, entries)
        store.prune()
        store.forget_arrived(applied)
        return Opened(
            path.name,
            store,
            manifest,
            encode(signed),
            entries,
            store.vote(),
            tuple(store.votes().values()),
            state,
            applied,
            digest,
            store.updates.held(),
            store.next_incarnation(int(time.time() * 1000)),
            load_history(path),
            read_pin(path),
            store.snapshot_path(applied).stat().st_mtime if applied != NO_STATE else None,
        )
    except BaseException:
        store.close()
        raise


def layout_of(manifest: Manifest) -> Layout:
    return Layout([TensorSpec(t.name, tuple(t.shape)) for t in manifest.tensors])


def _load_state(
    store: RunStore, manifest: Manifest, state: OuterState, entries: Sequence[Entry]
) -> tuple[int, bytes | None]:
    """The newest snapshot that the log reaches, checked against the log where that proves it."""
    for round_ in reversed(store.reached_snapshots()):
        path = store.snapshot_path(round_)
        snapshot = read_snapshot(path, state.layout.elements, round_)
        proven = manifest.state_digest if round_ == 0 else None
        if 0 < round_ < len(entries) - 1:
            proven = entries[round_ + 1].record.state_digest
        if proven is not None and proven != snapshot.digest:
            if round_ > 0 and entries[round_ + 1].record.generation != entries[round_].record.generation:
                continue  # a branch says otherwise, by the word of one: no disk is to blame, an older state serves
            raise damaged(path, "it is not the state that the log proves")
        state.install(snapshot.state.theta, snapshot.state.momentum)
        return (round_ if round_ > 0 else -1), snapshot.digest
    return NO_STATE, None
