"""Models in bf16: what they have no room for of the fp32 anchor is neither lost nor taken for something learnt."""

from pathlib import Path

import pytest
import torch

import intellectd
from intellectd.daemon.sdk.encoder import DeviceEncoder
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.kernels import ops
from tests.daemon.local_daemon import Run, serving
from tests.daemon.test_sdk_alone import toy
from tests.daemon.test_sdk_run import Toy, attach, train


def test_rounding_to_bf16_takes_nothing_from_the_run(tmp_path: Path) -> None:
    """A trainer in bf16 that learns nothing hands back what it was given, though it had no room for all of it."""
    run, model = Run(rounds=3, steps=1), Toy(dtype=torch.bfloat16)
    with torch.no_grad():
        model.scale.fill_(1.0078125)
        model.first.weight.fill_(2.015625)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    with serving(run, tmp_path / "d.sock"), attach(tmp_path / "d.sock", model, optimizer) as d:
        list(train(d, model, optimizer))
        assert model.scale.item() == 4.0
    assert run.anchor is not None
    assert run.anchor[[0, 256, 267]].tolist() == [4.0078125, 5.015625, 5.015625]  # the toy adds 1 a round


def test_what_bf16_has_no_room_for_is_kept_between_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of what bf16 can tell apart a round: the anchor has it all, and the model its nearest. A round's delta
    was measured from what the model had no room for, and took the anchor back there."""
    monkeypatch.setattr("intellectd.daemon.sdk.parameters.PIECE_ELEMENTS", 5)
    model = toy().to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    ulp, outer = 2.0**-8, intellectd.Average(lr=0.125, codec="fp32")
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    with intellectd.DiLoCo(None, model, inner, outer_optimizer=outer, sync_every=1) as d:
        for _ in range(7):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, ulp)
            inner.step()
        assert {p.item() for parameter in model.parameters() for p in parameter.view(-1)} == {1.0 - ulp}
        anchor = d._rounds._anchor  # type: ignore[attr-defined]
        assert anchor[0].item() == 1.0 - 7 * ulp / 8
        inner.param_groups[0]["lr"] = 0.0
        inner.step()
        assert anchor[0].item() == 1.0 - 7 * ulp / 8


class OnHost:
    """The host's kernels in the place of a device's, whose bits are the same."""

    subtract_into = staticmethod(ops.subtract_into)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_carried_over_on_a_device_is_what_was_learnt(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """And not also what the model had no room for of the new anchor: as large as what a round learns, in bf16."""
    monkeypatch.setattr("intellectd.daemon.sdk.encoder.PIECE_ELEMENTS", 256)
    model = torch.nn.Linear(30, 20).to(dtype)
    parameters = Parameters(model)
    encoder = DeviceEncoder(parameters, torch.device("cpu"), OnHost())  # type: ignore[arg-type]
    at = torch.arange(parameters.layout.elements)
    old, new = torch.zeros(at.numel()), torch.zeros(at.numel())
    for slot in parameters.layout.slots:
        here = slice(slot.offset, slot.offset + slot.size)
        old[here], new[here] = 1.0 + at[here] * 1e-5, 1.1 + at[here] * 3e-5
    encoder.load(old)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(2.0**-6)
    for anchor in (new, old):
        encoder.carry_over(anchor)
        local = torch.zeros_like(anchor)
        parameters.store(local)
        assert encoder._anchor is not None
        learnt = encoder._anchor - local
        assert (learnt[new > 0] - 2.0**-6).abs().max() < 1e-6  # of fp32's own rounding
        assert not learnt[new == 0].any(), "padding"
