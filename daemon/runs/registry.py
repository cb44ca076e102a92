"""The runs of this host: opened at start, made by `init` and `join`, ended by `leave`.

Owns which runs exist, and which of them a trainer means. Refuses to know what runs do.
"""

import shutil
from pathlib import Path
from typing import Any

import trio

from intellectd.daemon.atomic import StorageError, make_dir, storage_errors
from intellectd.daemon.attach_request import AttachRequest, read_request
from intellectd.daemon.control import ControlError
from intellectd.daemon.errors import OperatorError
from intellectd.daemon.export_files import SPOOLS
from intellectd.daemon.logs import get_log, log_if_changed
from intellectd.daemon.net import NetworkError
from intellectd.daemon.p2p.limits import KEYS_ANNOUNCED_MAX
from intellectd.daemon.runs.answers import Answers
from intellectd.daemon.runs.founding import Founding
from intellectd.daemon.runs.host import Host
from intellectd.daemon.runs.importing import Importing
from intellectd.daemon.runs.joining import DIAL_S, JOINING, join
from intellectd.daemon.runs.leaving import Parting, move_folder, put_aside, take_up
from intellectd.daemon.runs.new_run import CREATING, Founded
from intellectd.daemon.runs.pinning import contains, write_pin
from intellectd.daemon.runs.service import RunService, open_service
from intellectd.daemon.store.run_store import RunStore
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.manifest import RunConfig

RUNS_MAX = KEYS_ANNOUNCED_MAX  # on one host: its peers find each by a key of its own in the directory
LEAVE_S_MAX = 45.0  # of waiting in one question; who wants to wait longer asks again
PUT_ASIDE_AGAIN_S = 20.0  # after a disk refused: twice in one question
LEFT_REMEMBERED_MAX = 64  # runs left in one life of a daemon, for who asks again

log = get_log("runs")


class Registry:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.runs: dict[str, RunService] = {}
        self.founding: Founding | None = None
        self.importing: Importing | None = None
        self._joining: dict[str, trio.Event] = {}
        self._leaving: dict[str, Parting] = {}
        self._left: dict[str, Parting] = {}  # the newest of each, whether it was joined again or not
        make_dir(host.runs_dir, 0o700)
        Answers(host, self.runs)

    # ---- life of runs

    async def open_all(self) -> None:
        """Every run on disk. Raises CorruptFile: a damaged run stops the daemon rather than be overwritten."""
        for path in await self.host.runner(self._on_disk):
            self.runs[path.name] = await open_service(self.host, path)

    def start_all(self) -> None:
        for service in list(self.runs.values()):
            self._start(service)
            if service.store.is_leaving:
                self._begin_leaving(service)  # a restart came between

    async def stop_all(self) -> None:
        for service in self.runs.values():
            service.stop()
        for service in list(self.runs.values()):
            await service.ended.wait()

    def _on_disk(self) -> list[Path]:
        found = []
        with storage_errors(self.host.runs_dir):
            paths = sorted(self.host.runs_dir.iterdir())
            drafts = sorted((self.host.config.state_dir / "owner-keys").glob(f".{CREATING}-*"))
        for path in [*paths, *drafts]:
            if path.name.startswith((f".{CREATING}-", f".{JOINING}-")):
                remove(path)  # a creation or join that a crash cut short
            elif not path.is_dir() or not _is_run_id(path.name):
                log.warning("something that is no run lies among the runs; it is left alone", path=str(path))
            else:
                found.append(path)
        mine = [path.name for path in found]
        for export in (self.host.config.state_dir / SPOOLS).glob("*"):
            if export.name not in mine and _is_run_id(export.name.lstrip(".").partition(".")[0]):
                remove(export)  # as large as a model: cut short by a crash, or of a run that was left meanwhile
        return found

    async def init(self, config: RunConfig) -> Founded:
        if self.founding is not None:
            raise ControlError("busy", f"run {self.founding.name!r} is being created here", "wait for it")
        self._room()
        founding = self.founding = Founding(self.host, config)
        try:
            founded = await founding.found()
            with trio.CancelScope(shield=True):  # it is on disk, so it is opened, even if nobody waits any more
                self._start(await open_service(self.host, founded.path))
        except BaseException as error:
            founding.tell_not_created(error)
            raise
        finally:
            self.founding = None
        founding.tell_created(founded.run_id)
        return founded

    async def take_in(self, importing: Importing) -> Founded:
        """A new run from a checkpoint. Raises ControlError or StorageError."""
        if self.importing is not None:
            raise ControlError("busy", f"run {self.importing.name!r} is being imported here", "wait for it")
        self._room()
        self.importing = importing
        try:
            founded = await importing.found()
            with trio.CancelScope(shield=True):  # as in `init`
                self._start(await open_service(self.host, founded.path))
        finally:
            self.importing = None
        return founded

    async def join(self, run_id: str, addresses: list[str], pin: bytes | None = None) -> RunService:
        """`pin`: the hash of a record that the run's history must contain here (SPEC K14)."""
        while run_id in self._joining:
            await self._joining[run_id].wait()
        if run_id in self._leaving:
            raise ControlError(
                "busy",
                f"this host is leaving that run; it waits for {self._leaving[run_id].waits_for()}",
                "join again when that is over, as `intellectd leave` with its id tells",
            )
        if run_id in self.runs:
            if pin is not None:
                await self._pin(self.runs[run_id], pin)
            self._dial(addresses)
            return self.runs[run_id]
        self._room()
        self._joining[run_id] = trio.Event()
        try:
            return await self._join(run_id, addresses, pin)
        finally:
            self._joining.pop(run_id).set()

    async def _pin(self, service: RunService, pin: bytes) -> None:
        """Of a run that this host is in already: what it follows contains the record, or it must begin anew."""
        store = service.store
        if service.node.catchup.pin.wanted == pin:
            return
        if not await self.host.runner(lambda: contains(store, pin)):
            raise ControlError(
                "not_in_history",
                f"this host is in the run already, and its {store.length} records lack {pin.hex()[:16]}…",
                f"`intellectd leave {service.run_id}`, then join with --head: nothing is used until it is found",
            )
        await self.host.runner(lambda: write_pin(store.path, pin))

    async def _join(self, run_id: str, addresses: list[str], pin: bytes | None) -> RunService:
        """A run that this host has left comes back as it was, and catches up like after any absence."""
        path = self.host.runs_dir / run_id
        left = self.host.left_dir / run_id
        if not left.is_dir():
            path = await join(self.host, run_id, addresses, pin)
        with trio.CancelScope(shield=True):  # as in `init`
            if not left.is_dir():
                service = await open_service(self.host, path)
            else:
                service = await self._take_up(left, path, pin)
                self._dial(addresses)
            self._start(service)
        return service

    async def _take_up(self, left: Path, path: Path, pin: bytes | None) -> RunService:
        if pin is not None:  # before it is a run again, which the next start would open whatever history it follows
            await self.host.runner(lambda: write_pin(left, pin))
        try:
            await self.host.runner(lambda: take_up(left, path))
            return await open_service(self.host, path)
        except BaseException as error:  # damaged, perhaps: it must not keep the daemon from its next start
            await self.host.runner(lambda: move_folder(path, left))
            if isinstance(error, OperatorError):  # in whose words it lies where it was opened
                error.message, error.hint = (t.replace(str(path), str(left)) for t in (error.message, error.hint))
            raise

    async def leave(self, run_id: str, now: bool = False, wait_s: float = LEAVE_S_MAX) -> Parting:
        """Begin to leave, or go on with it, and wait for a while; it goes on by itself. Leaving what was left is
        no mistake: who asks again may have missed the answer. Raises ControlError."""
        parting = self._leaving.get(run_id) or (self._left.get(run_id) if run_id not in self.runs else None)
        if parting is None:
            service = self.get(run_id)
            if service.run_id not in self._leaving:
                await self.host.runner(lambda: _mark(service.store))
                if self.runs.get(service.run_id) is service:  # somebody else may have asked before, and it may be over
                    self._begin_leaving(service)
            parting = self._leaving.get(service.run_id) or self._left[service.run_id]
        if now:
            parting.hurry()
        with trio.move_on_after(wait_s):
            await parting.over.wait()
        return parting

    def _begin_leaving(self, service: RunService) -> None:
        if service.run_id not in self._leaving:
            parting = self._leaving[service.run_id] = Parting(service)
            self.host.nursery.start_soon(self._leave, service, parting)

    async def _leave(self, service: RunService, parting: Parting) -> None:
        """A task of its own: who asked for it may hang up, and half-left is the one state that nobody can want."""
        host = self.host
        if not await parting.part():
            return
        with trio.CancelScope(shield=True):
            service.stop()
            await service.ended.wait()
            host.network.withdraw(service.discovery_key)
            del self.runs[service.run_id]
            name = service.config.name
            if all(other.config.name != name for other in self.runs.values()):  # it is the label of both
                host.metrics.forget_run(name, service.model_kind, host.identity.peer_id)
        aside = host.left_dir / service.run_id
        while not await self._put_aside(service, parting, aside):
            await trio.sleep(PUT_ASIDE_AGAIN_S)
        del self._leaving[service.run_id]
        self._left.pop(service.run_id, None)
        self._left[service.run_id] = parting
        while len(self._left) > LEFT_REMEMBERED_MAX:
            del self._left[next(iter(self._left))]
        parting.over.set()
        log.info("left a run; its files were put aside", run=service.config.name, path=str(aside))
        for warning in parting.warnings:
            log.warning("left a run", run=service.config.name, warning=warning.replace(service.run_id, "<run-id>"))

    async def _put_aside(self, service: RunService, parting: Parting, aside: Path) -> bool:
        """A disk that refuses is a reason to leave: it must not take the other runs of this host along. While it does,
        the folder keeps its mark where it is, and the next start goes on from there."""
        try:
            with trio.CancelScope(shield=True):
                await self.host.runner(lambda: put_aside(service.store.path, aside))
        except StorageError as error:
            parting.trouble, run = error.message, service.config.name
            log_if_changed(log.warning, f"aside {run}", "a run's files are not put aside", run=run, reason=str(error))
            return False
        return True

    def get(self, run_id: str) -> RunService:
        """By id, by name, or the only one for "". Raises ControlError."""
        if run_id in self.runs:
            return self.runs[run_id]
        named = [s for s in self.runs.values() if s.config.name == run_id]
        if len(named) == 1:
            return named[0]
        if not run_id and len(self.runs) == 1:
            return next(iter(self.runs.values()))
        if not self.runs:
            raise ControlError("no_such_run", "this host is in no run", "join one: intellectd join <run-id> --peer …")
        what = f"this host is not in run {run_id!r}"
        if named or not run_id:
            what = f"this host is in several runs{f' named {run_id!r}' if named else ''}: name one by its id"
        raise ControlError("no_such_run", what, "`intellectd runs` lists them with their ids")

    def _start(self, service: RunService) -> None:
        self.runs[service.run_id] = service
        self.host.nursery.start_soon(service.serve)

    def _room(self) -> None:
        coming = len(self._joining) + sum(made is not None for made in (self.founding, self.importing))
        if len(self.runs) + coming >= RUNS_MAX:
            raise ControlError("too_many_runs", f"this host is in {RUNS_MAX} runs already", "leave one first")

    def _dial(self, addresses: list[str]) -> None:
        for address in addresses:
            self.host.nursery.start_soon(self._dial_quietly, address)

    async def _dial_quietly(self, address: str) -> None:
        try:
            await self.host.network.dial(address, DIAL_S)
        except NetworkError as error:
            log.info("a known run's new address does not answer", address=address, reason=str(error))

    # ---- trainers

    async def attach(self, sock: trio.socket.SocketType, frame: dict[str, Any]) -> None:
        request = read_request(frame)
        founding = self.founding
        if founding is not None and self._is_for(founding, request):
            await founding.attach(sock, request)
        else:
            await self.get(request.run).attach(sock, request)

    def _is_for(self, founding: Founding, request: AttachRequest) -> bool:
        """Whether a trainer comes for the run that is being created; one without a name may mean another."""
        if request.run in (founding.attach_id, founding.name):
            return True
        if request.run:
            return False
        waiting = [s.config.name for s in self.runs.values() if not s.seat.link.attached and s.node.state != "finished"]
        if waiting:
            raise ControlError(
                "ambiguous_run",
                f"run {founding.name!r} is being created here, and {waiting[0]!r} waits for a trainer too",
                "name the one that is meant: DiLoCo(run=…)",
            )
        return True


def _mark(store: RunStore) -> None:
    try:
        store.mark_leaving()
    except StorageError as error:  # a full disk is a reason to leave, not one to stay
        log.warning("a restart would forget that this run is being left", reason=str(error))


def remove(path: Path) -> None:
    """Raises StorageError."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with storage_errors(path):
            path.unlink(missing_ok=True)


def _is_run_id(text: str) -> bool:
    try:
        run_ids.parse(text)
    except run_ids.BadRunId:
        return False
    return True


def parse_run_id(text: str) -> str:
    """Raises ControlError."""
    try:
        run_ids.parse(text)
    except run_ids.BadRunId as error:
        raise ControlError(
            "bad_run_id", str(error), "copy the whole id from `intellectd runs` or the join line"
        ) from error
    return text.strip().lower()
