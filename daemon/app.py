"""The daemon, assembled: one nursery tree from configuration to the last socket. The table of contents.

Owns the order of start and stop, and which failure ends the daemon with which exit code. Nothing else.
"""

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import trio

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.errors import BulkAddressInUse, BulkBadAddress
from intellectd.daemon.bulk.interface import BulkEngine
from intellectd.daemon.bulk.pace import Pace
from intellectd.daemon.config import Config, NetworkConfig
from intellectd.daemon.config_values import UNDIALLABLE
from intellectd.daemon.control import ControlServer
from intellectd.daemon.errors import EXIT_CONFIG, EXIT_UNAVAILABLE, OperatorError, leaves
from intellectd.daemon.identity import Identity
from intellectd.daemon.logs import get_log
from intellectd.daemon.metrics import Metrics
from intellectd.daemon.metrics_http import MetricsServer
from intellectd.daemon.net import AddressInUse, BadAddress, Network
from intellectd.daemon.notify import Notifier
from intellectd.daemon.p2p.host import open_network
from intellectd.daemon.runs.compute import RunsWork, in_thread
from intellectd.daemon.runs.headline import headline
from intellectd.daemon.runs.host import Host
from intellectd.daemon.runs.known_peers import remembered_addresses
from intellectd.daemon.runs.operations import Operations
from intellectd.daemon.runs.registry import Registry
from intellectd.daemon.runs.service import RunService
from intellectd.daemon.runs.status import ails, hangs
from intellectd.kernels import ops

log = get_log("daemon")


class PortInUse(OperatorError):
    exit_code = EXIT_UNAVAILABLE


class BadListenAddress(OperatorError):
    exit_code = EXIT_CONFIG


@dataclass(frozen=True)
class World:
    """What a daemon is connected to: the internet and threads, or in tests the twins in memory."""

    open_network: Callable[[bytes, list[str], list[str], list[str]], AbstractAsyncContextManager[Network]]
    open_bulk: Callable[[str, NetworkConfig], BulkEngine]
    runner: RunsWork


def open_engine(peer_id: str, network: NetworkConfig) -> Engine:
    """Raises what Engine does."""
    pace = Pace(network.upload_mbit, network.download_mbit, network.serve_percent)
    announce = None if network.bulk_announce == UNDIALLABLE else network.bulk_announce
    return Engine(peer_id, network.bulk_listen, announce, pace=pace, near=True)


THE_WORLD = World(open_network, open_engine, in_thread)


def main(config: Config, identity: Identity) -> int:
    """Run until SIGTERM, SIGINT or `shutdown`. Raises OperatorError with the exit code."""
    try:
        trio.run(_until_signal, config, identity)
    except Exception as error:  # no `except*`: before Python 3.11.4 what that raises is a group again
        told = _for_the_operator(error)
        if told is None:
            raise
        raise told from None
    return 0


def _for_the_operator(error: Exception) -> OperatorError | None:
    for leaf in leaves(error):
        match leaf:
            case OperatorError():
                return leaf
            case AddressInUse():
                return PortInUse(str(leaf))
            case BulkAddressInUse():
                return PortInUse(str(leaf), "stop the other program, or set another network.bulk_listen")
            case BadAddress() | BulkBadAddress():
                hint = "correct [network] in the configuration: a daemon listens on addresses of its own host"
                return BadListenAddress(str(leaf), hint)
    return None


async def _until_signal(config: Config, identity: Identity) -> None:
    stop = trio.Event()

    async def listen(task_status: Any) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                if stop.is_set():
                    nursery.cancel_scope.cancel()  # asked twice: not even the words of farewell
                stop.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        await run_daemon(config, identity, THE_WORLD, stop)
        nursery.cancel_scope.cancel()


async def run_daemon(
    config: Config, identity: Identity, world: World, stop: trio.Event, task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    """From the first socket to the last; returns when `stop` is set and all runs have ended."""
    notifier, metrics = Notifier(), Metrics()
    started_at = trio.current_time()
    async with AsyncExitStack() as stack:
        engine = world.open_bulk(identity.peer_id, config.network)
        stack.push_async_callback(_close, world, engine)
        network = await stack.enter_async_context(
            world.open_network(
                identity.seed,
                list(config.network.listen),
                list(config.network.announce),
                [*config.network.bootstrap, *remembered_addresses(config.state_dir)],
            )
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        host = Host(config, identity, network, engine, metrics, nursery, world.runner)
        registry = Registry(host)
        operations = Operations(registry, started_at, stop)
        notifier.status("reading the runs on disk")
        with notifier.more_time(nursery):  # a log is verified and a state read whole
            await registry.open_all()  # before anybody can ask for a run that is still being read
        control = ControlServer(config.socket, operations.handlers(), registry.attach)
        await nursery.start(control.serve)
        if config.metrics.listen:
            health = lambda: _judge(registry, ails)  # noqa: E731
            await nursery.start(MetricsServer(config.metrics.listen, metrics.text, health).serve)
        metrics.build_info(version("intellectd"), ops.implementation())
        registry.start_all()
        nursery.start_soon(notifier.watchdog, lambda: _judge(registry, hangs)[0])
        _announce(config, host, notifier)
        nursery.start_soon(notifier.report, lambda: headline(registry.runs.values()))
        task_status.started(registry)
        await stop.wait()
        notifier.stopping()
        log.info("stopping")
        with notifier.more_time(nursery):  # a snapshot that is being written is finished
            await registry.stop_all()
        nursery.cancel_scope.cancel()


async def _close(world: World, engine: BulkEngine) -> None:
    with trio.CancelScope(shield=True):  # it joins its threads, within seconds
        await world.runner(engine.close)


def _announce(config: Config, host: Host, notifier: Notifier) -> None:
    addresses = host.network.addresses()
    notifier.ready(f"peer {host.identity.peer_id}")
    log.info(
        "ready",
        peer=host.identity.peer_id,
        addresses=" ".join(addresses),
        bulk=host.bulk.endpoint.address,
        socket=str(config.socket),
        state=str(config.state_dir),
        kernels=ops.implementation(),
    )
    if ops.implementation() != "native":
        log.warning("slow kernels in use", reason=ops.reason())


def _judge(registry: Registry, complaint: Callable[[RunService], str]) -> tuple[bool, str]:
    """/healthz asks what ails; the watchdog only what hangs: no restart brings missing voters back."""
    found = [text for service in registry.runs.values() if (text := complaint(service))]
    return not found, "; ".join(found) or "ok"
