"""A trainer of a few tensors that speaks the real attach protocol over the real socket, on the test's clock.

It pulls its parameters towards a target of its own by a rule that needs no torch optimizer, so that a run of these
"learns" deterministically. Misbehaviour is scripted by round.
"""

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import Any

import torch
import trio

from intellectd.daemon.arena import arena_tensor, map_arena
from intellectd.daemon.control import recv_frame, send_frame
from intellectd.daemon.frames import LENGTH_BYTES, FrameClosed, FrameError, decode_body, decode_length
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name
from intellectd.kernels.layout import Layout, TensorSpec

TENSORS = (TensorSpec("embed", (300, 200)), TensorSpec("bias", (40,)))  # five groups: slices for five members
LAYOUT = Layout(TENSORS)
RETRY_S = 1.0
LOGGED = {"tokens_per_s": 100.0, "grad_norm": 1.5, "mfu": 0.4}


class FakeTrainer:
    def __init__(
        self, name: str, round_s: float = 10.0, tensors: tuple[TensorSpec, ...] = TENSORS, run: str = ""
    ) -> None:
        self.name, self.round_s, self.tensors, self.run = name, round_s, tensors, run
        self.slow_rounds: dict[int, float] = {}  # seconds that these rounds take
        self.nan_rounds: list[int] = []
        self.dies_in: list[int] = []  # detaches in the middle of these rounds, once each, and comes back
        self.encodes = False  # it hands over encoded deltas, as an SDK whose model is on a GPU does
        self.frames: list[dict[str, Any]] = []  # heard
        self.delivered: list[int] = []
        self.encoded: list[int | None] = []  # of those, whose delta was encoded here
        self.refused: list[dict[str, Any]] = []
        self.finished = trio.Event()
        self.attached = 0
        self._round: int | None = None
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._over.set()

    def serve(self, nursery: trio.Nursery, path: Path) -> None:
        """Attach, and attach again whenever the daemon hangs up, until `end`."""
        self._scope, self._over = trio.CancelScope(), trio.Event()
        nursery.start_soon(self._serve, path)

    async def end(self) -> None:
        self._scope.cancel()
        await self._over.wait()

    async def _serve(self, path: Path) -> None:
        try:
            with self._scope:
                while not self.finished.is_set():
                    with contextlib.suppress(OSError, FrameError, FrameClosed):
                        await self._attach(path)
                    await trio.sleep(RETRY_S)
        finally:
            self._over.set()

    async def _attach(self, path: Path) -> None:
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        with sock:
            await sock.connect(str(path))
            await send_frame(
                sock,
                {
                    "op": "attach",
                    "version": 1,
                    "run": self.run,
                    "tensors": [[t.name, list(t.shape), t.dtype] for t in self.tensors],
                    "training_round": self._round,
                    "pid": 1,
                    "encodes": self.encodes,
                },
            )
            answer, flat = await _welcome(sock)
            if not answer["ok"]:
                self.refused.append(answer["error"])
                return
            assert flat is not None
            self.attached += 1
            self._codec = answer.get("encode")
            if answer["want"] == "initial":
                flat[: 300 * 200] = torch.linspace(-0.5, 0.5, 300 * 200)
                await send_frame(sock, {"op": "initial"})
            if self._round is not None and not answer["resume"]:
                self._round = None
            elif self._round is not None:
                await self._train(sock, flat, self._round, self._start)
            while await self._obey(sock, flat, await recv_frame(sock)):
                pass

    async def _obey(self, sock: trio.socket.SocketType, flat: torch.Tensor, frame: dict[str, Any]) -> bool:
        self.frames.append(frame)
        if frame["op"] == "finish":
            self._round = None
            self.finished.set()
        if frame["op"] != "round":
            return False
        if frame["carry"]:
            assert self.encodes, "it handed its parameters over"
            self._start = flat - (self._anchor - self._local)
        else:
            self._start = flat.clone()
        self._anchor = flat.clone()
        self._round = frame["round"]
        if frame["state_round"] is not None:
            # A made-up held-out loss: the distance to the target that all trainers share a part of.
            loss = float((self._start - 0.1).abs().mean())
            await send_frame(sock, {"op": "evaluated", "state_round": frame["state_round"], "loss": loss})
        return await self._train(sock, flat, frame["round"], self._start)

    async def _train(self, sock: trio.socket.SocketType, flat: torch.Tensor, round_: int, start: torch.Tensor) -> bool:
        seconds = self.slow_rounds.get(round_, self.round_s)
        if round_ in self.dies_in:
            self.dies_in.remove(round_)
            await trio.sleep(seconds / 2)
            return False
        await send_frame(sock, {"op": "log", "round": round_, "step": 1, "loss": 1.0, "tokens": 250, **LOGGED})
        await trio.sleep(seconds)
        self._local = trained(start, self.name, round_)
        if round_ in self.nan_rounds:
            self._local[LAYOUT.slots[1].offset] = float("nan")
        self.delivered.append(round_)
        await send_frame(
            sock,
            {
                "op": "round_ready",
                "round": round_,
                "tokens": 1000,
                "steps": 4,
                "loss": 1.0 / round_,
                "seconds": seconds,
                "encoded": self._handed_over(flat),
            },
        )
        return True

    def _handed_over(self, flat: torch.Tensor) -> dict[str, object] | None:
        """The parameters into the arena, or the delta's bytes and what is said of them."""
        if self._codec is None:
            flat.copy_(self._local)
            return None
        codec = codec_by_name(self._codec)
        out = flat.view(torch.uint8)[: codec.encoded_bytes(flat.numel())]
        stats = ops.encode_delta(codec, self._anchor, self._local, out)
        self.encoded.append(self._round)
        return {
            "codec": codec.name,
            "norm": struct.pack(">f", stats.norm).hex(),
            "refused": stats.first_nonfinite,
        }


def trained(start: torch.Tensor, name: str, round_: int) -> torch.Tensor:
    """A tenth of the way to 0.1, and noise that is this trainer's and this round's own."""
    generator = torch.Generator().manual_seed(sum(name.encode()) * 1000 + round_)
    noise = torch.randn(start.numel(), generator=generator) * 1e-3
    return start + 0.1 * (0.1 - start) + noise


async def _welcome(sock: trio.socket.SocketType) -> tuple[dict[str, Any], torch.Tensor | None]:
    """The answer, and the arena that rides on its first byte. Closed by the daemon: FrameClosed."""
    header, rights, _, _ = await sock.recvmsg(LENGTH_BYTES, socket.CMSG_SPACE(4))
    if len(header) < LENGTH_BYTES:
        raise FrameClosed("no answer")
    body = b""
    while len(body) < decode_length(header):
        piece = await sock.recv(decode_length(header) - len(body))
        if not piece:
            raise FrameClosed("half an answer")
        body += piece
    answer = decode_body(body)
    flat = None
    if rights:
        descriptor = int.from_bytes(rights[0][2][:4], "little")
        flat = arena_tensor(map_arena(descriptor, answer["elements"]))
        os.close(descriptor)
    return answer, flat
