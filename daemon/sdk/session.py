"""The rounds of a run as the local daemon gives them; outlives a restart of the daemon.

Owns the conversation: which round is being trained, what is delivered and not yet answered. Refuses to know
the training loop. Blocking and single-threaded on purpose: it runs inside the trainer's own loop.
"""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from intellectd.daemon.sdk.client import DaemonClient, LinkLost
from intellectd.daemon.sdk.encoder import DeviceEncoder, encoder_for
from intellectd.daemon.sdk.errors import DaemonUnavailable, IntellectdError, TensorMismatch
from intellectd.daemon.sdk.messages import ATTACH_VERSION, Garbled, NotReady, created_run, order, seed_of
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.daemon.sdk.patience import Patience
from intellectd.daemon.sdk.rounds import Assignment, Finish, Progress, RoundDone
from intellectd.kernels.device import DeviceUnavailable

log = logging.getLogger("intellectd")

# A daemon that has to make an arena for 100 billion parameters takes minutes to answer (1.7 s a GiB).
ATTACH_TIMEOUT_S = 600.0
# Between inner steps training goes on; an answer that takes longer than this is asked for again later.
ATTACH_BETWEEN_STEPS_TIMEOUT_S = 10.0
# While waiting for peers, which may take days, say so now and then, ever more seldom.
WAIT_LOG_FIRST_S = 60.0
WAIT_LOG_S_MAX = 3600.0


class Session:
    """`begin` attaches; `deliver` and `poll` attach again where the daemon went away."""

    def __init__(self, run: str, socket_path: Path, parameters: Parameters, patience: Patience) -> None:
        self.manifest: Mapping[str, Any] = {}
        self.evaluate = False
        self._run, self._path, self._parameters, self._patience = run, socket_path, parameters, patience
        self._encoder: DeviceEncoder | None = encoder_for(parameters)
        self._client: DaemonClient | None = None
        self._seed = 0
        self._taken = False  # attached once: the run and the model are right, so later refusals may pass
        self._finished = False
        self._round: int | None = None  # being trained, or trained and not answered
        self._done: RoundDone | None = None  # delivered and not answered

    def begin(self) -> Assignment | Finish:
        self._round = self._done = None  # who left in the midst of a round and comes again has given it up
        try:
            self._attach(ATTACH_TIMEOUT_S)
        except NotReady as error:
            log.info("%s; asking again for up to %g s", error.message, self._patience.timeout_s)
            self._patience.out_of_work(time.monotonic())
        except LinkLost as error:
            raise self._unavailable(f"no daemon answers on {self._path} ({error})") from error
        return self._await_order()

    def deliver(self, done: RoundDone) -> Assignment | Finish:
        if self._done is not None:  # interrupted while it waited, and gone on: whose turn the arena is, is not known
            self._hang_up()
        self._done = done
        if self._client is None:
            self._patience.out_of_work(time.monotonic())
        else:
            try:
                self._hand_over(self._client, done)
            except LinkLost as error:
                self._lost(error)
        return self._await_order()

    def poll(self) -> Assignment | Finish | None:
        if self._client is None:
            return self._try_between_steps()
        try:
            frame = self._client.receive(0.0)
            if frame is None:
                return None
            given = self._order(frame)
            if isinstance(given, Assignment):
                raise LinkLost(f"it gave round {given.round} in the midst of round {self._round}")
            return self._adopt(given)
        except LinkLost as error:
            self._lost(error)
            return None

    def log(self, progress: Progress) -> None:
        self._tell({"op": "log", **asdict(progress)})

    def evaluated(self, state_round: int, loss: float | None) -> None:
        self._tell({"op": "evaluated", "state_round": state_round, "loss": loss})

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.leave()

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # -- attaching -----------------------------------------------------------------------------------------

    def _attach(self, timeout_s: float) -> None:
        request = {
            "op": "attach",
            "version": ATTACH_VERSION,
            "run": self._run,
            "tensors": self._parameters.to_wire(),
            "training_round": self._round,
            "pid": os.getpid(),
            "encodes": self._encoder is not None,
        }
        client = DaemonClient.attach(self._path, request, self._parameters.layout.elements, timeout_s)
        try:
            self._parameters.mapped(client.descriptor)
            self._welcomed(client)
        except BaseException:
            client.close()
            raise
        self._client, self._taken = client, True
        self._patience.welcomed(time.monotonic())

    def _welcomed(self, client: DaemonClient) -> None:
        answer = client.answer
        try:
            self._seed = seed_of(answer.manifest)
        except Garbled as error:
            raise LinkLost(str(error)) from error
        self.manifest, self.evaluate = answer.manifest, answer.evaluate
        if answer.wants_initial:
            self._parameters.store(client.flat)
            client.send({"op": "initial"})
        else:
            self._run = answer.run  # "" would mean another run, or none, once the host is in a second one
        if self._round is None:
            return
        if not answer.resume:
            log.warning("attached again, but the run went on: what was trained of round %d is dropped", self._round)
            self._round = self._done = None
            return
        log.info("attached again; round %d goes on", self._round)
        if self._done is not None:
            self._hand_over(client, self._done)

    def _reattach(self) -> None:
        """Until the daemon takes us back or the time is up."""
        last = "it was not asked again"
        while True:
            if self._patience.is_over(time.monotonic()):
                raise self._unavailable(
                    f"the daemon on {self._path} did not take this program back within "
                    f"{self._patience.timeout_s:g} s: {last}"
                )
            time.sleep(self._patience.retry_s)
            try:
                return self._attach(ATTACH_TIMEOUT_S)
            except (LinkLost, IntellectdError) as error:
                may_pass = self._taken or isinstance(error, LinkLost | NotReady)
                if not may_pass or isinstance(error, TensorMismatch):
                    raise
                last = error.message if isinstance(error, IntellectdError) else str(error)
                log.debug("no daemon yet: %s", error)
                self._patience.failed(time.monotonic())

    def _try_between_steps(self) -> Assignment | Finish | None:
        if not self._patience.is_due(time.monotonic()):
            return None
        try:
            self._attach(ATTACH_BETWEEN_STEPS_TIMEOUT_S)
        except (LinkLost, IntellectdError) as error:
            log.debug("no daemon yet: %s", error)
            self._patience.failed(time.monotonic())
            return None
        return None if self._round is not None else self._await_order()

    def _lost(self, error: LinkLost) -> None:
        self._hang_up()
        self._patience.lost(time.monotonic())
        if self._finished:
            return
        waits = self._done is not None or self._round is None
        what = "waiting for it" if waits else f"training on to the end of round {self._round}"
        log.warning("lost the daemon on %s (%s); %s", self._path, error, what)

    def _unavailable(self, message: str) -> DaemonUnavailable:
        return DaemonUnavailable(
            message,
            "start it with `systemctl start intellectd` or `intellectd run`; INTELLECTD_SOCKET or socket=... names "
            "another socket, and run=None trains without a daemon",
        )

    # -- words ---------------------------------------------------------------------------------------------

    def _hand_over(self, client: DaemonClient, done: RoundDone) -> None:
        encoded = self._encoded(client)
        if encoded is None:
            self._parameters.store_trained(client.flat)
        client.send({"op": "round_ready", **asdict(done), "encoded": encoded})

    def _encoded(self, client: DaemonClient) -> dict[str, Any] | None:
        """The delta in the arena, encoded where the model is; None where it is to be the daemon's work."""
        codec, encoder = client.answer.encode, self._encoder
        if codec is None or encoder is None or not encoder.holds_anchor:
            return None
        try:
            return asdict(encoder.encode(codec, client.flat.view(torch.uint8)))
        except RuntimeError as error:  # torch's and the driver's: out of memory, and what else a GPU knows
            self._encode_no_more(error)
            client.flat.zero_()  # padding is not stored and must be zero
            return None

    def _load(self, client: DaemonClient, carry: bool) -> None:
        """The arena into the model. Raises LinkLost where work is to be carried over that is nowhere."""
        encoder, codec = self._encoder, client.answer.encode
        if carry:
            if encoder is None or not encoder.holds_anchor:
                raise LinkLost("it asks for work to be carried over that was handed to it whole")
            try:
                return encoder.carry_over(client.flat)
            except RuntimeError as error:  # as in `_encoded`; half of the model may be carried over
                self._encode_no_more(error)
                raise LinkLost("it asked for work to be carried over, which failed") from error
        if encoder is not None and codec is not None:
            try:
                encoder.check(codec)
                return encoder.load(client.flat)
            except (DeviceUnavailable, ValueError, RuntimeError) as error:
                self._encode_no_more(error)
        self._parameters.load(client.flat)

    def _encode_no_more(self, error: Exception) -> None:
        self._encoder = None
        log.warning("deltas are encoded by the daemon from now on, the parameters cross whole: %s", error)

    def _await_order(self) -> Assignment | Finish:
        """No bound: peers may be away for days, and a daemon that dies is noticed at once."""
        wait_s = WAIT_LOG_FIRST_S
        while True:
            try:
                if self._client is None:
                    self._reattach()
                    continue
                frame = self._client.receive(wait_s)
                if frame is not None and frame.get("op") in ("created", "not_created"):
                    self._move_to_created(frame)
                    continue
                if frame is not None:
                    return self._adopt(self._order(frame))
            except LinkLost as error:
                self._lost(error)
                continue
            log.info("the daemon has had no next round for %.0f s (`intellectd status` says why)", wait_s)
            wait_s = min(2 * wait_s, WAIT_LOG_S_MAX)

    def _move_to_created(self, frame: Mapping[str, Any]) -> None:
        """The run that our parameters founded has its id: from here on this program is its trainer."""
        try:
            self._run = created_run(frame)
        except Garbled as error:
            raise LinkLost(f"it sent a garbled frame: {error}") from error
        log.info("the run is created; this program goes on as its trainer")
        self._hang_up()
        self._patience.out_of_work(time.monotonic())

    def _order(self, frame: Mapping[str, Any]) -> Assignment | Finish:
        try:
            return order(frame, self._seed)
        except Garbled as error:
            raise LinkLost(f"it sent a garbled frame: {error}") from error

    def _adopt(self, given: Assignment | Finish) -> Assignment | Finish:
        assert self._client is not None, "an order came from nowhere"
        if given.state_round is not None:
            self._load(self._client, isinstance(given, Assignment) and given.carry)
        self._patience.progressed()
        self._finished = isinstance(given, Finish)
        self._done = None
        self._round = given.round if isinstance(given, Assignment) else None
        return given

    def _tell(self, frame: Mapping[str, Any]) -> None:
        """News that may be lost: training never stops for it."""
        if self._client is None:
            return
        try:
            self._client.send(frame)
        except LinkLost as error:
            self._lost(error)
