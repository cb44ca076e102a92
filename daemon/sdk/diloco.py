"""`intellectd.DiLoCo`: three lines that put a training loop into a run. The public face of the trainer side.

Owns the hook on the optimizer and the end of a round. Refuses to know where rounds come from: the daemon's run
(session.py) or this process alone (alone.py).
"""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import distributed

from intellectd.daemon.sdk.alone import Alone
from intellectd.daemon.sdk.errors import DaemonUnavailable, ModelUnsupported
from intellectd.daemon.sdk.meter import RoundMeter
from intellectd.daemon.sdk.outer import outer_of
from intellectd.daemon.sdk.parameters import Parameters, reshard
from intellectd.daemon.sdk.patience import RECONNECT_TIMEOUT_S, Patience
from intellectd.daemon.sdk.ranks import Following, Led, Ranks, SharedParameters
from intellectd.daemon.sdk.rounds import (
    Assignment,
    Finish,
    Progress,
    RoundDone,
    Rounds,
    Stream,
    finite_or_none,
)
from intellectd.daemon.sdk.session import Session
from intellectd.daemon.socket_path import SocketPathError, check_socket_path, default_socket

log = logging.getLogger("intellectd")

SOCKET_ENV = "INTELLECTD_SOCKET"
RUN_ENV = "INTELLECTD_RUN"  # in the environment of a program that the daemon has started for one of its runs
SYNC_EVERY_ALONE = 100  # inner steps; DiLoCo's papers use 30 to 500, quality falls slowly with it
LOG_INTERVAL_S = 1.0  # what the daemon is told between rounds


class DiLoCo:
    """Train `model` with `inner_optimizer` as one peer of a run.

        with intellectd.DiLoCo(run="my-run", model=model, inner_optimizer=opt) as d:
            while not d.finished:
                loss = loss_of(model, batch_at(d.assignment, d.step))
                loss.backward(); opt.step(); opt.zero_grad()
                d.log(loss=loss, tokens=tokens)

    On entering, the parameters become the run's anchor. After the round's number of optimizer steps they are
    handed to the daemon, which averages them with the peers'; the loop waits in `opt.step()` (or in `log`, if
    that comes after it) and goes on from the new anchor. `run=""` is the run that the daemon started this program
    for (INTELLECTD_RUN), else the daemon's only one; `run=None` trains alone, without a daemon, by the same
    arithmetic: only then do `sync_every`, `outer_optimizer`, `rounds` and `seed` count, for in a run the manifest
    decides. With `flops_per_token` (forward and backward) and `peak_flops` of the device the host's metrics tell the
    MFU. `on_round(self)` is called with each newly loaded anchor, the first and the last included.

    Under torchrun every rank of `process_group` (default: all) makes one of these, and all make the same calls: they
    are one peer together, on one host. The model is sharded by `fully_shard`, or whole on each rank as under DDP.
    Tokens of all ranks count; each draws samples of its own; rank 0's evaluation is told.
    """

    def __init__(
        self,
        run: str | None,
        model: torch.nn.Module,
        inner_optimizer: torch.optim.Optimizer,
        *,
        outer_optimizer: object = None,
        sync_every: int | None = None,
        rounds: int | None = None,
        seed: int = 0,
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
        socket: str | os.PathLike[str] | None = None,
        on_round: Callable[["DiLoCo"], None] | None = None,
        reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
        process_group: "distributed.ProcessGroup | None" = None,
    ) -> None:
        _check_optimizer(inner_optimizer, model)
        ranks = _ranks(process_group)
        self._optimizer, self._on_round = inner_optimizer, on_round
        self._averaged = {id(parameter): parameter for parameter in model.parameters() if parameter.requires_grad}
        self._model, self._warned = model, False
        self._mfu_per_rate = flops_per_token / peak_flops if flops_per_token and peak_flops else None
        self._rounds: Rounds
        if run is None:
            steps = SYNC_EVERY_ALONE if sync_every is None else sync_every
            if steps < 1:
                raise ModelUnsupported(f"sync_every is {steps}", "a round has at least one inner step")
            if ranks is not None:
                raise ModelUnsupported(
                    f"run=None with {ranks.count} ranks", "attach to a daemon, or try it out with one process"
                )
            self._rounds = Alone(Parameters(model), outer_of(outer_optimizer), steps, rounds, seed)
        else:
            if (sync_every, outer_optimizer, rounds) != (None, None, None):
                log.info("sync_every, outer_optimizer and rounds are for run=None; here the run's manifest decides")
            patience, path = Patience(reconnect_timeout_s), _socket_path(socket)
            run = run or os.environ.get(RUN_ENV, "")
            if ranks is None:
                self._rounds = Session(run, path, Parameters(model), patience)
            elif ranks.rank == 0:
                self._rounds = Led(Session(run, path, SharedParameters(model, ranks), patience), ranks)
            else:
                self._rounds = Following(model, ranks)
        self._now: Assignment | Finish | None = None
        self._pid = 0  # of the process that has entered the block
        self._meter = RoundMeter(0.0)
        self._is_due = False  # the round's steps are done, the end waits for its last log
        self._logged_at_s = -math.inf  # a clock that begins at the boot may show less than the interval
        self._hook: Any = None

    def __enter__(self) -> "DiLoCo":
        self._pid = os.getpid()
        self._hook = self._optimizer.register_step_post_hook(self._after_step)
        try:
            self._start(self._rounds.begin())
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    # -- what a loop asks ----------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """The run has ended (`finish_reason` says why); the model holds the last anchor, if there was time."""
        return isinstance(self._settled(), Finish)

    @property
    def finish_reason(self) -> str | None:
        now = self._settled()
        return now.reason if isinstance(now, Finish) else None

    @property
    def assignment(self) -> Assignment:
        """This round's work, with `position(i, positions)`: where this peer's i-th sample of the round lies."""
        now = self._settled()
        if isinstance(now, Finish):
            raise RuntimeError(f"the run is finished ({now.reason}); look at `finished` first")
        return now

    @property
    def round(self) -> int:
        return self.assignment.round

    @property
    def step(self) -> int:
        """Inner steps of this round that are done: 0 at its beginning."""
        self._settled()
        return self._meter.steps

    @property
    def streams(self) -> tuple[Stream, ...]:
        return self.assignment.streams

    @property
    def tokens_total(self) -> int:
        """Committed by the whole run before this round: what a learning-rate schedule goes by."""
        return self.assignment.tokens_total

    @property
    def state_round(self) -> int | None:
        """The outer step that the loaded anchor came from; None if the run ended without handing one over."""
        return self._settled().state_round

    @property
    def holds_anchor(self) -> bool:
        """Untouched since it was loaded, and nobody's uncommitted work in it: fit for evaluation."""
        now = self._settled()
        carried_over = isinstance(now, Assignment) and now.carried_over
        return self._meter.steps == 0 and now.state_round is not None and not carried_over

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self._rounds.manifest

    @property
    def wants_evaluation(self) -> bool:
        """The host's configuration asks trainers to evaluate each anchor (see `evaluated`)."""
        return self._rounds.evaluate

    # -- what a loop tells ---------------------------------------------------------------------------------

    def log(self, loss: Any = None, tokens: int = 0, grad_norm: Any = None) -> None:
        """Once per inner step, before or after it. Tokens weigh this peer's part in the average; the norm of the
        gradient is for the metrics. Tensors are read once a second, not in each step. Raises ValueError for
        fewer tokens than none, over which the daemon would hang up at the round's end, as often as it was told."""
        tokens = int(tokens)
        if tokens < 0:
            raise ValueError(f"tokens is {tokens}: a step has none or more")
        if isinstance(self._attached(), Finish):
            return
        self._meter.count_log(loss, tokens, grad_norm)
        now_s = time.monotonic()
        if now_s - self._logged_at_s >= LOG_INTERVAL_S:
            self._logged_at_s = now_s
            self._rounds.log(self._progress())
        self._settled()

    def evaluated(self, loss: float) -> None:
        """Held-out loss of the anchor that is loaded."""
        state_round = self.state_round
        if state_round is not None:
            self._rounds.evaluated(state_round, finite_or_none(float(loss)))

    # -- the round -----------------------------------------------------------------------------------------

    def _after_step(self, *_: object) -> None:
        if not isinstance(self._now, Assignment):
            return  # the loop steps on after the end: its own affair
        self._meter.count_step()
        if self._is_due:
            self._end_round(self._now)  # the log that ended every other round did not come
        elif self._meter.steps < self._now.steps:
            given = self._rounds.poll()
            if given is not None:
                self._start(given)
        elif self._meter.log_is_owed:
            self._is_due = True
        else:
            self._end_round(self._now)

    def _attached(self) -> Assignment | Finish:
        if self._now is None:
            raise RuntimeError("not attached: use `with intellectd.DiLoCo(...) as d:`")
        if self._pid != os.getpid():  # a loader's worker would deal out the round of its own start for ever
            raise RuntimeError("of another process: give a loader's workers places, by a sampler, and not this object")
        return self._now

    def _settled(self) -> Assignment | Finish:
        now = self._attached()
        if self._is_due and isinstance(now, Assignment):
            self._end_round(now)
        return self._attached()

    def _warn_of_others(self) -> None:
        """Once, of a tensor that is trained here and never reaches the run: as one that was unfrozen on the way."""
        groups = self._optimizer.param_groups
        trained = [tensor for group in groups for tensor in group["params"] if tensor.requires_grad]
        others = [tensor for tensor in trained if id(tensor) not in self._averaged]
        if not others or self._warned:
            return
        self._warned = True
        known = (name for name, parameter in self._model.named_parameters() if parameter is others[0])
        log.warning(
            "inner_optimizer trains %d tensors, %r the first of them, that stay this host's own: averaged is what of "
            "the model required gradients when DiLoCo was made",
            len(others),
            next(known, tuple(others[0].shape)),
        )

    def _end_round(self, now: Assignment) -> None:
        self._is_due = False
        self._warn_of_others()
        meter = self._meter
        seconds = time.monotonic() - meter.started_s
        self._start(self._rounds.deliver(RoundDone(now.round, meter.tokens(), meter.steps, meter.loss(), seconds)))

    def _start(self, given: Assignment | Finish) -> None:
        self._now, self._is_due = given, False
        self._meter = RoundMeter(time.monotonic())
        if self._on_round is not None:
            self._on_round(self)
            self._meter.started_s = time.monotonic()  # an evaluation is no training time

    def _progress(self) -> Progress:
        assert isinstance(self._now, Assignment)
        meter = self._meter
        loss, grad_norm = meter.loss(), meter.grad_norm()
        rate = meter.rate(time.monotonic())  # after the reading, which waits for the device to have done the steps
        mfu = None if self._mfu_per_rate is None else rate * self._mfu_per_rate
        return Progress(self._now.round, meter.steps, loss, meter.tokens(), rate, grad_norm, mfu)

    def _leave(self) -> None:
        if self._pid != os.getpid():
            return  # the link is that of the process that this one was forked from
        self._is_due = False  # or who asks something afterwards would end the round, and attach again
        if self._hook is not None:
            self._hook.remove()
        self._rounds.close()


def _check_optimizer(optimizer: object, model: torch.nn.Module) -> None:
    """Raises ModelUnsupported for one that has no hooks, or that trains something else than the model."""
    if not isinstance(optimizer, torch.optim.Optimizer) or not hasattr(optimizer, "_optimizer_step_post_hooks"):
        raise ModelUnsupported(
            f"inner_optimizer is a {type(optimizer).__name__}, which calls no hooks of torch.optim.Optimizer's",
            "pass the torch optimizer inside; of several, the one that steps last",
        )
    reshard(model)
    known = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in known for group in optimizer.param_groups for parameter in group["params"]):
        raise ModelUnsupported(
            "inner_optimizer has none of the model's parameters: what it trains would never reach the run",
            "make it of model.parameters(), after the model is sharded or converted; of one that trains fp32 copies, "
            "pass the module that holds those",
        )


def _socket_path(given: str | os.PathLike[str] | None) -> Path:
    named = os.fspath(given) if given is not None else os.environ.get(SOCKET_ENV)
    try:
        return check_socket_path(Path(named) if named else default_socket(os.environ))
    except SocketPathError as error:
        raise DaemonUnavailable(error.message, error.hint) from error


def _ranks(group: "distributed.ProcessGroup | None") -> Ranks | None:
    """Those that are one peer together; None where this process is one by itself."""
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    return Ranks(group) if distributed.get_world_size(group) > 1 else None
