"""DiLoCo on one host, without a daemon: the same kernels, encoding and outer step, a roster of one.

Owns the anchor and the momentum of such a run. Refuses to know of sockets: the same script trains alone and in
a swarm.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from intellectd.daemon.sdk.errors import IntellectdError, ModelUnsupported
from intellectd.daemon.sdk.outer import Average, Nesterov
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.daemon.sdk.rounds import Assignment, Finish, Progress, RoundDone, Stream
from intellectd.kernels import ops
from intellectd.kernels.codec import ring_codec
from intellectd.kernels.outer import OuterVectors

log = logging.getLogger("intellectd")


class NotFinite(IntellectdError):
    """The parameters hold NaN or infinity; names the tensor."""


class Alone:
    """Rounds 1, 2, ... of one member, until `rounds` are done (None: as long as the loop goes on)."""

    evaluate = True

    def __init__(
        self, parameters: Parameters, outer: Nesterov | Average, steps: int, rounds: int | None, seed: int
    ) -> None:
        self.manifest: Mapping[str, Any] = {"seed": seed}
        self._parameters, self._outer, self._steps, self._rounds, self._seed = parameters, outer, steps, rounds, seed
        try:
            self._codec = ring_codec(outer.codec)
        except ValueError as error:
            raise ModelUnsupported(str(error), "set the outer optimizer's `codec` to one of them") from error
        elements = parameters.layout.elements
        self._anchor, self._local, self._momentum = (
            torch.zeros(elements, dtype=torch.float32, device="cpu") for _ in range(3)
        )
        self._encoded = torch.empty(self._codec.encoded_bytes(elements), dtype=torch.uint8, device="cpu")
        self._threads = ops.usable_threads()
        self._done = 0
        self._tokens_total = 0

    def begin(self) -> Assignment | Finish:
        self._parameters.store(self._anchor)
        return self._next()

    def deliver(self, done: RoundDone) -> Assignment | Finish:
        self._local.copy_(self._anchor)
        self._parameters.store_trained(self._local)
        stats = ops.encode_delta(self._codec, self._anchor, self._local, self._encoded, threads=self._threads)
        if stats.first_nonfinite is not None:
            raise NotFinite(
                f"after round {done.round} tensor {self._parameters.layout.find(stats.first_nonfinite)!r} holds NaN "
                "or infinity",
                "lower the learning rate, lengthen its warm-up or clip gradients",
            )
        vectors = OuterVectors(self._anchor, self._momentum)
        ops.outer_step(self._codec, self._encoded, self._outer.step_for(1), vectors, self._threads)
        self._parameters.load(self._anchor)
        self._tokens_total += done.tokens
        self._done += 1
        return self._next()

    def poll(self) -> None:
        return None

    def log(self, progress: Progress) -> None:
        loss = "not a number" if progress.loss is None else f"{progress.loss:.4f}"
        log.info("round %d step %d loss %s, %.0f tokens/s", progress.round, progress.step, loss, progress.tokens_per_s)

    def evaluated(self, state_round: int, loss: float | None) -> None:
        log.info("held-out loss after round %d: %s", state_round, loss)

    def close(self) -> None:
        pass

    def _next(self) -> Assignment | Finish:
        done = self._done
        if self._rounds is not None and done >= self._rounds:
            return Finish(f"all {self._rounds} rounds are done", done)
        streams = (Stream(done + 1, 0),)
        return Assignment(done + 1, self._steps, streams, self._tokens_total, done, False, self._seed)
