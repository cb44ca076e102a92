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
from intellectd.daemon.runs.peers import peer_rows
from intellectd.daemon.runs.registry import Registry, parse_run_id
from intellectd.daemon.runs.service import RunService
from intellectd.kernels import ops
from intellectd.protocol.manifest import BadManifest, config_from_toml

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
        names = ("status", "runs", "peers", "rounds", "init", "join", "leave", "wait", "metrics", "export", "shutdown")
        return {name: getattr(self, f"_{name}") for name in names}

    # ---- questions

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        host = self._host
        return {
            "peer": host.identity.peer_id,
            "version": version("intellectd"),
            "pid": os.getpid(),
            "addresses": host.network.addresses(),
            "bulk": host.bulk.endpoint.address,
            "socket": str(host.config.socket),
            "state_dir": str(host.config.state_dir),
            "uptime_s": round(trio.current_time() - self._started_at, 3),
            "kernels": {"implementation": ops.implementation(), "reason": ops.reason()},
            "founding": self._registry.founding.plain() if self._registry.founding else None,
            "runs": [run_status(service) for service in self._registry.runs.values()],
        }

    async def _runs(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"runs": [run_status(service) for service in self._registry.runs.values()]}

    async def _peers(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"peers": peer_rows(self._registry.runs.values())}

    async def _rounds(self, request: dict[str, Any]) -> dict[str, Any]:
        service = self._registry.get(_text(request, "run_id", ""))
        since = max(1, int(_number(request, "since", 0)))
        rounds: list[dict[str, Any]] = []
        size = 0
        for number, seen in service.journal.rounds.items():
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
        text = _text(request, "toml")
        if len(text) > TOML_BYTES_MAX:
            raise ControlError("bad_config", f"it has {len(text)} bytes, at most {TOML_BYTES_MAX}", "shorten it")
        try:
            config = config_from_toml(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ControlError("bad_config", f"it is no TOML: {error}", "correct that line") from error
        except BadManifest as error:
            raise ControlError("bad_config", str(error), error.hint) from error
        founded = await self._registry.init(config)
        address = (self._host.network.addresses() or ["<multiaddr>"])[0]
        return {
            "run_id": founded.run_id,
            "join_line": f"intellectd join {founded.run_id} --peer {address}",
            "owner_key_path": str(founded.owner_key_path),
            "warning": (
                f"back up {founded.owner_key_path} somewhere safe: only it can recover the run if most voters are "
                "lost. Until a second peer has synced, losing this host loses the run."
            ),
        }

    async def _join(self, request: dict[str, Any]) -> dict[str, Any]:
        run_id = parse_run_id(_text(request, "run_id"))
        addresses = _texts(request, "peers")[:ADDRESSES_MAX]
        service = await self._registry.join(run_id, addresses)
        return {"run_id": run_id, "state": run_status(service)["state"]}

    async def _leave(self, request: dict[str, Any]) -> dict[str, Any]:
        service = self._registry.get(_text(request, "run_id"))
        if not await self._registry.leave(service.run_id):
            raise ControlError(
                "timeout",
                f"run {service.config.name!r} still counts on this host's vote; it is left when a round is without it",
                "that goes on by itself, also after a restart: `intellectd runs` shows when it is over",
            )
        return {"run_id": service.run_id}

    async def _export(self, request: dict[str, Any]) -> dict[str, Any]:
        from intellectd.daemon.runs.exporting import export

        service = self._registry.get(_text(request, "run_id", ""))
        return await export(service, _text(request, "path"), _text(request, "format", "hf"))

    async def _shutdown(self, request: dict[str, Any]) -> dict[str, Any]:
        self._stop.set()
        return {}


def run_status(service: RunService) -> dict[str, Any]:
    node, journal = service.node, service.journal
    now = trio.current_time()
    head = node.head
    losses = journal.losses
    applied = max(0, node.catchup.applied)
    state = {"synced": "waiting", "ready": "training"}.get(node.state, node.state)
    if node.round.reducing is not None and state == "training":
        state = "reducing"
    return {
        "run_id": service.run_id,
        "name": service.config.name,
        "state": state,
        "reason": node.halted or ("leaving; " if node.leaving else "") + node.round.reason,
        "generation": head.generation.hex(),
        "round": applied,
        "head_round": max(0, head.round),
        "until": service.config.until.rounds,
        "roster": [c.peer for c in head.blob.contributions],
        "voters": list(head.voters),
        "eligible": [a.peer for a in head.blob.assignments],
        "peers": sum(1 for p in node.membership.peers if node.membership.alive(p, now)),
        "loss": losses[max(losses)] if losses else None,
        "train_loss": journal.train_loss,
        "tokens_total": head.tokens_total,
        "tokens_per_s": journal.tokens_per_s,
        "outer_step_s": round(journal.outer_step_s, 3),
        "wire_bytes": journal.wire_bytes,
        "state_digest": _digest(service),
        "catchup": journal.catchup.plain(now) if journal.catchup else None,
        "trainer": node.progress.state,
        "warnings": warnings(service, now),
    }


def _digest(service: RunService) -> str | None:
    """Of the state that this host has, if it has one."""
    node = service.node
    if not node.catchup.has_state:
        return None
    if node.round.state_digest is not None:
        return node.round.state_digest.hex()
    seen = service.journal.rounds.get(max(0, node.catchup.applied))
    return seen.state_digest if seen is not None else None


def warnings(service: RunService, now: float) -> list[str]:
    node = service.node
    has_trainer = service.seat.link.attached or node.state == "finished"
    found = service.journal.warnings(over=("trainer_gone",) if has_trainer else ())
    alone = [b for b in node.membership.alive_beacons(now).values() if b.applied >= -1]
    if not alone and service.host.identity.peer_id in service.manifest.first_voters and node.head.round <= 0:
        found.append("no second peer has synced yet: losing this host loses the run")
    if ops.implementation() != "native":
        found.append(f"slow kernels in use: {ops.reason()}")
    if service.trainer is not None and service.trainer.last_failure and not service.seat.link.attached:
        found.append(f"the trainer keeps dying: {service.trainer.last_failure}; see the daemon's log")
    return found


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
        "synced": lambda s: s.node.catchup.has_state and s.node.catchup.applied >= s.node.head.round - 1,
        "finished": lambda service: service.node.state == "finished",
    }
    if text not in known:
        raise ControlError("usage", f"cannot wait for {text!r}", "use joined, synced, round=N or finished")
    return known[text]


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
