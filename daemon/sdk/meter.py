"""Counts one round's inner steps, tokens and loss, whether a loop logs before or after its optimizer step.

Owns these sums. Refuses to know of models and daemons; losses may be tensors on a device and are only read
when somebody asks, because reading one waits for the device.
"""

import math
from typing import Any

from intellectd.daemon.sdk.rounds import finite_or_none


class RoundMeter:
    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.steps = 0
        self.logs = 0
        self._tokens = 0
        self._losses = 0
        self._loss_sum: Any = 0.0
        self._grad_norm: Any = None

    def count_step(self) -> None:
        self.steps += 1

    def count_log(self, loss: Any, tokens: int, grad_norm: Any = None) -> None:
        self.logs += 1
        self._tokens += tokens
        self._grad_norm = grad_norm
        if loss is not None:
            self._losses += 1
            self._loss_sum = self._loss_sum + (loss.detach().float() if hasattr(loss, "detach") else loss)

    @property
    def log_is_owed(self) -> bool:
        """One log short: the loop logs after its step, so the round's last log is still to come."""
        return self.logs > 0 and self.logs == self.steps - 1

    def loss(self) -> float | None:
        return finite_or_none(float(self._loss_sum) / self._losses) if self._losses else None

    def grad_norm(self) -> float | None:
        """Of the latest step."""
        return None if self._grad_norm is None else finite_or_none(float(self._grad_norm))

    def tokens(self) -> int:
        """Those logged; where only some steps were, scaled to all; where none was, one for each step."""
        if self._tokens == 0:
            return self.steps
        return math.ceil(self._tokens * self.steps / self.logs) if self.logs < self.steps else self._tokens

    def rate(self, now_s: float) -> float:
        return self._tokens / max(now_s - self.started_s, 1e-9)
