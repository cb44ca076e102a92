"""The SDK against a real daemon's socket: attach, adopt, deliver, survive a restart, and say what is wrong."""

import fcntl
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import intellectd
from intellectd.daemon.attach_events import (
    TrainerAttached,
    TrainerDetached,
    TrainerEvaluated,
    TrainerInitial,
    TrainerLog,
    TrainerReady,
)
from intellectd.daemon.frames import encode_frame, recv_frame
from intellectd.daemon.sdk.client import DaemonClient, LinkLost
from intellectd.daemon.sdk.messages import Welcome
from tests.daemon.local_daemon import RUN_ID, Daemon, Run, serving

TOKENS = 5


class Toy(torch.nn.Module):
    def __init__(self, width: int = 3, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(4, width, dtype=dtype)
        self.frozen = torch.nn.Parameter(torch.ones(2, dtype=dtype), requires_grad=False)
        self.scale = torch.nn.Parameter(torch.tensor(1.0, dtype=dtype))  # a scalar has a place too

    def values(self) -> list[float]:
        return [p.detach().float().sum().item() for p in self.parameters() if p.requires_grad]


def sgd(model: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)


def one_step(model: Toy, optimizer: torch.optim.Optimizer) -> None:
    """A step that takes exactly 0.5 from every parameter."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def train(d: intellectd.DiLoCo, model: Toy, optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, int]]:
    """The loop, paused before each step so that a test may do mischief there."""
    while not d.finished:
        yield d.round, d.step
        one_step(model, optimizer)
        d.log(loss=2.0, tokens=TOKENS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d.sock"


def attach(path: Path, model: Toy, optimizer: torch.optim.Optimizer, **more: Any) -> intellectd.DiLoCo:
    return intellectd.DiLoCo(RUN_ID, model, optimizer, socket=path, **more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_from_first_parameters_to_last_anchor(
    path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intellectd.daemon.sdk.diloco.LOG_INTERVAL_S", 60.0)
    run, model = Run(rounds=3, steps=2), Toy(dtype=dtype)
    with torch.no_grad():
        model.first.weight.zero_()
        model.first.bias.zero_()
    optimizer, seen = sgd(model), []

    def on_round(d: intellectd.DiLoCo) -> None:
        assert d.holds_anchor and d.wants_evaluation
        seen.append((d.state_round, d.finished, model.scale.item()))
        d.evaluated(model.scale.item())

    with serving(run, path), attach(path, model, optimizer, on_round=on_round) as d:
        assert d.manifest["name"] == "toy"
        assert [stream for stream in d.streams] == [intellectd.Stream(1, 0)]
        assert list(train(d, model, optimizer)) == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
        assert d.finish_reason == "all rounds are done"
        with pytest.raises(RuntimeError, match="the run is finished"):
            _ = d.assignment

    # Two steps of -0.5 and then the toy's +1: every anchor is the first one again.
    assert seen == [(0, False, 1.0), (1, False, 1.0), (2, False, 1.0), (3, True, 1.0)]
    assert model.values() == [1.0, 0.0, 0.0]
    ready = run.heard(TrainerReady)
    assert [(r.round, r.tokens, r.steps, r.loss) for r in ready] == [(n, 2 * TOKENS, 2, 2.0) for n in (1, 2, 3)]
    assert [event.state_round for event in run.heard(TrainerEvaluated)] == [0, 1, 2, 3]
    assert run.heard(TrainerAttached)[0].tensors[0].dtype == str(dtype).removeprefix("torch.")
    assert len(run.heard(TrainerLog)) == 1, "at most one in that time"
    assert run.heard(TrainerDetached)[0].reason == "it has finished"


def test_a_late_trainer_adopts_the_anchor_and_not_its_own_parameters(path: Path) -> None:
    run, model = Run(rounds=1), Toy()
    optimizer = sgd(model)
    with serving(run, path), attach(path, model, optimizer) as d:
        list(train(d, model, optimizer))
    run.rounds = 2
    late = Toy()
    with torch.no_grad():
        for parameter in late.parameters():
            parameter.fill_(99.0)
    with serving(run, path), attach(path, late, sgd(late)) as d:
        assert (d.round, d.tokens_total) == (2, 2 * TOKENS)
        assert late.values() == model.values()
        assert late.frozen.tolist() == [99.0, 99.0]
    assert len(run.heard(TrainerInitial)) == 1


def test_the_only_run_needs_no_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, model = Run(rounds=1), Toy()
    optimizer = sgd(model)
    monkeypatch.setenv("INTELLECTD_SOCKET", str(path))
    with serving(run, path), attach(path, model, optimizer):
        pass  # it made the first parameters
    with serving(run, path) as daemon, intellectd.DiLoCo("", model, optimizer, reconnect_timeout_s=60.0) as d:
        for at in train(d, model, optimizer):
            if at == (1, 0):
                run.knows_by_name_only = True  # the host is in a second run by now: "" would be refused
                daemon.stop()
                daemon.start()
    assert [r.round for r in run.heard(TrainerReady)] == [1]


def test_who_was_started_for_a_run_means_that_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with run="", as a command in the configuration of a host that is in several."""
    run, model = Run(rounds=1, knows_by_name_only=True), Toy()
    with serving(run, path):
        with pytest.raises(intellectd.RunNotFound), intellectd.DiLoCo("", model, sgd(model), socket=path):
            pass
        monkeypatch.setenv("INTELLECTD_RUN", RUN_ID)
        with intellectd.DiLoCo("", model, sgd(model), socket=path) as d:
            assert d.round == 1


def test_another_model_is_refused_by_the_name_of_its_first_tensor(path: Path) -> None:
    run, model, other = Run(), Toy(width=3), Toy(width=5)
    with serving(run, path):
        with attach(path, model, sgd(model)):
            pass
        with pytest.raises(intellectd.TensorMismatch) as caught, attach(path, other, sgd(other)):
            pass
    # The scalar comes first: a module's own parameters precede its children's.
    message = "tensor 2 of the trainer is 'first.weight' [5, 4], of the run 'first.weight' [3, 4]"
    assert caught.value.message == message
    assert caught.value.hint


def test_the_program_that_founds_a_run_stays_with_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a name, on a host that is in a second run by then."""
    caplog.set_level("INFO", "intellectd")
    run, model = Run(creates=True), Toy()
    with serving(run, path), intellectd.DiLoCo("", model, sgd(model), socket=path) as d:
        assert d.round == 1
    assert len(run.heard(TrainerInitial)) == 1 and len(run.heard(TrainerAttached)) == 2
    assert "the run is created" in caplog.text and "lost the daemon" not in caplog.text


def test_the_program_hears_why_its_run_was_not_created(path: Path) -> None:
    run, model = Run(creates=False), Toy()
    with (
        serving(run, path),
        pytest.raises(intellectd.AttachRefused, match="the run was not created: the disk is full"),
        intellectd.DiLoCo("", model, sgd(model), socket=path),
    ):
        pass


def test_an_unknown_run_is_refused(path: Path) -> None:
    model = Toy()
    with (
        serving(Run(), path),
        pytest.raises(intellectd.RunNotFound, match="no run 'else' here"),
        intellectd.DiLoCo("else", model, sgd(model), socket=path),
    ):
        pass


def test_a_second_trainer_is_refused(path: Path) -> None:
    model = Toy()
    with (
        serving(Run(), path),
        attach(path, model, sgd(model)),
        pytest.raises(intellectd.AttachRefused, match="another trainer"),
        attach(path, model, sgd(model)),
    ):
        pass


def test_without_a_daemon_the_error_says_how_to_start_it(path: Path) -> None:
    model = Toy()
    with pytest.raises(intellectd.DaemonUnavailable) as caught, attach(path, model, sgd(model)):
        pass
    assert str(path) in caught.value.message
    assert "intellectd run" in caught.value.hint
    assert not sgd(model)._optimizer_step_post_hooks


def test_a_daemon_that_is_still_joining_is_asked_again(path: Path) -> None:
    run, model = Run(not_ready=1), Toy()
    with serving(run, path), attach(path, model, sgd(model)) as d:
        assert d.round == 1
    assert run.not_ready == 0


def test_a_restarted_daemon_takes_the_round_in_progress(path: Path) -> None:
    run, model = Run(rounds=2, steps=4), Toy()
    optimizer = sgd(model)
    with serving(run, path) as daemon, attach(path, model, optimizer) as d:
        for at in train(d, model, optimizer):
            if at == (1, 1):
                daemon.stop()
            if at == (1, 3):
                daemon.start()
    assert [(r.round, r.steps, r.tokens) for r in run.heard(TrainerReady)] == [(1, 4, 4 * TOKENS), (2, 4, 4 * TOKENS)]
    assert [a.training_round for a in run.heard(TrainerAttached)] == [None, 1]
    assert model.scale.item() == 1.0 + 2 * (1 - 4 * 0.5)


def test_a_daemon_that_dies_with_the_delivery_is_given_it_again(path: Path) -> None:
    run, model = Run(rounds=2, die_on_ready=1), Toy()
    optimizer = sgd(model)
    with serving(run, path), attach(path, model, optimizer) as d:
        list(train(d, model, optimizer))
    assert [r.round for r in run.heard(TrainerReady)] == [1, 1, 2]
    assert model.scale.item() == 1.0


def test_a_run_that_went_on_meanwhile_gives_its_own_round(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, model = Run(rounds=7, steps=3), Toy()
    optimizer = sgd(model)
    seen = []
    with serving(run, path) as daemon, attach(path, model, optimizer) as d:
        for at in train(d, model, optimizer):
            seen.append(at)
            if at == (1, 1):
                daemon.stop()
                assert run.anchor is not None
                run.anchor.fill_(40.0)
                run.round = 7
                daemon.start()
            if at == (7, 0):
                assert model.scale.item() == 40.0
    assert seen[-3:] == [(7, 0), (7, 1), (7, 2)]
    assert "what was trained of round 1 is dropped" in caplog.text
    assert [r.round for r in run.heard(TrainerReady)] == [7]


def test_a_daemon_that_stays_away_ends_the_training_with_a_reason(path: Path) -> None:
    run, model = Run(steps=3), Toy()
    optimizer = sgd(model)
    steps = 0
    with (
        serving(run, path) as daemon,
        attach(path, model, optimizer, reconnect_timeout_s=0.3) as d,
        pytest.raises(
            intellectd.DaemonUnavailable, match=r"did not take this program back within 0\.3 s: .*No such file"
        ),
    ):
        for _ in train(d, model, optimizer):
            daemon.stop()
            steps += 1
    assert steps == 3, "it trains on to the end of the round"


def test_a_finish_in_the_midst_of_a_round_ends_the_loop(path: Path) -> None:
    run, model = Run(steps=100_000), Toy()  # far more than fit into the time that the word takes
    optimizer = sgd(model)
    with serving(run, path) as daemon, attach(path, model, optimizer) as d:
        for round_number, step in train(d, model, optimizer):
            assert (round_number, step) < (1, 99_999)
            if step == 2:
                daemon.tell(lambda life: life.link.finish("the owner ended it", None))
        assert (d.finish_reason, d.state_round) == ("the owner ended it", None)


# -- a daemon that is none -------------------------------------------------------------------------------------


class Impostor:
    """Answers each connection with fixed bytes (and no descriptor), then closes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener:
            recv_frame(connection)
            connection.sendall(self._answer)

    def close(self) -> None:
        self._thread.join()


WELCOME = {"ok": True, "run": "r", "peer": "p", "elements": 768, "want": "round", "manifest": {}}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection without an answer"),
        (b"\xff\xff\xff\xff", "the limit is"),
        (b"\x00\x00\x00\x02\xc1\xc1", "not a msgpack message"),
        (b"\x00\x00\x01\x00half", "ended after"),
        (encode_frame({"ok": 1}), "neither ok nor an error"),
        (encode_frame({"ok": False, "error": {"code": 1}}), "code is no text"),
        (encode_frame({**WELCOME, "want": "money"}), "want is"),
        (encode_frame({**WELCOME, "manifest": 3}), "manifest is no map"),
        (encode_frame(WELCOME), "without the arena"),
    ],
)
def test_an_answer_that_is_none_is_reported(path: Path, answer: bytes, reason: str) -> None:
    model, impostor = Toy(), Impostor(path, answer)
    with pytest.raises(intellectd.DaemonUnavailable, match=reason), attach(path, model, sgd(model)):
        pass
    impostor.close()


@pytest.mark.parametrize("frame", [{"op": "dance"}, {"op": "round", "round": -1}, {"op": "round", "round": 1}])
def test_garbage_from_the_daemon_costs_the_connection_not_the_round(path: Path, frame: dict[str, Any]) -> None:
    run, model = Run(rounds=1, steps=3), Toy()
    optimizer = sgd(model)

    def misspeak(life: Any) -> None:
        life.link._connection.outbox.send_nowait(frame)

    with serving(run, path) as daemon, attach(path, model, optimizer) as d:
        for at in train(d, model, optimizer):
            if at == (1, 1):
                daemon.tell(misspeak)
    assert [r.round for r in run.heard(TrainerReady)] == [1]
    assert len(run.heard(TrainerAttached)) == 2
    assert d.finish_reason == "all rounds are done"


def test_a_program_with_a_thousand_open_files_hears_the_daemon_too() -> None:
    """Loaders of data share tensors by descriptors; select(2) takes those below 1024."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limits[1] < 2048:  # RLIM_INFINITY is -1
        pytest.skip(f"no process may open more than {limits[1]} files here")
    if 0 <= limits[0] < 2048:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    try:
        here, there = socket.socketpair()
        with here, there, socket.socket(fileno=fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, 1024)) as high:
            client = DaemonClient(high, Welcome(RUN_ID, "peer", 1, False, {}, False, False), torch.zeros(1), -1)
            assert client.receive(0.0) is None
            there.sendall(encode_frame({"op": "finish"}))
            assert client.receive(10.0) == {"op": "finish"}
            there.close()
            with pytest.raises(LinkLost, match="closed the connection"):
                client.receive(10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_harness_stops(path: Path) -> None:
    daemon = Daemon(Run(), path)
    daemon.start()
    daemon.stop()
    assert not path.exists()
