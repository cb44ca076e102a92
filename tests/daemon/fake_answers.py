"""A daemon's answers for the command line's tests, served from the real control socket."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import trio

from intellectd.daemon.control import ControlError, ControlServer
from intellectd.protocol import run_id

PEER = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
RUN_ID = run_id.from_manifest_hash(bytes(range(32)))
ADDRESS = f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"

RUN: dict[str, Any] = {
    "run_id": RUN_ID,
    "name": "mini",
    "parameters": 1_300_000,
    "state": "training",
    "reason": "",
    "generation": "ab" * 16,
    "round": 5,
    "head_round": 5,
    "until": 14,
    "roster": [PEER, PEER[:-1] + "6"],
    "voters": [PEER],
    "eligible": [PEER],
    "peers": 3,
    "loss": 2.345678,
    "train_loss": 2.5,
    "tokens_total": 1_234_567,
    "tokens_per_s": 12_345.6,
    "outer_step_s": 8.25,
    "wire_bytes": 4_200_000,
    "state_digest": "cd" * 32,
    "catchup": None,
    "warnings": [],
}


def run_status(**changes: Any) -> dict[str, Any]:
    return {**RUN, **changes}


def status_answer(*runs: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "peer": PEER,
        "version": "0.1.0",
        "pid": 4242,
        "addresses": [ADDRESS],
        "bulk": "127.0.0.1:4002",
        "socket": "/run/intellectd/intellectd.sock",
        "state_dir": "/var/lib/intellectd",
        "uptime_s": 7384.0,
        "kernels": {"implementation": "native", "instructions": "avx2", "reason": ""},
        "runs": list(runs),
        **changes,
    }


class Answers:
    """What each operation answers, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, list[Mapping[str, Any] | ControlError]] = {}
        self._held: dict[str, str] = {}
        self._heard: dict[str, trio.Event] = {}

    def give(self, op: str, *answers: Mapping[str, Any] | ControlError) -> None:
        """In turn; the last one again and again."""
        self.answers[op] = list(answers)

    def hold(self, op: str, until: str) -> None:
        """No answer to `op` before somebody has asked for `until`."""
        self._held[op] = until
        self._heard[until] = trio.Event()

    async def handle(self, request: dict[str, Any]) -> Mapping[str, Any]:
        if request["op"] in self._heard:
            self._heard[request["op"]].set()
        if request["op"] in self._held:
            await self._heard[self._held[request["op"]]].wait()
        self.asked.append({key: value for key, value in request.items() if key != "version"})
        remaining = self.answers[request["op"]]
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(answer, ControlError):
            raise answer
        return answer


@contextlib.asynccontextmanager
async def serving(answers: Answers, path: Path) -> AsyncIterator[None]:
    async def attach(sock: trio.socket.SocketType, request: dict[str, Any]) -> None:
        raise ControlError("no_such_run", "nothing to attach to here")

    server = ControlServer(path, {op: answers.handle for op in answers.answers}, attach)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        yield
        nursery.cancel_scope.cancel()
