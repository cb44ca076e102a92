"""The daemon's frames as the trainer reads them, checked: types and ranges before anything is believed.

Owns the words of the attach protocol on the trainer's side. Refuses to know of sockets and tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intellectd.daemon.sdk.errors import (
    AttachRefused,
    IntellectdError,
    RunNotFound,
    TensorMismatch,
)
from intellectd.daemon.sdk.rounds import COUNTER_MAX, STREAMS_MAX, Assignment, Finish, Stream

ATTACH_VERSION = 1
REASON_CHARACTERS_MAX = 1000


class Garbled(Exception):
    """A frame that no daemon of this version sends; the text says what is wrong with it."""


class NotReady(IntellectdError):
    """The daemon has the run but no parameters yet (it is still joining): ask again."""


@dataclass(frozen=True)
class Welcome:
    """The daemon's answer to `attach`."""

    run: str
    peer: str
    elements: int
    wants_initial: bool
    manifest: Mapping[str, Any]
    evaluate: bool
    resume: bool
    encode: str | None = None  # the codec in which deltas may be handed over


_REFUSALS: dict[str, type[IntellectdError]] = {
    "tensor_mismatch": TensorMismatch,
    "no_such_run": RunNotFound,
    "not_ready": NotReady,
}


def welcome(frame: Mapping[str, Any]) -> Welcome:
    """The answer, or the daemon's refusal raised as the error it stands for."""
    if frame.get("ok") is not True:
        raise _refusal(frame.get("error"))
    want = _text(frame, "want")
    if want not in ("initial", "round"):
        raise Garbled(f"want is {want[:20]!r}, not initial or round")
    manifest = frame.get("manifest")
    if not isinstance(manifest, dict):
        raise Garbled("manifest is no map")
    return Welcome(
        run=_text(frame, "run"),
        peer=_text(frame, "peer"),
        elements=_count(frame, "elements"),
        wants_initial=want == "initial",
        manifest=manifest,
        evaluate=frame.get("evaluate") is True,
        resume=frame.get("resume") is True,
        encode=None if frame.get("encode") is None else _text(frame, "encode"),
    )


def created_run(frame: Mapping[str, Any]) -> str:
    """The id of the run that now exists, or the reason why it does not, raised as an error."""
    if frame.get("op") == "not_created":
        raise _refusal(frame.get("error"))
    return _text(frame, "run")


def order(frame: Mapping[str, Any], seed: int) -> Assignment | Finish:
    """A frame after the welcome: train a round, or finish."""
    op = frame.get("op")
    if op == "round":
        return _assignment(frame, seed)
    if op == "finish":
        state_round = None if frame.get("state_round") is None else _count(frame, "state_round")
        return Finish(_text(frame, "reason")[:REASON_CHARACTERS_MAX], state_round)
    raise Garbled(f"unknown op {op!r:.40}")


def seed_of(manifest: Mapping[str, Any]) -> int:
    seed = manifest.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise Garbled("the manifest's seed is no integer")
    return seed


def _assignment(frame: Mapping[str, Any], seed: int) -> Assignment:
    streams = frame.get("streams")
    if not isinstance(streams, list) or not 0 < len(streams) <= STREAMS_MAX:
        raise Garbled(f"streams is no list of 1 to {STREAMS_MAX}")
    steps = _count(frame, "steps")
    if steps == 0:
        raise Garbled("steps is 0")
    return Assignment(
        round=_count(frame, "round"),
        steps=steps,
        streams=tuple(_stream(entry) for entry in streams),
        tokens_total=_count(frame, "tokens_total"),
        state_round=_count(frame, "state_round"),
        carried_over=frame.get("carried_over") is True,
        carry=frame.get("carry") is True,
        seed=seed,
    )


def _stream(entry: object) -> Stream:
    if not isinstance(entry, list) or len(entry) != 2:
        raise Garbled("a stream is [round, slot]")
    pair = {"round": entry[0], "slot": entry[1]}
    return Stream(_count(pair, "round"), _count(pair, "slot"))


def _refusal(error: object) -> IntellectdError:
    if not isinstance(error, dict):
        raise Garbled("an answer that is neither ok nor an error")
    code, message, hint = (_text(error, key)[:REASON_CHARACTERS_MAX] for key in ("code", "message", "hint"))
    return _REFUSALS.get(code, AttachRefused)(message, hint)


def _text(frame: Mapping[str, Any], key: str) -> str:
    value = frame.get(key)
    if not isinstance(value, str):
        raise Garbled(f"{key} is no text")
    return value


def _count(frame: Mapping[str, Any], key: str) -> int:
    value = frame.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNTER_MAX:
        raise Garbled(f"{key} is no count")
    return value
