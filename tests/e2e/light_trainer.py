"""The tiny trainer without torch, which takes longer to import than the rest of a test: frames, arena and numpy.

`python light_trainer.py GATE [MIB]` does what tiny_trainer.py does, in the words of the attach protocol; with MIB the
model has so much more, which is not trained, so that there is something to catch up with. What it leaves
out, the SDK has of its own: to attach again, to carry work over, to let a run go on where a daemon came back.
"""

import contextlib
import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np

from intellectd.daemon.arena import map_arena
from intellectd.daemon.frames import LENGTH_BYTES, FrameClosed, decode_body, decode_length, recv_frame, send_frame
from intellectd.daemon.sdk.messages import order, welcome
from intellectd.daemon.sdk.rounds import Assignment, Finish
from intellectd.kernels.layout import Layout, TensorSpec

WIDTH = 24  # 600 parameters: more than one block of the codec, with padding
BATCH = 8
POSITIONS = 2**31
LR = 0.5
TENSORS: list[list[Any]] = [["weight", [WIDTH, WIDTH], "float32"], ["bias", [WIDTH], "float32"]]

Array = np.ndarray[Any, np.dtype[np.float32]]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


TRUTH = normal(1, WIDTH, WIDTH)


class Model:
    """Learns to be TRUTH, in the daemon's memory."""

    def __init__(self, arena: Array) -> None:
        layout = Layout([TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in TENSORS])
        tensors = [arena[slot.offset : slot.offset + slot.size].reshape(slot.shape) for slot in layout.slots]
        self.weight, self.bias, *self.ballast = tensors

    def error(self, inputs: Array) -> Array:
        return inputs @ self.weight + self.bias - inputs @ TRUTH

    def loss(self, inputs: Array) -> float:
        return float(np.square(self.error(inputs)).mean())

    def learn(self, inputs: Array) -> float:
        """One step down the gradient of the mean square; the loss before it."""
        slope = 2 * self.error(inputs) / inputs.size
        loss = self.loss(inputs)
        self.weight -= LR * inputs.T @ slope
        self.bias -= LR * slope.sum(axis=0)
        return loss


def attach() -> tuple[socket.socket, dict[str, Any], Array]:
    """The daemon that starts this program names run and socket in its environment."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(os.environ["INTELLECTD_SOCKET"])
    hello = {"op": "attach", "version": 1, "run": os.environ.get("INTELLECTD_RUN", ""), "tensors": TENSORS}
    send_frame(sock, {**hello, "training_round": None, "pid": os.getpid()})
    header, descriptors, _, _ = socket.recv_fds(sock, LENGTH_BYTES, 1, socket.MSG_WAITALL)
    answer = decode_body(sock.recv(decode_length(header), socket.MSG_WAITALL))
    elements = welcome(answer).elements  # raises what a refusal stands for
    return sock, answer, np.frombuffer(map_arena(descriptors[0], elements), dtype=np.float32)


def pass_gate(gate: Path, round_number: int) -> None:
    """Returns when that round may be trained."""
    with gate.open("rb") as file:
        fcntl.lockf(file, fcntl.LOCK_SH, 1, round_number)


def train(model: Model, work: Assignment) -> dict[str, Any]:
    losses = []
    for step in range(work.steps):
        at = [work.position(step * BATCH + i, POSITIONS) for i in range(BATCH)]
        losses.append(model.learn(np.stack([normal(position, WIDTH) for position in at])))
    tokens, loss = work.steps * BATCH, sum(losses) / len(losses)
    return {"op": "round_ready", "round": work.round, "tokens": tokens, "steps": work.steps, "loss": loss, "seconds": 1}


def main(gate: Path) -> None:
    sock, answer, arena = attach()
    model = Model(arena)
    if answer["want"] == "initial":
        model.weight[:] = normal(2, WIDTH, WIDTH) / WIDTH
        for tensor in model.ballast:
            tensor[:] = normal(3, *tensor.shape)
        send_frame(sock, {"op": "initial"})
        recv_frame(sock)  # "created": the new run starts a trainer of its own
        return
    while not isinstance(work := order(recv_frame(sock), answer["manifest"]["seed"]), Finish):
        if answer["evaluate"] and not work.carried_over:
            loss = model.loss(np.stack([normal(i, WIDTH) for i in range(64)]))
            send_frame(sock, {"op": "evaluated", "state_round": work.state_round, "loss": loss})
        pass_gate(gate, work.round)
        send_frame(sock, train(model, work))


if __name__ == "__main__":
    with contextlib.suppress(OSError, FrameClosed):  # a daemon that dies takes its trainer with it
        if len(sys.argv) > 2:
            TENSORS.append(["ballast", [int(sys.argv[2]), 2**18], "float32"])
        main(Path(sys.argv[1]))
