"""The SDK's pure parts: samples, meter, patience, the daemon's words, and a light `import intellectd`."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

import intellectd
from intellectd.daemon.sdk.errors import AttachRefused
from intellectd.daemon.sdk.messages import Garbled, NotReady, order, seed_of, welcome
from intellectd.daemon.sdk.meter import RoundMeter
from intellectd.daemon.sdk.outer import Average, Nesterov, outer_from_manifest
from intellectd.daemon.sdk.patience import RETRY_FIRST_S, RETRY_S_MAX, STEADY_S, Patience
from intellectd.daemon.sdk.rounds import Assignment, Finish, Stream, sample_position
from intellectd.kernels.outer import AverageStep, NesterovStep


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, intellectd; intellectd.TensorMismatch; dir(intellectd);"
        "heavy = [m for m in ('torch', 'trio', 'libp2p', 'transformers', 'msgpack') if m in sys.modules];"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # test_tidy.py follows our own imports; this one looks at everybody's
def test_attaching_needs_neither_trio_nor_libp2p() -> None:
    code = (
        "import sys, intellectd; intellectd.DiLoCo;"
        "heavy = [m for m in ('trio', 'libp2p', 'transformers') if m in sys.modules];"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(intellectd, name) is not None for name in intellectd.__all__)
    assert set(intellectd.__all__) <= {*dir(intellectd)}
    with pytest.raises(AttributeError, match="no attribute 'Diloco'"):
        _ = intellectd.Diloco


def test_elsewhere_than_on_linux_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from intellectd import DiLoCo` said that there is no such name, on a Mac."""
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(ImportError, match=r"DiLoCo is for Linux, .* this is Darwin"):
        from intellectd import DiLoCo  # noqa: F401
    assert intellectd.sample_position is not None


def test_samples_are_where_they_always_were() -> None:
    """Golden: a change here would make every running run repeat and skip data."""
    at = [sample_position(7, Stream(3, 2), index, 1_000_000) for index in range(3)]
    assert at == [160683, 473118, 825875]
    assert sample_position(-1, Stream(0, 0), 0, 10**9) == sample_position(2**64 - 1, Stream(0, 0), 0, 10**9)


def test_samples_differ_by_each_of_their_coordinates() -> None:
    places = {
        sample_position(seed, Stream(round_number, slot), index, 2**62)
        for seed in (0, 1)
        for round_number in (0, 1)
        for slot in (0, 1)
        for index in (0, 1)
    }
    assert len(places) == 16


def test_streams_take_turns() -> None:
    work = Assignment(5, 4, (Stream(5, 1), Stream(3, 0)), 0, 4, False, seed=9)
    assert [work.sample(i) for i in range(4)] == [
        (Stream(5, 1), 0),
        (Stream(3, 0), 0),
        (Stream(5, 1), 1),
        (Stream(3, 0), 1),
    ]
    assert work.position(3, 1000) == sample_position(9, Stream(3, 0), 1, 1000)


# -- meter -----------------------------------------------------------------------------------------------------


def meter(steps: int, *tokens: int, loss: float | None = None) -> RoundMeter:
    m = RoundMeter(started_s=10.0)
    for _ in range(steps):
        m.count_step()
    for count in tokens:
        m.count_log(loss, count)
    return m


@pytest.mark.parametrize(
    ("m", "tokens", "owed"),
    [
        (meter(0), 0, False),
        (meter(3), 3, False),  # nobody logs: one a step
        (meter(3, 8, 8, 8), 24, False),
        (meter(3, 8, 8), 24, True),  # the last is to come, or never comes
        (meter(4, 8, 4), 24, False),  # every other step
        (meter(1), 1, False),
        (meter(2, 0, 0), 2, False),  # logs a loss only
    ],
)
def test_tokens_of_a_round(m: RoundMeter, tokens: int, owed: bool) -> None:
    assert (m.tokens(), m.log_is_owed) == (tokens, owed)


def test_loss_is_the_mean_and_never_nan() -> None:
    m = meter(2, 1, loss=3.0)
    m.count_log(1.0, 1)
    assert m.loss() == 2.0
    m.count_log(math.inf, 1)
    assert m.loss() is None
    assert meter(1, 1).loss() is None
    assert meter(1, 50).rate(20.0) == 5.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_of_small_floats_is_no_small_float(dtype: torch.dtype) -> None:
    """A sum of 700 losses of 3 stands still at 1024 in bf16; one of 9,000 is no number in fp16."""
    m = RoundMeter(started_s=0.0)
    for _ in range(700):
        m.count_log(torch.tensor(96.0 if dtype == torch.float16 else 3.0, dtype=dtype), 1)
    assert m.loss() == (96.0 if dtype == torch.float16 else 3.0)


# -- patience --------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_their_limit() -> None:
    p = Patience(100.0)
    p.lost(0.0)
    assert not p.is_due(RETRY_FIRST_S / 2) and p.is_due(RETRY_FIRST_S)
    for _ in range(20):
        p.failed(1.0)
    assert p.retry_s == RETRY_S_MAX
    assert not p.is_due(1.0 + RETRY_S_MAX / 2) and p.is_due(1.0 + RETRY_S_MAX)


def test_it_gives_up_in_time_but_training_on_costs_no_patience() -> None:
    p = Patience(100.0)
    p.lost(0.0)
    assert not p.is_over(99.0) and p.is_over(100.0)
    p.out_of_work(5000.0)
    assert not p.is_over(5099.0) and p.is_over(5100.0)


def test_a_daemon_that_takes_us_and_drops_us_is_given_up() -> None:
    p = Patience(100.0)
    for second in range(101):
        p.lost(float(second))
        p.welcomed(second + 0.5)
    assert p.is_over(101.0)


def test_a_link_that_held_starts_anew() -> None:
    p = Patience(100.0)
    p.lost(0.0)
    p.welcomed(1.0)
    p.lost(2.0 + STEADY_S)
    assert not p.is_over(101.0)
    p.progressed()
    assert not p.is_over(10_000.0)


# -- words -----------------------------------------------------------------------------------------------------

ROUND = {"op": "round", "round": 3, "steps": 5, "streams": [[3, 1]], "tokens_total": 9, "state_round": 2}


def test_a_round_is_read() -> None:
    assert order(ROUND, seed=4) == Assignment(3, 5, (Stream(3, 1),), 9, 2, False, 4)
    assert order({**ROUND, "carried_over": True, "new_word": 1}, 4) == Assignment(3, 5, (Stream(3, 1),), 9, 2, True, 4)
    assert order({"op": "finish", "reason": "done", "state_round": 8}, 4) == Finish("done", 8)
    assert order({"op": "finish", "reason": "left"}, 4) == Finish("left", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": "stop"},
        {"op": 3},
        {"round": -1},
        {"round": True},
        {"round": 2**63},
        {"round": 1.0},
        {"steps": 0},
        {"streams": []},
        {"streams": [[1]]},
        {"streams": [[1, 2]] * 4097},
        {"streams": "ab"},
        {"streams": [[1, "x"]]},
        {"tokens_total": None},
        {"state_round": "2"},
    ],
)
def test_a_garbled_round_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Garbled):
        order({**ROUND, **wrong}, 0)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("tensor_mismatch", intellectd.TensorMismatch),
        ("no_such_run", intellectd.RunNotFound),
        ("not_ready", NotReady),
        ("version", AttachRefused),
        ("something new", AttachRefused),
    ],
)
def test_a_refusal_becomes_the_error_it_stands_for(code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        welcome({"ok": False, "error": {"code": code, "message": "what", "hint": "next"}})
    assert isinstance(caught.value, intellectd.IntellectdError)
    assert (caught.value.message, caught.value.hint) == ("what", "next")


@pytest.mark.parametrize("seed", ["7", True, None, 1.5])
def test_a_seed_is_an_integer(seed: object) -> None:
    with pytest.raises(Garbled):
        seed_of({"seed": seed})


# -- outer settings --------------------------------------------------------------------------------------------


def test_the_learning_rate_goes_by_the_number_of_peers() -> None:
    table = Nesterov(lr=((4, 0.6), (2, 0.5), (8, 0.8)))
    assert [table.lr_for(n) for n in (1, 2, 3, 4, 7, 8, 100)] == [0.5, 0.5, 0.5, 0.6, 0.6, 0.8, 0.8]
    assert Nesterov(lr=0.3).lr_for(5) == 0.3


def test_a_manifests_table_is_read() -> None:
    outer = outer_from_manifest({"optimizer": "nesterov", "momentum": 0.8, "lr": [[1, 0.4]], "codec": "fp32"})
    assert outer == Nesterov(lr=((1, 0.4),), momentum=0.8, codec="fp32")
    assert outer_from_manifest({}) == Nesterov()
    average = outer_from_manifest({"optimizer": "average", "lr": [[1, 1.0]], "codec": "bf16"})
    assert average == Average(((1, 1.0),), "bf16")
    assert (average.step_for(3), outer.step_for(3)) == (AverageStep(1.0), NesterovStep(0.4, 0.8))
