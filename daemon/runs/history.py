"""What a run's numbers were, on disk: so that `status` after a restart still knows the last losses and the pace.

Owns history.json in the run's folder. Nothing rests on it: a damaged file costs some numbers, so it is ignored,
loudly, and a disk that is full costs no more than that.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from intellectd.daemon.atomic import StorageError, write_atomic
from intellectd.daemon.logs import get_log, log_if_changed
from intellectd.daemon.runs.compute import RunsWork

FILE_NAME = "history.json"
LOSSES_MAX = 512  # the newest, and the first parameters'; 20 kB, written once or twice a round
FILE_BYTES_MAX = 256 * 1024  # ten times what is ever written

log = get_log("run")


@dataclass
class History:
    losses: dict[int, float] = field(default_factory=dict)  # held-out, of the state after a round
    train_loss: float | None = None
    tokens_per_s: float = 0.0
    outer_step_s: float = 0.0

    def encoded(self) -> bytes:
        rounds = sorted(self.losses)
        kept = [*rounds[:1], *rounds[1:][-LOSSES_MAX:]]
        body = {
            "schema": 1,
            "losses": {str(round_): self.losses[round_] for round_ in kept},
            "train_loss": self.train_loss,
            "tokens_per_s": self.tokens_per_s,
            "outer_step_s": self.outer_step_s,
        }
        return json.dumps(body).encode()


def load_history(folder: Path) -> History:
    path = folder / FILE_NAME
    try:
        if not path.exists():
            return History()
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ValueError(f"it has more than {FILE_BYTES_MAX} bytes")
        return _history(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        log.warning("the run's history is unreadable and is not used", path=str(path), reason=str(error))
        return History()


def _history(body: Any) -> History:
    train_loss = body.get("train_loss")
    return History(
        losses={int(round_): _number(loss) for round_, loss in list(body["losses"].items())[: LOSSES_MAX + 1]},
        train_loss=None if train_loss is None else _number(train_loss),
        tokens_per_s=_number(body["tokens_per_s"]),
        outer_step_s=_number(body["outer_step_s"]),
    )


def _number(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{value!r:.40} is no number")
    return number


class HistoryKeeper:
    def __init__(self, folder: Path, runner: RunsWork, now_is: Callable[[], History]) -> None:
        self._path, self._runner, self._now_is = folder / FILE_NAME, runner, now_is
        self._news = trio.Event()

    def changed(self) -> None:
        self._news.set()

    async def keep(self) -> None:
        """Until cancelled: one writer; what changes while it writes is written next."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            body = self._now_is().encoded()
            try:
                await self._runner(lambda body=body: write_atomic(self._path, body))  # type: ignore[misc]
            except StorageError as error:
                log_if_changed(log.warning, str(self._path), "the run's history is not kept", reason=str(error))
