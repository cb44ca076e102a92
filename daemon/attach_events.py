"""What an attached trainer may say, as checked values. Owns the frames' fields and their ranges.

Refuses to know whose turn it is (attach.py does) and what follows from it. Pure: a frame in, an event or the
reason for detaching out.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intellectd.kernels.codec import CODECS
from intellectd.kernels.layout import TensorSpec

COUNTER_MAX = 2**63 - 1  # anything real fits a signed 64-bit counter
SECONDS_MAX = 10 * 365 * 86400.0  # no round takes ten years
_FP32_HEX = re.compile("[0-9a-f]{8}")
RATE_MAX = 1e15  # tokens/s, far above all of today's machines together


class Detached(Exception):
    """The trainer sent what no trainer sends; the text says what."""


@dataclass(frozen=True)
class TrainerAttached:
    tensors: tuple[TensorSpec, ...]
    pid: int
    training_round: int | None


@dataclass(frozen=True)
class TrainerInitial:
    """The first parameters of a new run are in the arena."""


@dataclass(frozen=True)
class EncodedDelta:
    """The arena begins with enc(anchor − local parameters), which stay with the trainer."""

    codec: str
    norm: str  # of the delta, fp32 hex
    refused: int | None  # the first element that could not be encoded


@dataclass(frozen=True)
class TrainerReady:
    """The local parameters after this round's inner steps are in the arena; or, with `encoded`, the delta is."""

    round: int
    tokens: int
    steps: int
    loss: float | None
    seconds: float
    encoded: EncodedDelta | None = None


@dataclass(frozen=True)
class TrainerLog:
    round: int
    step: int
    loss: float | None
    tokens: int
    tokens_per_s: float
    grad_norm: float | None = None  # these two of trainers that know them
    mfu: float | None = None


@dataclass(frozen=True)
class TrainerEvaluated:
    """Held-out loss of the anchor after this round; None: not a number."""

    state_round: int
    loss: float | None


@dataclass(frozen=True)
class TrainerDetached:
    reason: str


TrainerEvent = TrainerAttached | TrainerInitial | TrainerReady | TrainerLog | TrainerEvaluated | TrainerDetached


def read_event(frame: Mapping[str, Any]) -> TrainerInitial | TrainerReady | TrainerLog | TrainerEvaluated:
    op = frame.get("op")
    match op:
        case "initial":
            return TrainerInitial()
        case "round_ready":
            return TrainerReady(
                count(frame, "round"),
                count(frame, "tokens"),
                count(frame, "steps"),
                _loss(frame),
                _seconds(frame),
                _encoded(frame.get("encoded")),
            )
        case "log":
            return TrainerLog(
                count(frame, "round"),
                count(frame, "step"),
                _loss(frame),
                count(frame, "tokens"),
                _rate(frame),
                _known(frame, "grad_norm"),
                _known(frame, "mfu"),
            )
        case "evaluated":
            return TrainerEvaluated(count(frame, "state_round"), _loss(frame))
    raise Detached(f"unknown op {op!r:.40}")


def count(frame: Mapping[str, Any], key: str) -> int:
    value = frame.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNTER_MAX:
        raise Detached(f"{key} is {value!r:.40}, not a count")
    return value


def _encoded(given: object) -> EncodedDelta | None:
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("codec") not in CODECS:
        raise Detached("encoded is no map that names a codec")
    norm = given.get("norm")
    if not isinstance(norm, str) or not _FP32_HEX.fullmatch(norm):
        raise Detached("norm is no fp32 in hex")
    refused = None if given.get("refused") is None else count(given, "refused")
    if refused is None and not _is_length(norm):
        raise Detached(f"norm is {norm}, not the length of a vector of numbers")
    return EncodedDelta(given["codec"], norm, refused)


def _is_length(norm: str) -> bool:
    value: float = struct.unpack(">f", bytes.fromhex(norm))[0]
    return 0 <= value < math.inf


def _loss(frame: Mapping[str, Any]) -> float | None:
    """None is what the SDK sends for NaN and infinity, which JSON and Prometheus could not carry on."""
    return _known(frame, "loss")


def _known(frame: Mapping[str, Any], key: str) -> float | None:
    value = frame.get(key)
    return None if value is None else _number(value, key)


def _seconds(frame: Mapping[str, Any]) -> float:
    return _within(_number(frame.get("seconds"), "seconds"), "seconds", SECONDS_MAX)


def _rate(frame: Mapping[str, Any]) -> float:
    return _within(_number(frame.get("tokens_per_s"), "tokens_per_s"), "tokens_per_s", RATE_MAX)


def _within(value: float, key: str, limit: float) -> float:
    if not 0 <= value <= limit:
        raise Detached(f"{key} is {value}, not between 0 and {limit:g}")
    return value


def _number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Detached(f"{key} is {value!r:.40}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Detached(f"{key} is not finite")
    return number
