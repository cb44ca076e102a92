"""A new run on this disk: its owner's key, the signed manifest, the first state, this host's first mark.

Owns that all of it is durable before the run has its name, and nothing is left if it fails. Refuses to know where the
first state comes from.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from intellectd.daemon.atomic import fsync_dir, make_dir, storage_errors
from intellectd.daemon.control import ControlError
from intellectd.daemon.identity import OwnerKey
from intellectd.daemon.logs import get_log
from intellectd.daemon.net import MESSAGE_BYTES_MAX
from intellectd.daemon.runs.host import Host
from intellectd.daemon.store.run_store import RunStore
from intellectd.kernels.layout import Layout
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.head import Head
from intellectd.protocol.ids import encode
from intellectd.protocol.manifest import (
    Manifest,
    Recovery,
    RunConfig,
    SignedManifest,
    Tensor,
    canonical,
    config_of,
    manifest_hash,
    signed_bytes,
)
from intellectd.protocol.seat import first_mark

CREATING = "creating"  # of what folders and trainers are named while the run has no id yet
SIGNED_BYTES = 256  # what a signature, the owner's id and their frames take at most

log = get_log("init")


@dataclass(frozen=True)
class Founded:
    run_id: str
    path: Path
    owner_key_path: Path
    recovery: Recovery

    @property
    def warning(self) -> str:
        """What to back up, and why."""
        if self.recovery.keys:  # made before the run was, so the founder's is none of them
            which = f"{self.recovery.needed} of the {len(self.recovery.keys)} keys that it lists"
            what = f"back up the keys of run.toml's [recovery]: if most voters are lost, {which} recover the run"
        else:
            what = f"back up {self.owner_key_path} somewhere safe: only it can recover the run if most voters are lost"
        return f"{what}. Until a second peer has synced, losing this host loses the run."


def manifest_of(host: Host, config: RunConfig, layout: Layout, digest: bytes) -> Manifest:
    """All but the owner. Raises ControlError."""
    manifest = Manifest(
        version=1,
        config=canonical(config),
        owner=host.identity.peer_id,
        nonce=secrets.token_bytes(32),
        first_voters=[host.identity.peer_id],
        tensors=[Tensor(slot.name, list(slot.shape)) for slot in layout.slots],
        state_digest=digest,
    )
    size = len(encode(manifest)) + SIGNED_BYTES
    if size > MESSAGE_BYTES_MAX:  # nobody could join: a manifest travels in one message
        raise ControlError(
            "too_many_tensors",
            f"the manifest with {len(layout.slots)} tensors has {size} bytes, at most {MESSAGE_BYTES_MAX}",
            "stack some of the tensors",
        )
    return manifest


def write_run(host: Host, draft_name: str, manifest: Manifest, put_state: Callable[[RunStore], None]) -> Founded:
    """In a thread. The folder gets its name last, when all of it is durable; else all of it is removed."""
    keys = host.config.state_dir / "owner-keys"
    make_dir(keys, 0o700)
    draft, building = keys / f".{draft_name}.pem", host.runs_dir / f".{draft_name}"
    made, named = [draft], list[Path]()
    try:
        signed = _sign(OwnerKey.create(draft), manifest)
        run_id = run_ids.from_manifest_hash(manifest_hash(signed.manifest))
        store = RunStore.create(building, signed)
        try:
            put_state(store)
            store.write_vote(first_mark(Head(signed.manifest, run_ids.run_key(run_id), None)))
        finally:
            store.close()
        key_path, path = keys / f"{run_id}.pem", host.runs_dir / run_id
        with storage_errors(key_path):
            os.replace(draft, key_path)
            made.append(key_path)
            fsync_dir(keys)
            os.replace(building, path)
            named.append(path)
            fsync_dir(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # no run without its owner's key: first it loses its name
            for path in named:
                os.replace(path, building)
        shutil.rmtree(building, ignore_errors=True)
        for key in made:
            with contextlib.suppress(OSError):
                key.unlink(missing_ok=True)
        raise
    config = config_of(manifest)
    log.info("run created", name=config.name, tensors=len(manifest.tensors))
    return Founded(run_id, path, key_path, config.recovery)


def _sign(owner: OwnerKey, manifest: Manifest) -> SignedManifest:
    owned = msgspec.structs.replace(manifest, owner=owner.peer_id)
    return SignedManifest(owned, owner.sign(signed_bytes(owned)))
