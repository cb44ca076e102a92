"""A job of several ranks as one peer: what rank 0 leads, and two ranks of FSDP2 that end with one process's bits."""

import logging
import logging.handlers
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

import intellectd
from intellectd.daemon.arena import arena_tensor, create_arena, map_arena
from intellectd.daemon.attach_events import TrainerAttached, TrainerReady
from intellectd.daemon.sdk.diloco import _check_optimizer
from intellectd.daemon.sdk.errors import ModelUnsupported, RunNotFound
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.daemon.sdk.patience import Patience
from intellectd.daemon.sdk.placed import placed
from intellectd.daemon.sdk.ranks import Following, Led, Ranks, SharedParameters, _error_of, _given_of
from intellectd.daemon.sdk.rounds import Assignment, Finish, RoundDone, Stream
from intellectd.daemon.sdk.session import Session
from intellectd.kernels.layout import Slot
from tests.daemon.local_daemon import RUN_ID, Run, serving

SAMPLES = 8  # a step
ROUNDS, STEPS = 3, 2


def model_of() -> nn.Module:
    """Small numbers in few binary digits, so that no sum is rounded, in whatever order it is made."""
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))  # rows that two ranks cannot share evenly
    with torch.no_grad():
        for parameter in model.parameters():
            count = parameter.numel()
            parameter.copy_((torch.arange(count) % 5 - 2).view(parameter.shape) / 4)
    return model


def sample(place: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(place)
    numbers = torch.randint(-2, 3, (10,), generator=generator).float()
    return numbers[:7], numbers[7:]


def step(d: intellectd.DiLoCo, model: nn.Module, optimizer: torch.optim.Optimizer, samples: int) -> None:
    """Of the whole model's two layers the second alone learns: gradients are then sums of products of small numbers."""
    places = [d.assignment.position(d.step * samples + i, 1000) for i in range(samples)]
    batch = [sample(place) for place in places]
    inputs, wants = torch.stack([x for x, _ in batch]), torch.stack([y for _, y in batch])
    loss = (model(inputs) * wants).sum() / samples
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    d.log(loss=2.0, tokens=samples)


def train(path: str, model: nn.Module, samples: int) -> None:
    parameters = list(model.parameters())
    for parameter in parameters[:2]:
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(parameters[2:], lr=0.125)
    for parameter in parameters[:2]:
        parameter.requires_grad_(True)  # they count, and stay as they are
    with intellectd.DiLoCo(RUN_ID, model, optimizer, socket=path) as d:
        while not d.finished:
            step(d, model, optimizer, samples)
        assert d.finish_reason == "all rounds are done" and d.manifest["name"] == "toy"


def rank(number: int, ranks: int, folder: str, path: str) -> None:
    from torch.distributed.fsdp import fully_shard

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=ranks)
    model = model_of()
    for layer in model:
        fully_shard(layer)
    train(path, fully_shard(model), SAMPLES // ranks)
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # torch's own threads end a process with an abort now and then, when all is done


@pytest.mark.slow
def test_two_ranks_of_fsdp2_are_one_peer(tmp_path: Path) -> None:
    """They hand over shards of one state, outlive their daemon, and end with the bits of a single process."""
    path = tmp_path / "d.sock"
    alone = Run(rounds=ROUNDS, steps=STEPS)
    with serving(alone, path):
        train(str(path), model_of(), SAMPLES)
    run = Run(rounds=ROUNDS, steps=STEPS, die_on_ready=2)
    spawn = multiprocessing.get_context("spawn")
    with serving(run, path):
        ranks = [spawn.Process(target=rank, args=(n, 2, str(tmp_path), str(path))) for n in range(2)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(300)
        assert [process.exitcode for process in ranks] == [0, 0]
    assert run.anchor is not None and alone.anchor is not None
    for slot in alone.layout.slots if alone.layout else ():  # the toy adds 1 to padding, too
        here = slice(slot.offset, slot.offset + slot.size)
        assert torch.equal(run.anchor[here], alone.anchor[here]), slot.name
    first, learnt = model_of().state_dict()["1.weight"].view(-1), run.anchor[2 * 256 : 2 * 256 + 15]
    assert not torch.equal(first + ROUNDS, learnt)  # the toy adds 1 a round
    ready = {event.round: event for event in run.heard(TrainerReady)}
    assert [(ready[n].tokens, ready[n].steps, ready[n].loss) for n in (1, 2, 3)] == [(STEPS * SAMPLES, STEPS, 2.0)] * 3
    assert len(run.heard(TrainerAttached)) == 2


def one_of_four(number: int, folder: str) -> None:
    """0 and 1 are a peer, and 2 and 3. The model of 1 is another one than that of 0."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    heard = logging.handlers.BufferingHandler(1000)
    logging.getLogger("intellectd").addHandler(heard)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=4)
    pairs = [distributed.new_group(pair) for pair in ([0, 1], [2, 3])]
    ranks, model = Ranks(pairs[number // 2]), model_of()
    assert (ranks.rank, ranks.count) == (number % 2, 2) and ranks.sums(float(number)) == [1.0 if number < 2 else 5.0]
    if number == 1:
        model.requires_grad_(False).get_parameter("0.weight").add_(1.0)
        model.requires_grad_(True)
    if ranks.rank == 0:
        parameters = SharedParameters(model, ranks)
        descriptor = create_arena(parameters.layout.elements)
        parameters.mapped(descriptor)
        for _ in range(2):
            parameters.store_trained(arena_tensor(map_arena(descriptor, parameters.layout.elements)))
        ranks.tell(None)
    else:
        assert Following(model, ranks).poll() is None
    warnings = [record.getMessage() for record in heard.buffer if record.levelno == logging.WARNING]
    assert len(warnings) == (number == 0) and all("the ranks' models differ" in warning for warning in warnings)
    distributed.barrier()
    os._exit(0)


@pytest.mark.slow
def test_two_groups_of_one_job_are_two_peers(tmp_path: Path) -> None:
    """As of two hosts, each with its daemon: made at one time and of one name, their ranks met each other's. And where
    each rank trains a model of its own, it is told: the work of all but one is lost, and weighs in the average."""
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=one_of_four, args=(n, str(tmp_path)), daemon=True) for n in range(4)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    assert [process.exitcode for process in ranks] == [0] * 4


# ---- rank 0's part, in a group of one


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        yield Ranks()
    finally:
        distributed.destroy_process_group()


def test_what_rank_0_leads_is_a_session(ranks: Ranks, tmp_path: Path) -> None:
    path, model, run = tmp_path / "d.sock", model_of(), Run(rounds=2, steps=1)
    parameters = SharedParameters(model, ranks)
    assert parameters.device is not None and Parameters(model, 0, 2).device is None
    with serving(run, path):
        led = Led(Session(RUN_ID, path, parameters, Patience()), ranks)
        given = led.begin()
        assert isinstance(given, Assignment) and (given.round, given.rank, given.ranks) == (1, 0, 1)
        assert led.poll() is None and led.manifest["name"] == "toy" and led.evaluate
        for number in (1, 2):
            given = led.deliver(RoundDone(number, 5, 1, None, 0.1))
        assert isinstance(given, Finish)
        led.close()
    assert [event.tokens for event in run.heard(TrainerReady)] == [5, 5]


def test_what_rank_0_says_is_what_the_others_hear(ranks: Ranks) -> None:
    given = Assignment(3, 4, (Stream(3, 0), Stream(2, 1)), 50, 2, False, 7)
    told: list[Any] = []
    led = Led(FakeRounds(given), replace_tell(ranks, told))
    led.begin()
    assert replace(_given_of(told[0]), rank=0, ranks=1) == given
    assert told[0]["manifest"] == {"name": "fake"} and told[0]["evaluate"] is True
    led = Led(FakeRounds(Finish("over", 9)), replace_tell(ranks, told))
    led.begin()
    assert _given_of(told[1]) == Finish("over", 9)
    for error in (RunNotFound("no run", "look"), ValueError("odd")):
        led = Led(FakeRounds(error), replace_tell(ranks, told))
        with pytest.raises(type(error)):
            led.begin()
    heard = _error_of(told[2])
    assert isinstance(heard, RunNotFound) and (heard.message, heard.hint) == ("no run", "look")
    assert "odd" in _error_of(told[3]).message


def test_an_evaluation_leaves_no_gathered_copy_in_the_way(ranks: Ranks) -> None:
    """Of FSDP2's outermost module: neither before the parameters are looked for nor before an anchor is loaded."""
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    fully_shard(model[0])
    fully_shard(model)  # the second layer is of its own

    def evaluated() -> list[float]:
        with torch.no_grad():
            return model(torch.ones(1, 2)).view(-1).tolist()  # type: ignore[no-any-return]

    parameters, flat = Parameters(model), torch.zeros(2 * 256)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    evaluated()
    _check_optimizer(optimizer, model)
    evaluated()
    flat[:4], flat[256:260] = 1.0, 2.0
    parameters.load(flat)
    assert evaluated() == [8.0, 8.0]
    assert all(part.sharded for part in Parameters(model)._placed)


@pytest.mark.filterwarnings("ignore")  # of FSDP itself: that of before is deprecated
def test_shards_that_are_no_part_of_a_tensor_are_refused(ranks: Ranks) -> None:
    """They look whole, and alike on all ranks: all loaded what rank 0 had."""
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    model = FullyShardedDataParallel(nn.Linear(2, 2), device_id=torch.device("cpu"), use_orig_params=True)
    assert [name for name, *_ in Parameters(model).to_wire()] == ["weight", "bias"]  # of one rank: whole
    model.sharding_strategy = ShardingStrategy.FULL_SHARD
    with pytest.raises(ModelUnsupported, match="sharded by FullyShardedDataParallel") as caught:
        Parameters(nn.Sequential(model))
    assert "fully_shard" in caught.value.hint


def test_what_fails_on_rank_0_leaves_no_rank_waiting(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them asks, when it has stored its part, whether all have, and then hears what was wrong."""
    parameters, asked, told = SharedParameters(model_of(), ranks), list[bool](), list[Any]()
    monkeypatch.setattr(ranks, "all_did", lambda done: asked.append(done) or done)
    for act in (parameters.store, parameters.store_trained, parameters.load):
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            act(torch.zeros(256))  # of four tensors' room that of one
    assert asked == [False] * 3
    led = Led(FakeRounds(ValueError("odd")), replace_tell(ranks, told))
    with pytest.raises(ValueError, match="odd"):
        led.poll()
    assert [message["do"] for message in told] == ["raised"]


class FakeRounds:
    manifest = {"name": "fake"}  # noqa: RUF012
    evaluate = True

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome

    def begin(self) -> Any:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    poll = begin


def replace_tell(ranks: Ranks, told: list[Any]) -> Any:
    ranks.tell = told.append  # type: ignore[method-assign,assignment]
    return ranks


def test_ranks_take_turns_at_the_samples_of_one_process() -> None:
    """So two of them with half the batch see what one would."""
    whole = Assignment(5, 1, (Stream(5, 2), Stream(4, 0)), 0, 4, False, seed=3)
    parts = [replace(whole, rank=n, ranks=3) for n in range(3)]
    drawn = [[part.position(i, 10**6) for i in range(4)] for part in parts]
    assert [drawn[n][i] for i in range(4) for n in range(3)] == [whole.position(i, 10**6) for i in range(12)]


def test_of_what_all_hold_one_rank_writes() -> None:
    slot, tensor = Slot("w", (2, 3), 0, 6), torch.ones(2, 3)
    assert placed(slot, tensor, 0).writes and not placed(slot, tensor, 1).writes
    assert not placed(slot, tensor, 1).box.empty  # but all load


def test_several_ranks_need_a_daemon(monkeypatch: pytest.MonkeyPatch, ranks: Ranks) -> None:
    monkeypatch.setattr("intellectd.daemon.sdk.diloco._ranks", lambda _group: ranks)
    model = model_of()
    with pytest.raises(ModelUnsupported, match="run=None with 1 ranks"):
        intellectd.DiLoCo(None, model, torch.optim.SGD(model.parameters(), lr=0.1))
