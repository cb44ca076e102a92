"""Several processes of one host as one peer: rank 0 speaks with the daemon, and all ranks hand over their shards.

Owns what ranks say to each other, over a process group of their own: rank 0 leads, the others follow its words until
it has an answer for them. Refuses to know the training loop and what the daemon says. Nothing is pickled.

All ranks must make the same calls in the same order, as they do for FSDP itself.
"""

import datetime
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import distributed

from intellectd.daemon.arena import ArenaError, arena_tensor, map_arena
from intellectd.daemon.frames import LENGTH_BYTES, decode_body, encode_frame
from intellectd.daemon.sdk import errors
from intellectd.daemon.sdk.errors import IntellectdError, ModelUnsupported
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.daemon.sdk.rounds import Assignment, Finish, Progress, RoundDone, Rounds, Stream

# Rank 0 may wait for peers for days while the others wait for it; a rank that dies is noticed by its connection.
WAIT_MAX = datetime.timedelta(days=30)

Given = Assignment | Finish
log = logging.getLogger("intellectd")


class Ranks:
    """The process group, and messages from rank 0 to all others."""

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        """Collective: every rank of `group` (default: all) makes one. Of gloo, whatever the job itself uses."""
        members = None if group is None else distributed.get_process_group_ranks(group)
        # Without a word to who is not of them: groups that are made at one time, each a peer, would be of one name.
        self._group: Any = distributed.new_group(
            members, timeout=WAIT_MAX, backend="gloo", use_local_synchronization=True
        )
        self.rank, self.count = distributed.get_rank(self._group), distributed.get_world_size(self._group)
        self._first = distributed.get_global_rank(self._group, 0)

    def tell(self, message: Mapping[str, Any] | None) -> None:
        """From rank 0. None, which is said between all steps, is eight bytes."""
        body = b"" if message is None else encode_frame(message)[LENGTH_BYTES:]
        distributed.broadcast(torch.tensor([len(body)], device="cpu"), self._first, self._group)
        if body:
            distributed.broadcast(torch.frombuffer(bytearray(body), dtype=torch.uint8), self._first, self._group)

    def hear(self) -> dict[str, Any] | None:
        length = torch.zeros(1, dtype=torch.int64, device="cpu")
        distributed.broadcast(length, self._first, self._group)
        if not length.item():
            return None
        body = torch.empty(int(length.item()), dtype=torch.uint8, device="cpu")
        distributed.broadcast(body, self._first, self._group)
        return decode_body(bytes(body.numpy()))

    def all_did(self, done: bool) -> bool:
        """Every rank says whether it did; so it is a barrier, too."""
        count = torch.tensor([int(not done)], device="cpu")
        distributed.all_reduce(count, group=self._group)
        return not count.item()

    def sums(self, *values: float) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device="cpu")
        distributed.all_reduce(total, group=self._group)
        return total.tolist()

    def agree(self, data: bytes) -> bool:
        """Whether all ranks have the same."""
        mine = torch.frombuffer(bytearray(hashlib.sha256(data).digest()), dtype=torch.uint8).to(torch.int64)
        low, high = mine.clone(), mine.clone()
        distributed.all_reduce(low, distributed.ReduceOp.MIN, self._group)
        distributed.all_reduce(high, distributed.ReduceOp.MAX, self._group)
        return bool(torch.equal(low, high))


class SharedParameters(Parameters):
    """Of rank 0: to store and load them is a word to all ranks, and done when all have."""

    def __init__(self, model: torch.nn.Module, ranks: Ranks) -> None:
        super().__init__(model, ranks.rank, ranks.count)
        self._ranks, self._warned = ranks, False
        if not ranks.agree(repr(self.to_wire()).encode()):
            raise ModelUnsupported("the ranks have different parameters", "shard one model over them (`fully_shard`)")

    def mapped(self, descriptor: int) -> None:
        self._ranks.tell({"do": "map", "pid": os.getpid(), "fd": descriptor})
        if not self._ranks.all_did(True):
            raise ModelUnsupported(
                "a rank cannot map the daemon's memory", "all ranks must be of one host, one user and one container"
            )

    def store(self, flat: torch.Tensor) -> None:
        self._all("store", super().store, flat)

    def store_trained(self, flat: torch.Tensor) -> None:
        self._all("store_trained", super().store_trained, flat)
        if not self._ranks.agree(self.fingerprint()) and not self._warned:
            self._warned = True
            log.warning(
                "the ranks' models differ: of what is whole on each, rank 0's alone is handed over, with the tokens of "
                "all; wrap the model in DistributedDataParallel, or shard it with `fully_shard`"
            )

    def load(self, flat: torch.Tensor) -> None:
        self._all("load", super().load, flat)

    def _all(self, what: str, mine: Callable[[torch.Tensor], None], flat: torch.Tensor) -> None:
        self._ranks.tell({"do": what})
        try:
            mine(flat)
        except BaseException:
            self._ranks.all_did(False)  # the others ask for that, and would wait for weeks
            raise
        if not self._ranks.all_did(True):
            what = what.removesuffix("_trained")
            raise IntellectdError(f"a rank could not {what} its part of the parameters", "its own error tells why")


class Led:
    """The rounds of rank 0, told to all: `Rounds` for a loop that runs on every rank."""

    def __init__(self, rounds: Rounds, ranks: Ranks) -> None:
        self._rounds, self._ranks = rounds, ranks

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self._rounds.manifest

    @property
    def evaluate(self) -> bool:
        return self._rounds.evaluate

    def begin(self) -> Given:
        return self._told(self._rounds.begin)

    def deliver(self, done: RoundDone) -> Given:
        whole = summed(done, self._ranks)
        return self._told(lambda: self._rounds.deliver(whole))

    def poll(self) -> Given | None:
        try:
            given = self._rounds.poll()
        except Exception as error:
            self._ranks.tell(_raised(error))
            raise
        if given is None:
            self._ranks.tell(None)
            return None
        return self._shared(given)

    def log(self, progress: Progress) -> None:
        """All ranks do as much as this one, as nearly as a line of a log needs it."""
        count = self._ranks.count
        tokens, rate = progress.tokens * count, progress.tokens_per_s * count
        self._rounds.log(replace(progress, tokens=tokens, tokens_per_s=rate))

    def evaluated(self, state_round: int, loss: float | None) -> None:
        self._rounds.evaluated(state_round, loss)

    def close(self) -> None:
        self._rounds.close()

    def _told(self, work: Callable[[], Given]) -> Given:
        try:
            given = work()
        except Exception as error:
            self._ranks.tell(_raised(error))
            raise
        return self._shared(given)

    def _shared(self, given: Given) -> Given:
        kind = "assignment" if isinstance(given, Assignment) else "finish"
        fields = asdict(given)
        if isinstance(given, Assignment):
            fields["streams"] = [[s.round, s.slot] for s in given.streams]
        facts = {"manifest": dict(self.manifest), "evaluate": self.evaluate}
        self._ranks.tell({"do": "given", "kind": kind, "fields": fields, **facts})
        return _of_rank(given, self._ranks)


class Following:
    """The rounds of every other rank: what rank 0 says. Holds its own part of the parameters."""

    def __init__(self, model: torch.nn.Module, ranks: Ranks) -> None:
        self._ranks, self._parameters = ranks, Parameters(model, ranks.rank, ranks.count)
        self.manifest: Mapping[str, Any] = {}
        self.evaluate = False
        self._flat: torch.Tensor | None = None
        if not ranks.agree(repr(self._parameters.to_wire()).encode()):
            raise ModelUnsupported("the ranks have different parameters", "shard one model over them (`fully_shard`)")

    def begin(self) -> Given:
        return self._until_given()

    def deliver(self, done: RoundDone) -> Given:
        summed(done, self._ranks)
        return self._until_given()

    def poll(self) -> Given | None:
        return self._follow()

    def log(self, progress: Progress) -> None:
        """Rank 0 does, for all."""

    def evaluated(self, state_round: int, loss: float | None) -> None:
        """Likewise."""

    def close(self) -> None:
        self._flat = None

    def _until_given(self) -> Given:
        given = self._follow()
        if given is None:
            raise IntellectdError("the ranks are out of step", "every rank must make the same calls in the same order")
        return given

    def _follow(self) -> Given | None:
        while (message := self._ranks.hear()) is not None:
            if message["do"] == "raised":
                raise _error_of(message)
            if message["do"] == "given":
                self.manifest, self.evaluate = message["manifest"], message["evaluate"]
                return _of_rank(_given_of(message), self._ranks)
            self._obey(message)
        return None

    def _obey(self, message: Mapping[str, Any]) -> None:
        """Rank 0 hears whether it was done before this rank's own error is raised."""
        try:
            if message["do"] == "map":
                self._map(message["pid"], message["fd"])
            else:
                assert self._flat is not None
                mine = self._parameters
                acts = {"store": mine.store, "store_trained": mine.store_trained, "load": mine.load}
                acts[message["do"]](self._flat)
        except (OSError, ArenaError, RuntimeError):
            self._ranks.all_did(False)
            if message["do"] != "map":
                raise
        else:
            if self._ranks.all_did(True) and message["do"] == "store_trained":
                self._ranks.agree(self._parameters.fingerprint())

    def _map(self, pid: int, descriptor: int) -> None:
        """A descriptor of rank 0's, opened by way of /proc: a memfd has no other name."""
        opened = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._flat = arena_tensor(map_arena(opened, self._parameters.layout.elements))
        finally:
            os.close(opened)


def summed(done: RoundDone, ranks: Ranks) -> RoundDone:
    """Tokens of all ranks, and the mean of their losses: each saw data of its own."""
    known = done.loss is not None
    tokens, loss, count = ranks.sums(done.tokens, done.loss if done.loss is not None else 0.0, float(known))
    return replace(done, tokens=round(tokens), loss=loss / count if count else None)


def _of_rank(given: Given, ranks: Ranks) -> Given:
    return replace(given, rank=ranks.rank, ranks=ranks.count) if isinstance(given, Assignment) else given


def _given_of(message: Mapping[str, Any]) -> Given:
    fields = dict(message["fields"])
    if message["kind"] == "finish":
        return Finish(**fields)
    fields["streams"] = tuple(Stream(*pair) for pair in fields["streams"])
    return Assignment(**fields)


def _raised(error: Exception) -> dict[str, Any]:
    if isinstance(error, IntellectdError):
        return {"do": "raised", "kind": type(error).__name__, "message": error.message, "hint": error.hint}
    return {"do": "raised", "kind": "", "message": f"rank 0 failed: {error}", "hint": "its own error tells more"}


def _error_of(message: Mapping[str, Any]) -> IntellectdError:
    kind = getattr(errors, str(message["kind"]), IntellectdError) if message["kind"] else IntellectdError
    return kind(message["message"], message["hint"]) if issubclass(kind, IntellectdError) else IntellectdError("", "")
