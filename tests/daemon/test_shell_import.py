"""`checkpoint import` in whole daemons: a run that begins with a checkpoint's parameters, and a host that joins it."""

import errno
import json
from pathlib import Path

import pytest
import torch
import trio
import trio.testing

from intellectd.daemon import import_hf
from intellectd.daemon.atomic import StorageReadOnly
from intellectd.daemon.export_files import foothold
from intellectd.daemon.export_hf import export_hf
from intellectd.daemon.import_hf import llama_layout
from intellectd.daemon.runs import importing
from intellectd.daemon.runs.host import Host as RunHost
from intellectd.kernels.layout import TensorSpec
from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import Host, shell
from tests.daemon.test_init_join import nothing_is_left
from tests.daemon.test_shell_swarm import finish_alike, refusal

Clock = trio.testing.MockClock
MODEL = {
    "kind": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 40,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "context": 16,
    "tie_embeddings": True,
    "rope_theta": 5000.0,
}
LAYOUT = llama_layout(MODEL)
TENSORS = tuple(TensorSpec(slot.name, slot.shape) for slot in LAYOUT.slots)
TOML = """
name = "goes-on"
[inner]
steps = 4
[swarm]
start_peers = {start_peers}
[timers]
attempt_s = 4.0
stall_s = 4.0
[until]
rounds = 3
"""


def checkpoint(folder: Path) -> torch.Tensor:
    theta = torch.zeros(LAYOUT.elements)
    for number, slot in enumerate(LAYOUT.slots):
        theta[slot.offset : slot.offset + slot.size] = torch.linspace(-0.5, 0.5, slot.size) + number / 64
    export_hf(theta, LAYOUT, MODEL, folder)
    return theta


def _host_of(host: Host) -> RunHost:
    assert host.registry is not None
    return host.registry.host


async def take_in(host: Host, folder: Path, start_peers: int = 1) -> str:
    fields = {"path": str(folder), "seen": list(foothold(folder))}
    answer = await host.ask("import", toml=TOML.format(start_peers=start_peers), **fields)
    assert answer["join_line"] and Path(answer["owner_key_path"]).exists()
    return str(answer["run_id"])


async def test_a_run_begins_with_it_and_a_joiner_fetches_it_from_its_peer(autojump_clock: Clock) -> None:
    async with shell() as world:
        theta = checkpoint(world.folder / "checkpoint")
        first = await world.host("a", trainer=FakeTrainer("a", tensors=TENSORS))
        run_id = await take_in(first, world.folder / "checkpoint", start_peers=2)
        service = world.service(first)
        assert service.state.theta is not None and torch.equal(service.state.theta, theta)
        second = await world.host("b", first, trainer=FakeTrainer("b", tensors=TENSORS))
        await second.ask("join", run_id=run_id, peers=[first.address])
        await second.wait("synced")
        joined = world.service(second)
        assert joined.state.theta is not None and torch.equal(joined.state.theta, theta)
        assert joined.store.manifest().manifest.state_digest == service.store.manifest().manifest.state_digest
        status = await finish_alike([first, second], 3)
        assert status["state_digest"] != service.store.manifest().manifest.state_digest.hex()
        assert (await first.ask("status"))["founding"] is None


async def test_a_restart_finds_what_was_imported(autojump_clock: Clock) -> None:
    async with shell() as world:
        theta = checkpoint(world.folder / "checkpoint")
        host = await world.host("a", trainer=FakeTrainer("a", tensors=TENSORS))
        await take_in(host, world.folder / "checkpoint", start_peers=2)
        await host.kill()
        await host.start()
        found = world.service(host).state.theta
        assert found is not None and torch.equal(found, theta)


async def test_who_hangs_up_ends_the_reading(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shell() as world:
        folder = world.folder / "checkpoint"
        checkpoint(folder)
        host = await world.host("a", trainer=None)
        monkeypatch.setattr(import_hf, "PIECE_ELEMENTS", 256)
        made = importing.Importing(_host_of(host), {"name": "x"}, str(folder), None)
        with trio.CancelScope() as scope:
            real = made._check

            def check() -> None:
                assert made._state is not None
                if made._state.done_bytes > 5000:
                    scope.cancel()
                    made._given_up = True  # as the watcher says in threads; here there are none
                real()

            monkeypatch.setattr(made, "_check", check)
            await made.found()
        assert scope.cancelled_caught and made._state is not None and made._state.done_bytes < made._state.theta_bytes
        assert made.plain() == {"name": "x", "imported_bytes": 5120, "import_bytes": 4 * LAYOUT.elements}
        nothing_is_left(host)


async def test_what_cannot_be_imported_leaves_nothing(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shell() as world:
        folder = world.folder / "checkpoint"
        checkpoint(folder)
        host = await world.host("a", trainer=None)
        toml = TOML.format(start_peers=1)
        error = await refusal(host, "import", toml=toml, path=str(folder), seen=["/", 1, 1])
        assert error.code == "import" and f"the daemon does not see {folder}" in error.message
        assert str(host.state) in error.hint
        error = await refusal(host, "import", toml=toml, path="checkpoint")
        assert error.code == "import" and "no absolute path" in error.message
        error = await refusal(host, "import", toml="name = 7", path=str(folder))
        assert error.code == "bad_config" and "name" in error.message
        error = await refusal(host, "import", toml="name = ", path=str(folder))
        assert error.code == "bad_config" and "no TOML" in error.message
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
        error = await refusal(host, "import", toml=toml, path=str(folder))
        assert error.code == "import" and "are missing" in error.message
        (folder / "config.json").write_text(json.dumps(config))
        nothing_is_left(host)

        def full(*_of: object) -> None:
            raise importing.CheckpointError("the disk of the checkpoint failed half-way", "")

        with monkeypatch.context() as broken:
            broken.setattr(importing, "write_state", full)
            error = await refusal(host, "import", toml=toml, path=str(folder))
        assert "half-way" in error.message
        nothing_is_left(host)
        await take_in(host, folder)  # and the next one works


async def test_a_disk_that_refuses_even_the_deletion_is_named_by_its_first_word(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It turned read-only while the checkpoint was copied; what is left there goes with the next start."""
    async with shell() as world:
        folder = world.folder / "checkpoint"
        checkpoint(folder)
        host = await world.host("a", trainer=None)
        real = Path.unlink

        def refused(path: Path, missing_ok: bool = False) -> None:
            if path.suffix == ".state":
                raise OSError(errno.EROFS, "Read-only file system")
            real(path, missing_ok)

        def half_way(*_of: object) -> None:
            raise StorageReadOnly("cannot write the state: Read-only file system", "make the disk writable")

        with monkeypatch.context() as broken:
            broken.setattr(importing, "write_state", half_way)
            broken.setattr(Path, "unlink", refused)
            error = await refusal(host, "import", toml=TOML.format(start_peers=1), path=str(folder))
        assert (error.code, error.message) == ("failed", "cannot write the state: Read-only file system")
        assert error.hint == "make the disk writable"
        await host.end()
        await host.start()
        nothing_is_left(host)
