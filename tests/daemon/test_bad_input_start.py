"""What keeps a daemon from starting: each named, with the next step and an exit code, and nothing overwritten.

`intellectd run` itself, in this process. Where the network does not matter it is the one in memory.
"""

import contextlib
import errno
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from intellectd.daemon import app
from intellectd.daemon.cli.main import main
from intellectd.daemon.lock import StateLock
from intellectd.daemon.memory_bulk import MemoryBulkHub
from intellectd.daemon.memory_net import MemoryHub, open_memory_network
from intellectd.daemon.runs.compute import inline
from tests.daemon.ram import ram_path
from tests.daemon.shell_made import copy_run
from tests.daemon.shell_world import digest_of

__all__ = ["ram_path"]
Patch = pytest.MonkeyPatch
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def state(ram_path: Path) -> Path:
    """The state directory of a host that is in a run."""
    copy_run(ram_path / "state")
    return ram_path / "state"


@pytest.fixture
def run(ram_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """(exit code, what was said on stderr) of `intellectd run` on a state directory."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def start(state: Path, **settings: str) -> tuple[int, str]:
        config = ram_path / "config.toml"
        chosen = {"listen": '["/ip4/127.0.0.1/tcp/0"]', "bulk_listen": '"127.0.0.1:0"', "metrics": '""'}
        chosen |= {"announce": "[]"} | settings
        config.write_text(
            f'state_dir = "{state}"\nsocket = "{ram_path / "socket"}"\ntrainer = "external"\n'
            f"[network]\nlisten = {chosen['listen']}\nbulk_listen = {chosen['bulk_listen']}\n"
            f"announce = {chosen['announce']}\n"
            f"[metrics]\nlisten = {chosen['metrics']}\n"
        )
        code = main(["run", "--config", str(config)])
        return code, capsys.readouterr().err

    yield start
    root.handlers[:], logging.lastResort = before, logging.lastResort
    root.setLevel(level)


@pytest.fixture
def in_memory(monkeypatch: Patch) -> None:
    """Neither libp2p nor TLS, for what fails before either matters."""
    hub, bulk = MemoryHub(), MemoryBulkHub(None)  # nothing here lives long enough to transfer anything

    def open_network(seed: bytes, listen: list[str], announce: list[str], bootstrap: list[str]) -> Any:
        return open_memory_network(hub, seed, listen, announce, bootstrap)

    world = app.World(open_network, lambda peer, network: bulk.engine(peer), inline)
    monkeypatch.setattr(app, "THE_WORLD", world)


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])


def the_run(state: Path) -> Path:
    (found,) = (state / "runs").iterdir()
    return found


# ---- files of a run


@pytest.mark.parametrize("name", ["manifest", "log/records", "log/votes", "snapshots/00000008.safetensors"])
def test_a_damaged_file_of_a_run(name: str, state: Path, run: Run, in_memory: None) -> None:
    path = the_run(state) / name
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    before = digest_of(state / "runs")
    code, said = run(state)
    assert code == 78
    assert path.name in said and "damaged" in said
    assert "restore" in said or "move" in said
    assert digest_of(state / "runs") == before


def test_missing_votes_are_not_made_up(state: Path, run: Run, in_memory: None) -> None:
    path = the_run(state) / "log" / "votes"
    path.unlink()
    code, said = run(state)
    assert code == 78 and f"{path} is missing" in said and "restore" in said
    assert not path.exists()


def test_in_the_journal_no_run_id_is_told(state: Path, run: Run, in_memory: None, monkeypatch: Patch) -> None:
    """Which of the runs it is can be told from the rest of the path."""
    monkeypatch.setenv("JOURNAL_STREAM", "9:123")
    path = the_run(state)
    (path / "log" / "votes").unlink()
    code, said = run(state)
    assert code == 78 and path.name not in said and f"…{path.name[-8:]}/log/votes is missing" in said


def test_something_that_is_no_run_among_the_runs_is_left_alone(state: Path, run: Run, in_memory: None) -> None:
    """It is no reason not to start; a damaged run beside it ends this test."""
    stray = state / "runs" / "lost+found"
    stray.mkdir()
    (stray / "notes").write_text("mine")
    (state / "runs" / "README").write_text("mine too")
    before = digest_of(stray)
    (run_folder,) = [path for path in (state / "runs").iterdir() if path.name.startswith("rn1")]
    (run_folder / "manifest").write_bytes(b"")
    code, said = run(state)
    assert code == 78 and "lost+found" in said and "left alone" in said
    assert digest_of(stray) == before


# ---- files of the host


@pytest.mark.parametrize(
    "body", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"], ids=str
)
def test_a_damaged_identity_key(body: bytes, state: Path, run: Run, in_memory: None) -> None:
    path = state / "identity.key"
    path.write_bytes(body)
    code, said = run(state)
    assert code == 78
    assert f"identity key {path} is no Ed25519 private key" in said and "restore it from a backup" in said
    assert path.read_bytes() == body


@pytest.mark.parametrize("lost", [True, False])
def test_a_new_identity_for_old_runs_is_told(lost: bool, state: Path, run: Run, in_memory: None) -> None:
    """To begin as a new peer is a way out, but nobody should do so for a key that was forgotten in a backup."""
    (the_run(state) / "manifest").write_bytes(b"")  # it ends this test
    if lost:
        (state / "identity.key").unlink()
    code, said = run(state)
    assert code == 78
    assert ("a new peer" in said and f"{state / 'identity.key'}" in said) == lost


def test_an_identity_key_that_others_can_read(state: Path, run: Run, in_memory: None) -> None:
    path = state / "identity.key"
    path.chmod(0o644)
    code, said = run(state)
    assert code == 77 and str(path) in said and "chmod 600" in said


def test_a_second_daemon_on_the_same_state_directory(state: Path, run: Run, in_memory: None) -> None:
    with StateLock(state):
        before = digest_of(state)
        code, said = run(state)
        assert code == 75
        assert f"state directory {state} is in use by the daemon with pid {os.getpid()}" in said
        assert "--state-dir" in said
        assert digest_of(state) == before


def test_a_second_daemon_on_the_same_socket(state: Path, ram_path: Path, run: Run, in_memory: None) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(ram_path / "socket"))
        other.listen()
        code, said = run(state)
    assert code == 75 and "a daemon already answers" in said


# ---- ports


def test_the_control_planes_port_in_use(state: Path, run: Run) -> None:
    with taken_port() as port:
        code, said = run(state, listen=f'["/ip4/127.0.0.1/tcp/{port}"]')
    assert code == 69 and f"/ip4/127.0.0.1/tcp/{port}" in said and "another address" in said


def test_the_bulk_planes_port_in_use(state: Path, run: Run) -> None:
    with taken_port() as port:
        code, said = run(state, bulk_listen=f'"127.0.0.1:{port}"')
    assert code == 69 and f"127.0.0.1:{port}" in said and "network.bulk_listen" in said


def test_the_bulk_planes_address_is_another_hosts(state: Path, run: Run) -> None:
    code, said = run(state, bulk_listen='"203.0.113.1:4002"')
    assert code == 78 and "203.0.113.1:4002" in said and "choose an address of this host" in said


def test_a_metrics_address_of_another_host(state: Path, run: Run, in_memory: None) -> None:
    code, said = run(state, metrics='"203.0.113.1:9477"')
    assert code == 78 and "203.0.113.1:9477" in said and "choose an address of this host" in said


def test_cheap_checks_come_before_heavy_imports(state: Path, ram_path: Path) -> None:
    """Torch and libp2p take seconds. The key is read last, after the lock was taken and the socket found free."""
    (state / "identity.key").write_text("damaged")
    program = (
        "import sys; from intellectd.daemon.cli.main import main; code = main(sys.argv[1:]);"
        "print(code, [name for name in ('torch', 'libp2p') if name in sys.modules])"
    )
    words = ["run", "--state-dir", str(state), "--socket", str(ram_path / "socket")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout == "78 []\n", done.stderr


def test_an_announced_name_that_is_none(state: Path, run: Run) -> None:
    code, said = run(state, announce='["/dns4/xn--a/tcp/4001"]')
    assert code == 78 and "/dns4/xn--a/tcp/4001" in said and "internal" not in said


def test_the_metrics_port_in_use(state: Path, run: Run, in_memory: None) -> None:
    with taken_port() as port:
        code, said = run(state, metrics=f'"127.0.0.1:{port}"')
    assert code == 69 and f"port {port} is in use" in said and "metrics.listen" in said


# ---- disks


def refuse_writes(monkeypatch: Patch, folder: Path, number: int) -> None:
    """As a file system that is mounted read-only (EROFS) or full (ENOSPC); root would not notice mere modes."""
    real = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and isinstance(path, str | os.PathLike) and str(path).startswith(str(folder)):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)


def test_a_read_only_state_directory(state: Path, run: Run, in_memory: None, monkeypatch: Patch) -> None:
    before = digest_of(state)
    refuse_writes(monkeypatch, state, errno.EROFS)
    code, said = run(state)
    monkeypatch.undo()
    assert code == 77
    assert "Read-only file system" in said and str(state) in said and "--state-dir" in said
    assert digest_of(state) == before


def test_runs_on_a_read_only_disk(state: Path, run: Run, in_memory: None, monkeypatch: Patch) -> None:
    before = digest_of(state / "runs")
    refuse_writes(monkeypatch, state / "runs", errno.EROFS)
    code, said = run(state)
    monkeypatch.undo()
    assert code == 77 and "Read-only file system" in said and str(state / "runs") in said
    assert digest_of(state / "runs") == before


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_real_full_disk(ram_path: Path, run: Run, in_memory: None) -> None:
    with small_disk(ram_path / "disk"):
        state = ram_path / "disk" / "state"
        copy_run(state)
        before = digest_of(state / "runs")
        filler = os.open(ram_path / "disk" / "filler", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while os.write(filler, b"x" * 4096):
                pass
        os.close(filler)
        code, said = run(state)
        assert code == 77 and "No space left on device" in said and "free some space" in said
        assert digest_of(state / "runs") == before


def test_a_full_disk_at_the_first_start(ram_path: Path, run: Run, in_memory: None, monkeypatch: Patch) -> None:
    state = ram_path / "new"
    state.mkdir()
    (state / "lock").touch()
    refuse_writes(monkeypatch, state / ".identity", errno.ENOSPC)
    code, said = run(state)
    assert code == 77 and "identity.key" in said and "No space left on device" in said
    assert sorted(path.name for path in state.iterdir()) == ["lock"]


# ---- configuration


def test_a_listen_address_that_is_none(state: Path, run: Run, in_memory: None) -> None:
    code, said = run(state, listen='["/ip4/127.0.0.1/udp/4001"]')
    assert code == 78 and "/ip4/127.0.0.1/udp/4001" in said


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"12D3KooWGRUrbUcLyGE9xKdMmKjDsHmKDqUvDcBkGQBz9rm8vFrE": ["junk", 7, "/ip4/1.2.3.4/tcp/1"], "x": 3}',
        b'{"12D3KooWGRUrbUcLyGE9xKdMmKjDsHmKDqUvDcBkGQBz9rm8vFrE": ["/ip4/0.0.0.0/tcp/0/p2p/12D3KooWother"]}',
        b"\xff" * 100,
        b" " * (3 * 1024 * 1024),
    ],
    ids=["torn", "list", "no-addresses", "no-place", "no-text", "too-long"],
)
def test_remembered_peers_that_are_junk_keep_no_daemon_from_starting(
    body: bytes, state: Path, run: Run, in_memory: None
) -> None:
    """A peer's beacon says where it lives; what it said must not be able to stop our next start."""
    (state / "peers.json").write_bytes(body)
    (the_run(state) / "manifest").write_bytes(b"")  # what ends the start, after the network was opened
    code, said = run(state)
    assert code == 78 and "manifest" in said and "network" not in said
