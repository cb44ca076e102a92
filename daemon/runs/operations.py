"""The control socket's operations: what the CLI may ask and order. Owns the answers' forms.

Refuses to know sockets and terminals. Every answer is plain data with the names of the documented schema.
"""

import math
import os
import tomllib
from importlib.metadata import version
from typing import Any

import trio

from intellectd.daemon.control import ControlError, Handler
from intellectd.daemon.logs import get_log
from intellectd.daemon.runs import recovering
from intellectd.daemon.runs.netcheck import netcheck
from intellectd.daemon.runs.new_run import Founded
from intellectd.daemon.runs.peers import peer_rows
from intellectd.daemon.runs.pinning import parse_pin
from intellectd.daemon.runs.registry import LEAVE_S_MAX, Registry, parse_run_id
from intellectd.daemon.runs.service import RunService
from intellectd.daemon.runs.status import run_status
from intellectd.kernels import ops
from intellectd.protocol.manifest import BadManifest, config_from_toml, plain

TOML_BYTES_MAX = 64 * 1024
WAIT_S_MAX = 86_400.0
# One frame of the control socket has 1 MiB; who wants more asks again from the round after the last.
ROUNDS_PER_ANSWER_MAX = 512
ROUNDS_BYTES_MAX = 768 * 1024
ROUND_BYTES, MEMBER_BYTES = 400, 130  # digests and names of a round; a member stands in the roster and the weights
ADDRESSES_MAX = 16  # of one join

log = get_log("control")


class Operations:
    def __init__(self, registry: Registry, started_at: float, stop: trio.Event) -> None:
        self._registry, self._started_at, self._stop = registry, started_at, stop
        self._host = registry.host

    def handlers(self) -> dict[str, Handler]:
        questions = ("status", "runs", "peers", "rounds", "netcheck", "metrics", "wait")
        orders = ("init", "import", "join", "leave", "recovery_draft", "recover", "shutdown")
        files = ("export", "export_fetched")
        return {name: getattr(self, f"_{name}") for name in (*questions, *orders, *files)}

    # ---- questions

    def _named(self, request: dict[str, Any]) -> list[RunService]:
        """The run that `run_id` names, or without it all. Raises ControlError."""
        runs = self._registry
        return list(runs.runs.values()) if request.get("run_id") is None else [runs.get(_text(request, "run_id"))]

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        """Of the host and one run, or without `run_id` of all."""
        host, founding = self._host, self._registry.founding or self._registry.importing
        return {
            "peer": host.identity.peer_id,
            "version": version("intellectd"),
            "pid": os.getpid(),
            "addresses": host.network.addresses(),
            "bulk": host.bulk.endpoint.address,
            "socket": str(host.config.socket),
            "state_dir": str(host.config.state_dir),
            "uptime_s": round(trio.current_time() - self._started_at, 3),
            "kernels": {
                "implementation": ops.implementation(),
                "instructions": ops.instructions(),
                "reason": ops.reason(),
            },
            "founding": founding.plain() if founding else None,
            "runs": [run_status(service) for service in self._named(request)],
        }

    async def _runs(self, request: dict[str, Any]) -> dict[str, Any]:
        services = self._registry.runs.values()
        rows = [{**run_status(s), "join_line": self._join_line(s.run_id), "config": plain(s.config)} for s in services]
        return {"runs": rows}

    async def _peers(self, request: dict[str, Any]) -> dict[str, Any]:
        """Of one run, or without `run_id` of all."""
        return {"peers": peer_rows(self._named(request))}

    async def _netcheck(self, request: dict[str, Any]) -> dict[str, Any]:
        """Of one run, or without `run_id` of all."""
        return netcheck(self._host, self._named(request), trio.current_time() - self._started_at)

    async def _rounds(self, request: dict[str, Any]) -> dict[str, Any]:
        """From `since` on, or the newest `last`; as many as fit. Who wants the rest asks since the one after."""
        service = self._registry.get(_text(request, "run_id", ""))
        remembered = service.journal.rounds
        since = max(1, int(_number(request, "since", 0)))
        if "last" in request:
            since = max(since, next(reversed(remembered), 0) + 1 - max(1, int(_number(request, "last", 0))))
        rounds: list[dict[str, Any]] = []
        size = 0
        for number, seen in remembered.items():
            if number >= since:
                size += ROUND_BYTES + MEMBER_BYTES * len(seen.roster)
                if rounds and (size > ROUNDS_BYTES_MAX or len(rounds) >= ROUNDS_PER_ANSWER_MAX):
                    break
                rounds.append(seen.plain())
        return {"rounds": rounds, "loss_first": service.journal.losses.get(0)}

    async def _metrics(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"text": self._host.metrics.text()}

    async def _wait(self, request: dict[str, Any]) -> dict[str, Any]:
        service = self._registry.get(_text(request, "run_id", ""))
        reached = condition(_text(request, "for", "synced"))
        timeout = min(max(0.0, _number(request, "timeout_s", WAIT_S_MAX)), WAIT_S_MAX)
        with trio.move_on_after(timeout):
            while not reached(service) and not service.node.halted and not service.ended.is_set():
                await service.changed.wait()
        if service.ended.is_set():
            raise ControlError("no_such_run", f"run {service.config.name!r} was left meanwhile", "")
        return {"reached": reached(service), "run": run_status(service)}

    # ---- orders

    async def _init(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            config = config_from_toml(_toml(request))
        except BadManifest as error:
            raise ControlError("bad_config", str(error), error.hint) from error
        return self._founded(await self._registry.init(config))

    async def _import(self, request: dict[str, Any]) -> dict[str, Any]:
        from intellectd.daemon.runs.exporting import foothold_of
        from intellectd.daemon.runs.importing import Importing

        seen = foothold_of(request.get("seen"))
        importing = Importing(self._host, _toml(request), _text(request, "path"), seen)
        return self._founded(await self._registry.take_in(importing))

    def _founded(self, founded: Founded) -> dict[str, Any]:
        return {
            "run_id": founded.run_id,
            "join_line": self._join_line(founded.run_id),
            "owner_key_path": str(founded.owner_key_path),
            "warning": founded.warning,
        }

    async def _join(self, request: dict[str, Any]) -> dict[str, Any]:
        run_id = parse_run_id(_text(request, "run_id"))
        addresses = _texts(request, "peers")[:ADDRESSES_MAX]
        service = await self._registry.join(run_id, addresses, _pin(request))
        return {"run_id": run_id, "state": run_status(service)["state"]}

    async def _leave(self, request: dict[str, Any]) -> dict[str, Any]:
        """May be asked again and again: it goes on by itself, and says how far it is."""
        wait_s = min(max(0.0, _number(request, "timeout_s", LEAVE_S_MAX)), LEAVE_S_MAX)
        parting = await self._registry.leave(_text(request, "run_id"), request.get("now") is True, wait_s)
        gone = parting.over.is_set()
        return {
            "run_id": parting.run_id,
            "left": gone,
            "waits_for": "" if gone else parting.waits_for(),
            "path": str(self._host.left_dir / parting.run_id) if gone else None,
            "warnings": parting.warnings,
        }

    async def _recovery_draft(self, request: dict[str, Any]) -> dict[str, Any]:
        return recovering.draft(self._registry.get(_text(request, "run_id", "")))

    async def _recover(self, request: dict[str, Any]) -> dict[str, Any]:
        service, entry = self._registry.get(_text(request, "run_id")), _text(request, "entry")
        return await recovering.take(service, entry, _texts(request, "owners"), _texts(request, "signatures"))

    async def _export(self, request: dict[str, Any]) -> dict[str, Any]:
        from intellectd.daemon.runs.exporting import export

        service = self._registry.get(_text(request, "run_id", ""))
        path, kind, dtype = _text(request, "path"), _text(request, "format", "hf"), _text(request, "dtype", "fp32")
        return await export(service, path, kind, request.get("seen"), dtype)

    async def _export_fetched(self, request: dict[str, Any]) -> dict[str, Any]:
        from intellectd.daemon.runs.exporting import drop_spool

        await drop_spool(self._registry.get(_text(request, "run_id", "")))
        return {}

    def _join_line(self, run_id: str) -> str:
        address = (self._host.network.addresses() or ["<multiaddr>"])[0]
        return f"intellectd join {run_id} --peer {address}"

    async def _shutdown(self, request: dict[str, Any]) -> dict[str, Any]:
        self._stop.set()
        return {}


def _toml(request: dict[str, Any]) -> dict[str, Any]:
    text = _text(request, "toml")
    if len(text) > TOML_BYTES_MAX:
        raise ControlError("bad_config", f"it has {len(text)} bytes, at most {TOML_BYTES_MAX}", "shorten it")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ControlError("bad_config", f"it is no TOML: {error}", "correct that line") from error


def condition(text: str) -> Any:
    """The predicate behind `wait --for`. Raises ControlError."""
    if text.startswith("round="):
        try:
            target = int(text.removeprefix("round="))
        except ValueError:
            raise ControlError("usage", f"{text!r} names no round", "for example --for round=5") from None
        return lambda service: service.node.catchup.applied >= target
    known = {
        "joined": lambda service: True,
        "synced": _is_synced,
        "finished": lambda service: service.node.state == "finished",
    }
    if text not in known:
        raise ControlError("usage", f"cannot wait for {text!r}", "use joined, synced, round=N or finished")
    return known[text]


def _is_synced(service: RunService) -> bool:
    """With the end of the log, as far as anybody can tell: who has heard nobody yet only knows its own; what is claimed
    alone does not count."""
    node, now = service.node, trio.current_time()
    members, me = node.membership, service.host.identity.peer_id
    ahead = node.catchup.ahead(node.head, now).values()
    elsewhere = (beacon.head_round for beacon in node.branching.claims(node.head, now).values())
    end = max([node.head.round, *ahead, *elsewhere])
    heard = bool(members.alive_beacons(now)) or members.has_listened(now) or node.head.voters == [me]
    return heard and node.catchup.has_state and node.catchup.applied >= end - 1


def _number(request: dict[str, Any], key: str, default: float) -> float:
    value = request.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ControlError("usage", f"{key} is {value!r:.40}, not a number", "")
    return float(value)


def _texts(request: dict[str, Any], key: str) -> list[str]:
    value = request.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ControlError("usage", f"{key} is no list of texts", "")
    return value


def _text(request: dict[str, Any], key: str, default: str | None = None) -> str:
    value = request.get(key, default)
    if not isinstance(value, str):
        raise ControlError("usage", f"{key} is missing or no text", "")
    return value


def _pin(request: dict[str, Any]) -> bytes | None:
    text = _text(request, "head", "")
    try:
        return parse_pin(text) if text else None
    except ValueError:
        raise ControlError(
            "bad_head", f"{text!r:.90} is not the hash of a record", "64 hex digits, as `rounds --json` shows them"
        ) from None
