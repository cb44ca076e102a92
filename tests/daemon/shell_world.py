"""Whole daemons of one test, on trio's jumping clock: the real app, stores, control socket and trainer link.

Only the internet (libp2p, TLS) and threads are replaced, by the in-memory twins. A host may be killed, started again
on its own disk, and asked through its control socket as the command line would.
"""

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
import trio

from intellectd.daemon.app import World, run_daemon
from intellectd.daemon.config import Config, LogConfig, MetricsConfig, NetworkConfig
from intellectd.daemon.control import recv_frame, send_frame
from intellectd.daemon.identity import Identity
from intellectd.daemon.lock import StateLock
from intellectd.daemon.memory_bulk import MemoryBulkHub
from intellectd.daemon.memory_net import MemoryHub, open_memory_network
from intellectd.daemon.runs.compute import inline
from intellectd.daemon.runs.registry import Registry
from intellectd.daemon.runs.service import RunService
from tests.daemon.ram import ram_folder
from tests.daemon.shell_trainer import FakeTrainer

PATIENCE_S = 600.0  # of the jumping clock: nothing waits this long unless the test fails
RUN_TOML = """
name = "shell"
seed = 7
[model]
kind = "external"
[inner]
steps = 4
[swarm]
start_peers = {start_peers}
[timers]
attempt_s = 4.0
stall_s = 4.0
[until]
rounds = {rounds}
"""


class Refused(Exception):
    """The control socket's answer was no."""

    def __init__(self, error: dict[str, str]) -> None:
        super().__init__(f"{error['code']}: {error['message']} | {error['hint']}")
        self.code, self.message, self.hint = error["code"], error["message"], error["hint"]


class Host:
    """One state directory, and the daemon that runs on it now, if any."""

    def __init__(self, shell: "Shell", name: str, bootstrap: list[str], trainer: FakeTrainer | None) -> None:
        self.shell, self.name, self.bootstrap = shell, name, bootstrap
        self.state = shell.folder / name
        self.trainer = trainer
        self.failure: BaseException | None = None
        self.ended = trio.Event()
        self.registry: Registry | None = None
        self._ready = trio.Event()
        self.peer = ""
        self._scope = trio.CancelScope()
        self.stop = trio.Event()
        self.patience_s = PATIENCE_S
        self.trainer_setting: str | tuple[str, ...] = "external"
        self.life = 0

    @property
    def config(self) -> Config:
        listen = (f"/ip4/127.0.0.1/tcp/{self.shell.port_of(self.name)}",)
        network = NetworkConfig(listen, (), "127.0.0.1:0", "", tuple(self.bootstrap))
        return Config(
            state_dir=self.state,
            socket=self.state / "socket",
            trainer=self.trainer_setting,
            trainer_threads=0,
            evaluate=True,
            network=network,
            data={},
            metrics=MetricsConfig(""),
            log=LogConfig("human", "info"),
        )

    @property
    def services(self) -> dict[str, RunService]:
        assert self.registry is not None
        return self.registry.runs

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.shell.port_of(self.name)}/p2p/{self.peer}"

    async def start(self) -> None:
        """Until it answers on its socket; what keeps it from that is raised here."""
        self.failure, self.ended, self.stop, self._scope = None, trio.Event(), trio.Event(), trio.CancelScope()
        self._ready = trio.Event()
        self.life += 1
        self.shell.nursery.start_soon(self._live)
        await self._ready.wait()
        if self.failure is not None:
            raise self.failure
        if self.trainer is not None:
            self.trainer.serve(self.shell.nursery, self.config.socket)

    async def kill(self) -> None:
        """As SIGKILL does it: nothing is said to anybody, nothing is written."""
        self.shell.net.kill(self.peer)
        self.shell.bulk.kill(self.peer)
        assert self.registry is not None
        self.registry.host.known._saved = True  # the dead do not write their peers down
        self._scope.cancel()
        await self.ended.wait()
        if self.trainer is not None:
            await self.trainer.end()

    async def end(self) -> None:
        """As SIGTERM does it."""
        self.stop.set()
        await self.ended.wait()
        if self.trainer is not None:
            await self.trainer.end()

    async def died(self) -> BaseException:
        """What ended it, once it has."""
        with trio.fail_after(PATIENCE_S):
            await self.ended.wait()
        if self.trainer is not None:
            await self.trainer.end()
        assert self.failure is not None, f"{self.name} ended as if it had been asked to"
        return self.failure

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        with sock, trio.fail_after(self.patience_s):
            await sock.connect(str(self.config.socket))
            await send_frame(sock, {"op": op, "version": 1, **fields})
            answer = await recv_frame(sock)
        if not answer["ok"]:
            raise Refused(answer["error"])
        return answer

    async def status(self) -> dict[str, Any]:
        runs: list[dict[str, Any]] = (await self.ask("status"))["runs"]
        return runs[0]

    async def init(self, start_peers: int = 1, rounds: int = 1000, toml: str = "") -> str:
        text = toml or RUN_TOML.format(start_peers=start_peers, rounds=rounds)
        answer = await self.ask("init", toml=text)
        return str(answer["run_id"])

    async def wait(self, goal: str, run_id: str = "") -> dict[str, Any]:
        answer = await self.ask("wait", **{"run_id": run_id, "for": goal, "timeout_s": PATIENCE_S / 2})
        assert answer["reached"], f"{self.name} never {goal}: {answer['run']}"
        run: dict[str, Any] = answer["run"]
        return run

    async def until(self, happened: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """A condition on the status that `wait` has no word for."""
        with trio.fail_after(PATIENCE_S):
            while True:
                status = await self.status()
                if happened(status):
                    return status
                await trio.sleep(0.5)

    async def _live(self) -> None:
        try:
            with self._scope, StateLock(self.state):
                identity = Identity.load_or_create(self.config.identity_path)
                self.peer = identity.peer_id
                async with trio.open_nursery() as nursery:
                    self.registry = await nursery.start(run_daemon, self.config, identity, self.shell.world, self.stop)
                    self._ready.set()
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, trio.Cancelled):
                raise
            self.failure = error
        finally:
            self.ended.set()
            self._ready.set()


class Shell:
    """Made by `shell`."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder, self.nursery = folder, nursery
        self.net = MemoryHub()
        self.bulk = MemoryBulkHub(nursery)
        self.hosts: dict[str, Host] = {}
        self.world = World(self._open_network, lambda peer, network: self.bulk.engine(peer), inline)
        self.open_network: Callable[..., Any] = open_memory_network  # of the hosts that start from now on
        self._ports: dict[str, int] = {}
        self._numbers = itertools.count(30001)

    def port_of(self, name: str) -> int:
        return self._ports.setdefault(name, next(self._numbers))

    async def host(self, name: str, knows: Host | None = None, trainer: FakeTrainer | None = None) -> Host:
        """A new host that has started."""
        host = self.hosts[name] = Host(self, name, [knows.address] if knows else [], trainer or FakeTrainer(name))
        host.state.mkdir(mode=0o700, exist_ok=True)
        await host.start()
        return host

    def service(self, host: Host) -> RunService:
        """The one run of a host, from the inside."""
        return next(iter(host.services.values()))

    def _open_network(self, seed: bytes, listen: list[str], announce: list[str], bootstrap: list[str]) -> Any:
        return self.open_network(self.net, seed, listen, announce, bootstrap)


@asynccontextmanager
async def shell() -> AsyncIterator[Shell]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # vectors this small only lose by more
    try:
        with ram_folder() as folder:
            async with trio.open_nursery() as nursery:
                made = Shell(folder, nursery)
                try:
                    yield made
                except BaseException as error:
                    for host in made.hosts.values():
                        if host.failure is not None:
                            error.add_note(f"{host.name} had failed: {host.failure!r}")
                    raise
                finally:
                    nursery.cancel_scope.cancel()
    finally:
        torch.set_num_threads(threads)


def digest_of(path: Path) -> str:
    """Of a file or of a whole folder: to see that nothing was touched."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        whole.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return whole.hexdigest()
