"""A trainer's first frame, checked, and the comparison of its tensors with the run's.

Owns who is refused and in which words. Refuses to know sockets and what happens after.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intellectd.daemon.attach_events import Detached, count
from intellectd.daemon.control import ControlError
from intellectd.kernels.layout import TENSORS_MAX, Layout, LayoutError, Slot, TensorSpec, plain_name

RUN_CHARACTERS_MAX = 256  # a run id is a short hash


@dataclass(frozen=True)
class AttachRequest:
    run: str  # "" is the only run
    tensors: tuple[TensorSpec, ...]
    layout: Layout
    training_round: int | None
    pid: int
    encodes: bool = False  # it may hand over an encoded delta in place of its parameters


def read_request(frame: Mapping[str, Any]) -> AttachRequest:
    """Raises ControlError("bad_attach"), which the control server answers."""
    try:
        run = frame.get("run")
        if not isinstance(run, str) or len(run) > RUN_CHARACTERS_MAX:
            raise Detached("run is no run id")
        tensors = _tensors(frame.get("tensors"))
        training_round = None if frame.get("training_round") is None else count(frame, "training_round")
        encodes = frame.get("encodes") is True
        return AttachRequest(run, tensors, Layout(tensors), training_round, count(frame, "pid"), encodes)
    except (Detached, LayoutError) as error:
        raise ControlError(
            "bad_attach", f"the attach frame is not usable: {error}", "upgrade trainer or daemon"
        ) from error


def check_tensors(expected: Layout, request: AttachRequest) -> None:
    """Raises ControlError("tensor_mismatch") that names the first tensor which differs."""
    ours, theirs = expected.slots, request.layout.slots
    for at in range(max(len(ours), len(theirs))):
        ours_at = ours[at] if at < len(ours) else None
        theirs_at = theirs[at] if at < len(theirs) else None
        if ours_at is None or theirs_at is None or _alike(ours_at) != _alike(theirs_at):
            raise ControlError(
                "tensor_mismatch",
                f"tensor {at + 1} of the trainer is {_words(theirs_at)}, of the run {_words(ours_at)}",
                "build the same model as whoever founded the run; `intellectd runs --json` shows its `config`",
            )


def _alike(slot: Slot) -> tuple[str, tuple[int, ...]]:
    """Of a run that a wrapped model founded, or a trainer that leaves the wrapper's name in: the same as without."""
    return plain_name(slot.name).removeprefix("module."), slot.shape


def _words(slot: Slot | None) -> str:
    return "missing" if slot is None else f"{slot.name!r} {list(slot.shape)}"


def _tensors(wire: object) -> tuple[TensorSpec, ...]:
    if not isinstance(wire, list) or len(wire) > TENSORS_MAX:
        raise Detached(f"tensors is no list of at most {TENSORS_MAX}")
    return tuple(_tensor(entry) for entry in wire)


def _tensor(entry: object) -> TensorSpec:
    if not isinstance(entry, list) or len(entry) != 3:
        raise Detached("a tensor is [name, shape, dtype]")
    name, shape, dtype = entry
    if not isinstance(name, str) or not isinstance(shape, list) or not isinstance(dtype, str):
        raise Detached("a tensor is [name: text, shape: list of integers, dtype: text]")
    return TensorSpec(name, tuple(shape), dtype)
