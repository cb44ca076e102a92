"""`checkpoint import`: a new run whose first state is a checkpoint's. Its digest stands in the manifest, and so in the
run's id; whoever joins fetches it from this host as any snapshot.

Owns the order: everything that can be refused is, before gigabytes are read; nothing is kept if it fails.
"""

import contextlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import trio

from intellectd.daemon.checkpoint_folder import CheckpointError, Stored, read_config, read_tensors
from intellectd.daemon.control import ControlError
from intellectd.daemon.export_files import CONFIG, Foothold, is_same
from intellectd.daemon.import_hf import check_tensors, folder_of, llama_layout, llama_table, write_state
from intellectd.daemon.runs.host import Host
from intellectd.daemon.runs.new_run import CREATING, Founded, manifest_of, write_run
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.store.snapshot import check_room, snapshot_bytes
from intellectd.daemon.store.state_file import StateFile
from intellectd.kernels.layout import Layout, LayoutError
from intellectd.protocol.manifest import BadManifest, RunConfig, config_from_toml, plain

T = TypeVar("T")


class GivenUp(Exception):
    """Who asked for it has gone."""


class Importing:
    def __init__(self, host: Host, said: Mapping[str, Any], path: str, seen: Foothold | None) -> None:
        """`said`: what run.toml says, of which the model may be left out. Raises nothing; `found` does."""
        self._host, self._said, self._path, self._seen = host, said, path, seen
        self._given_up = False
        self._state: StateFile | None = None
        self._draft = f"{CREATING}-{secrets.token_hex(8)}"
        self.name = str(said.get("name", "-"))

    async def found(self) -> Founded:
        """Raises ControlError or StorageError."""
        temporary = self._host.runs_dir / f".{self._draft}.state"
        try:
            config, layout, digest = await self._while_wanted(lambda: self._read(temporary))
            with trio.CancelScope(shield=True):  # whole or not at all
                founded: Founded = await self._host.runner(lambda: self._write(config, layout, digest, temporary))
            return founded
        finally:
            with contextlib.suppress(OSError):  # the disk has said so already; the next start deletes it
                temporary.unlink(missing_ok=True)

    def plain(self) -> dict[str, Any]:
        """For `status`, and for who waits."""
        state = self._state
        done, total = (state.done_bytes, state.theta_bytes) if state is not None else (0, 0)
        return {"name": self.name, "imported_bytes": done, "import_bytes": total}

    async def _while_wanted(self, work: Callable[[], T]) -> T:
        """The thread is not abandoned when nobody waits any more: it leaves between two pieces."""
        done: list[T] = []
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            try:
                done.append(await self._host.runner(work))
            except Exception as error:  # raised below, outside of the nursery, which would wrap it
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            await trio.lowlevel.checkpoint_if_cancelled()  # of a GivenUp that is the reason
            raise failure
        return done[0]

    async def _watch(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._given_up = True

    def _read(self, temporary: Path) -> tuple[RunConfig, Layout, bytes]:
        """In a thread."""
        try:
            folder = folder_of(self._path)
            if self._seen is not None and not is_same(self._seen):
                raise CheckpointError(
                    f"the daemon does not see {folder}: it runs in a sandbox, or on another file system",
                    f"copy the checkpoint to {self._host.config.state_dir}, or where else the daemon may read",
                )
            config = run_config(self._said, llama_table(read_config(folder)))
            layout = llama_layout(_model(config))
            tensors = read_tensors(folder)
            check_tensors(tensors, layout)
            manifest_of(self._host, config, layout, bytes(32))  # before gigabytes are read: does it fit a message?
            check_room(temporary.parent, snapshot_bytes(layout.elements), 0)
            return config, layout, self._copy(tensors, layout, temporary)
        except CheckpointError as error:
            raise ControlError("import", error.message, error.hint) from error
        except (BadManifest, LayoutError) as error:
            raise ControlError("bad_config", str(error), getattr(error, "hint", "")) from error

    def _copy(self, tensors: Mapping[str, Stored], layout: Layout, temporary: Path) -> bytes:
        state = self._state = StateFile(temporary, layout.elements)
        with contextlib.closing(state):
            write_state(tensors, layout, state, self._check)
            return state.finish()

    def _check(self) -> None:
        if self._given_up:
            raise GivenUp

    def _write(self, config: RunConfig, layout: Layout, digest: bytes, state: Path) -> Founded:
        def put(store: RunStore) -> None:
            store.take_snapshot(state, 0)

        return write_run(self._host, self._draft, manifest_of(self._host, config, layout, digest), put)


def run_config(said: Mapping[str, Any], table: Mapping[str, Any]) -> RunConfig:
    """What run.toml says, with the checkpoint's model; what it says of the model itself must agree, but that a run may
    train on shorter texts. Raises CheckpointError or BadManifest."""
    model = said.get("model", {})
    if not isinstance(model, dict):
        raise BadManifest("`model` must be a table", "leave it out: the checkpoint says what it is")
    for key, value in model.items():
        shorter = key == "context" and type(value) is int and 0 < value <= table["context"]
        if key in table and value != table[key] and not shorter:
            raise CheckpointError(
                f"run.toml says model.{key} = {value!r:.80}, the checkpoint's {CONFIG} {table[key]!r:.80}",
                f"leave model.{key} out of run.toml: the checkpoint says what it is",
            )
    return config_from_toml({**said, "model": {**table, **model}})


def _model(config: RunConfig) -> Mapping[str, Any]:
    model: Mapping[str, Any] = plain(config)["model"]
    return model
