"""run=None: the same loop without a daemon, against DiLoCo written down as plainly as torch allows."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

import intellectd
from intellectd.daemon.sdk.alone import NotFinite
from intellectd.daemon.sdk.parameters import Parameters

ROUNDS, STEPS = 4, 3


def toy() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))


def loss_at(model: torch.nn.Module, position: int) -> torch.Tensor:
    x = torch.sin(torch.arange(24.0).view(4, 6) * (1 + position % 1000))
    return (model(x) - x[:, :2]).square().mean()


def plain_diloco(lr: float, momentum: float) -> torch.nn.Module:
    """DiLoCo as its paper has it: torch's own SGD is the outer optimizer, the delta its gradient."""
    model, anchor = toy(), toy()
    inner = torch.optim.AdamW(model.parameters(), lr=0.01)
    outer = torch.optim.SGD(anchor.parameters(), lr=lr, momentum=momentum, nesterov=True)
    for round_number in range(1, ROUNDS + 1):
        for step in range(STEPS):
            loss_at(model, intellectd.sample_position(5, intellectd.Stream(round_number, 0), step, 1000)).backward()
            inner.step()
            inner.zero_grad()
        with torch.no_grad():
            for a, p in zip(anchor.parameters(), model.parameters(), strict=True):
                a.grad = a - p
            outer.step()
            for a, p in zip(anchor.parameters(), model.parameters(), strict=True):
                p.copy_(a)
    return model


def alone(outer: object, model: torch.nn.Module) -> list[float]:
    inner = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    with intellectd.DiLoCo(None, model, inner, outer_optimizer=outer, sync_every=STEPS, rounds=ROUNDS, seed=5) as d:
        while not d.finished:
            loss = loss_at(model, d.assignment.position(d.step, 1000))
            loss.backward()
            inner.step()
            inner.zero_grad()
            d.log(loss=loss, tokens=24)
            losses.append(loss.item())
    return losses


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max((x - y).abs().max().item() for x, y in pairs)


def test_with_fp32_it_is_plain_diloco() -> None:
    model = toy()
    alone(intellectd.Nesterov(lr=0.7, momentum=0.9, codec="fp32"), model)
    assert distance(model, plain_diloco(0.7, 0.9)) < 1e-6
    assert distance(model, toy()) > 0.01, "it went somewhere"


def test_an_sgd_of_torchs_may_say_the_outer_settings() -> None:
    ours, torchs = toy(), toy()
    alone(intellectd.Nesterov(lr=0.7, momentum=0.8), ours)
    alone(torch.optim.SGD(torchs.parameters(), lr=0.7, momentum=0.8, nesterov=True), torchs)
    assert distance(ours, torchs) == 0.0


def test_averaging_alone_goes_where_the_inner_steps_went() -> None:
    averaged, inner_only = toy(), toy()
    alone(intellectd.Average(codec="fp32"), averaged)
    alone(intellectd.Nesterov(lr=1.0, momentum=0.0, codec="fp32"), inner_only)
    assert distance(averaged, inner_only) == 0.0
    assert distance(averaged, toy()) > 0.01


def test_int8_stays_near() -> None:
    model, reference = toy(), plain_diloco(0.4, 0.9)
    alone(None, model)
    apart = distance(model, reference)
    assert 0.0 < apart < 0.01 * distance(reference, toy()) + 0.005


@pytest.mark.parametrize(
    "outer", [torch.optim.SGD([torch.ones(1)], lr=0.1), torch.optim.AdamW([torch.ones(1)]), 0.7, "nesterov"]
)
def test_another_outer_optimizer_is_refused(outer: object) -> None:
    with pytest.raises(intellectd.ModelUnsupported, match="only Nesterov"):
        alone(outer, toy())


@pytest.mark.parametrize(("codec", "words"), [("int3", "known: bf16, e3m0"), ("int4", "known: bf16, fp32, int8")])
def test_a_codec_that_no_swarm_has_is_refused_with_the_known_ones(codec: str, words: str) -> None:
    with pytest.raises(intellectd.ModelUnsupported, match=words):
        alone(intellectd.Nesterov(codec=codec), toy())


def test_a_round_that_diverged_names_the_tensor() -> None:
    model = toy()
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    with intellectd.DiLoCo(None, model, inner, sync_every=1):
        loss_at(model, 1).backward()
        model[2].bias.grad[0] = torch.nan  # type: ignore[union-attr,index]
        with pytest.raises(NotFinite, match=r"'2\.bias'"):
            inner.step()


@pytest.mark.parametrize("when", ["before", "after", "never", "now and then"])
def test_where_a_loop_logs_does_not_matter(when: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the place of `log`, a round is STEPS steps long and starts from the new anchor."""
    model = toy()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    seen, totals = [], []
    with intellectd.DiLoCo(None, model, inner, sync_every=4, rounds=2) as d:
        count = 0
        while not d.finished:
            seen.append((d.round, d.step))
            totals.append(d.tokens_total)
            loss_at(model, 1).backward()
            if when == "before" or (when == "now and then" and count % 2 == 0):
                d.log(tokens=10)
            inner.step()
            inner.zero_grad()
            if when == "after":
                d.log(tokens=10)
            count += 1
    assert seen == [(r, s) for r in (1, 2) for s in range(4)]
    assert totals[-1] == {"before": 40, "after": 40, "never": 4, "now and then": 40}[when]


def test_a_loop_that_drops_its_last_log_still_ends_its_rounds() -> None:
    model = toy()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with intellectd.DiLoCo(None, model, inner, sync_every=3, rounds=1) as d:
        for step in range(4):
            loss_at(model, 1).backward()
            inner.step()
            if step < 2:
                d.log(tokens=10)
        assert d.finished


def test_without_a_limit_it_goes_on_and_leaves_no_hook() -> None:
    model = toy()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with intellectd.DiLoCo(None, model, inner, sync_every=1) as d:
        for _ in range(5):
            loss_at(model, 1).backward()
            inner.step()
        assert (d.round, d.state_round, d.finished) == (6, 5, False)
    before = [p.clone() for p in model.parameters()]
    inner.step()
    assert not inner._optimizer_step_post_hooks
    assert any((a != b).any() for a, b in zip(before, model.parameters(), strict=True))


def test_who_leaves_in_the_midst_of_a_round_and_enters_again_has_its_rounds_before_him() -> None:
    """As a notebook that is interrupted. What was left was counted: of two rounds the second was the last."""
    model = toy()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    d, seen = intellectd.DiLoCo(None, model, inner, sync_every=2, rounds=2), []
    for steps in (1, 1, 4):
        with d:
            for _ in range(steps):
                seen.append((d.round, d.step, d.state_round))
                loss_at(model, 1).backward()
                inner.step()
    assert seen == [(1, 0, 0), (1, 0, 0), (1, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 1)]
    assert d.finish_reason == "all 2 rounds are done" and d.state_round == 2


def test_what_is_asked_after_the_end_trains_no_more() -> None:
    """The last log of a round was dropped with the block: to ask for the step loaded another anchor."""
    model = toy()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with intellectd.DiLoCo(None, model, inner, sync_every=2) as d:
        for logs in (True, False):
            loss_at(model, 1).backward()
            inner.step()
            if logs:
                d.log(tokens=1)
    left = [parameter.clone() for parameter in model.parameters()]
    assert (d.round, d.step) == (1, 2)
    assert all(torch.equal(a, b) for a, b in zip(left, model.parameters(), strict=True))


def test_settings_for_alone_are_said_to_be_ignored_in_a_run(caplog: pytest.LogCaptureFixture) -> None:
    model = toy()
    with caplog.at_level(logging.INFO):
        intellectd.DiLoCo("r", model, torch.optim.SGD(model.parameters()), sync_every=5, socket="/x")
    assert "the run's manifest decides" in caplog.text


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def two_rounds(defaults: Any) -> torch.nn.Module:
    model = toy()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with defaults, intellectd.DiLoCo(None, model, inner, sync_every=1, rounds=2):
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            inner.step()
    return model


@pytest.mark.filterwarnings("ignore")  # of an empty layer and of a lazy one
@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (lambda: torch.nn.LazyLinear(3), "'0.weight' of a lazy module has no shape yet"),
        (lambda: torch.nn.Linear(2, 2, device="meta"), "'0.weight' is on the meta device"),
        (lambda: torch.nn.Linear(0, 2), "'0.weight' has dimension 0"),
        (lambda: torch.nn.Linear(2, 2, dtype=torch.complex64), "'0.weight' is complex64"),
    ],
)
def test_a_parameter_that_no_vector_takes_is_named(layer: Callable[[], torch.nn.Module], why: str) -> None:
    with pytest.raises(intellectd.ModelUnsupported, match=why):
        Parameters(torch.nn.Sequential(layer()))


@pytest.mark.parametrize(
    "defaults", [default_dtype(torch.bfloat16), default_dtype(torch.float64), torch.device("meta")]
)
def test_what_a_program_has_made_torchs_default_changes_nothing(defaults: Any) -> None:
    """`torch.set_default_device("cuda")` at its top had the kernels read host memory at addresses of the GPU's."""
    assert distance(two_rounds(defaults), two_rounds(nullcontext())) == 0.0


def test_a_model_without_trainable_parameters_is_refused() -> None:
    model = toy().requires_grad_(False)
    with pytest.raises(intellectd.ModelUnsupported, match="no tensors"):
        intellectd.DiLoCo(None, model, torch.optim.SGD(model.parameters()))


@pytest.mark.parametrize(
    "wrap",
    [torch.compile, torch.nn.DataParallel, lambda model: torch.compile(torch.nn.DataParallel(torch.compile(model)))],
)
def test_a_wrapped_model_has_the_names_of_the_model(wrap: Any) -> None:
    """A host with one GPU and one with eight, or one that compiles, are of the same run."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = toy()
    names = Parameters(model).to_wire()
    model[0] = checkpoint_wrapper(model[0])  # type: ignore[operator,assignment]
    assert Parameters(wrap(model)).to_wire() == names


class Wrapped(torch.optim.Optimizer):
    """As of libraries that lend an optimizer their own `step`, and have none of its parts."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.param_groups = inner.param_groups


def test_an_optimizer_that_would_train_nothing_of_the_run_is_refused() -> None:
    """Made before the model was sharded or copied, it had the host hand over what it was given, with tokens."""
    model = toy()
    inner = torch.optim.SGD(model.parameters())
    for optimizer in (Wrapped(inner), [inner], None):
        with pytest.raises(intellectd.ModelUnsupported, match="calls no hooks") as caught:
            intellectd.DiLoCo(None, model, optimizer)  # type: ignore[arg-type]
        assert "the one that steps last" in caught.value.hint
    with pytest.raises(intellectd.ModelUnsupported, match="none of the model's parameters"):
        intellectd.DiLoCo(None, toy(), inner)


def test_what_is_trained_and_not_averaged_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A layer that is unfrozen on the way: its hosts drifted apart, and nobody was told."""
    model = toy()
    frozen = model[2].requires_grad_(False)
    inner = torch.optim.SGD([*model.parameters(), torch.ones(3)], lr=0.1)
    with caplog.at_level(logging.WARNING), intellectd.DiLoCo(None, model, inner, sync_every=1, rounds=3):
        inner.step()
        assert not caplog.text
        frozen.requires_grad_(True)
        for _ in range(2):
            inner.step()
    assert len(caplog.records) == 1
    assert "trains 2 tensors, '2.weight' the first of them, that stay" in caplog.text


def test_a_step_that_a_scaler_leaves_out_is_none() -> None:
    """fp16's way: what overflows is not applied, and the round is as long as it was."""
    model, seen = toy(), []
    inner, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=4.0)
    with intellectd.DiLoCo(None, model, inner, sync_every=2, rounds=2) as d:
        while not d.finished:
            seen.append((d.round, d.step))
            overflows = torch.inf if len(seen) in (2, 5) else 1.0
            scaler.scale(loss_at(model, 1) * overflows).backward()
            scaler.step(inner)
            scaler.update()
            inner.zero_grad()
            d.log(tokens=10)
    assert seen == [(1, 0), (1, 1), (1, 1), (2, 0), (2, 1), (2, 1)]


def test_any_memory_and_dtype_is_taken_and_kept() -> None:
    """A convolution in channels_last, fp64 and bf16; buffers are each program's own."""
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 3, 2), torch.nn.BatchNorm2d(3).double(), torch.nn.Linear(2, 2))
    model[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model[2].to(torch.bfloat16)
    buffers = [buffer.clone() for buffer in model.buffers()]
    parameters = Parameters(model)
    flat, kept = torch.zeros(parameters.layout.elements), [p.clone() for p in model.parameters()]
    parameters.store(flat)
    parameters.load(flat + 1)
    assert [p.stride() for p in model.parameters()] == [p.stride() for p in kept]
    assert not next(model.parameters()).is_contiguous() and parameters.device is None
    assert all(torch.equal(p, (k.float() + 1).to(k.dtype)) for p, k in zip(model.parameters(), kept, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))


def test_tied_weights_count_once() -> None:
    model = toy()
    model[0].weight = torch.nn.Parameter(torch.ones(2, 5))  # type: ignore[union-attr]
    model[2].weight = model[0].weight  # type: ignore[union-attr]
    with intellectd.DiLoCo(None, model, torch.optim.SGD(model.parameters())) as d:
        assert [slot.name for slot in d._rounds._parameters.layout.slots] == ["0.weight", "0.bias", "2.bias"]  # type: ignore[attr-defined]


def test_use_outside_with_is_an_error_of_the_callers() -> None:
    model = toy()
    d = intellectd.DiLoCo(None, model, torch.optim.SGD(model.parameters()))
    with pytest.raises(RuntimeError, match="not attached"):
        _ = d.finished
    with pytest.raises(RuntimeError, match="not attached"):
        d.log(loss=1.0, tokens=1)


def test_a_forked_worker_is_refused_the_round_of_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers of a loader drew the same samples, of one round, for as long as they lived."""
    model = toy()
    with intellectd.DiLoCo(None, model, torch.optim.SGD(model.parameters())) as d:
        with monkeypatch.context() as forked:
            forked.setattr("os.getpid", lambda: 0)
            with pytest.raises(RuntimeError, match="give a loader's workers places"):
                _ = d.assignment
            d.__exit__(None, None, None)
        assert d.assignment.round == 1 and d._optimizer._optimizer_step_post_hooks


def test_a_step_has_no_fewer_tokens_than_none() -> None:
    model = toy()
    with intellectd.DiLoCo(None, model, torch.optim.SGD(model.parameters())) as d:
        d.log(tokens=0)
        with pytest.raises(ValueError, match="tokens is -5"):
            d.log(tokens=-5)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_round_has_steps(steps: int) -> None:
    model = toy()
    with pytest.raises(intellectd.ModelUnsupported, match="at least one"):
        intellectd.DiLoCo(None, model, torch.optim.SGD(model.parameters()), sync_every=steps)
