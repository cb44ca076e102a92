"""How a program leaves its daemon: by the end of its block, by an interruption, with work that is lost on the way."""

import os
import socket
from pathlib import Path

import pytest
import torch

from intellectd.daemon.attach_events import TrainerAttached, TrainerDetached, TrainerReady
from intellectd.daemon.sdk.client import DaemonClient, LinkLost
from intellectd.daemon.sdk.encoder import DeviceEncoder
from intellectd.daemon.sdk.messages import Welcome
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.daemon.sdk.patience import Patience
from intellectd.daemon.sdk.session import Session
from tests.daemon.local_daemon import RUN_ID, Run, serving
from tests.daemon.test_sdk_run import TOKENS, Toy, attach, one_step, sgd, train


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d.sock"


def test_who_leaves_in_the_midst_of_a_round_and_enters_again_begins_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained of it was given up with the block: the daemon must not wait for its end, nor this program for
    another order."""
    monkeypatch.setattr("intellectd.daemon.sdk.client.LEAVE_TIMEOUT_S", 60.0)  # of a busy machine
    run, model = Run(steps=3, rounds=2), Toy()
    optimizer = sgd(model)
    with serving(run, path):
        again = attach(path, model, optimizer)
        with again as d:
            assert next(train(d, model, optimizer)) == (1, 0)
            one_step(model, optimizer)
        assert run.heard(TrainerDetached), "the daemon has let go: else who enters at once is refused as a second one"
        with again as d:
            assert [at for at in train(d, model, optimizer) if at[0] == 1] == [(1, 0), (1, 1), (1, 2)]
    assert [attached.training_round for attached in run.heard(TrainerAttached)] == [None, None]
    assert [r.round for r in run.heard(TrainerReady)] == [1, 2]


def test_what_is_asked_after_the_end_attaches_no_more(path: Path) -> None:
    """The round's last log never came; the round is not ended by somebody who asks which it was."""
    run, model = Run(steps=2), Toy()
    optimizer = sgd(model)
    with serving(run, path):
        with attach(path, model, optimizer) as d:
            one_step(model, optimizer)
            d.log(tokens=TOKENS)
            one_step(model, optimizer)
        assert (d.round, d.step) == (1, 2)
    assert len(run.heard(TrainerAttached)) == 1


def test_who_is_interrupted_while_it_waits_and_goes_on_keeps_off_the_arena(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's loop in one block: what it had handed over was overwritten while the daemon might be reading it."""
    run, model = Run(rounds=2, steps=1), Toy()
    optimizer = sgd(model)

    def interrupt(self: DaemonClient, timeout_s: float) -> None:
        raise KeyboardInterrupt

    with serving(run, path), attach(path, model, optimizer) as d:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(DaemonClient, "receive", interrupt)
            one_step(model, optimizer)
        list(train(d, model, optimizer))
    assert [r.round for r in run.heard(TrainerReady)] == [1, 2]
    reasons = [event.reason for event in run.heard(TrainerDetached)]
    assert len(reasons) == 2 and not any("garbage" in reason for reason in reasons), reasons


def test_work_that_could_not_be_carried_over_ends_with_the_connection(path: Path) -> None:
    """And not the training: with the next the daemon gives the anchor. As where the GPU's memory is full."""

    class Full(DeviceEncoder):
        holds_anchor = True

        def carry_over(self, flat: torch.Tensor) -> None:
            raise torch.OutOfMemoryError("none left")

    parameters = Parameters(Toy())
    session = Session(RUN_ID, path, parameters, Patience())
    session._encoder = Full(parameters, torch.device("cpu"), None)  # type: ignore[arg-type]
    client = DaemonClient(socket.socket(), Welcome(RUN_ID, "peer", 1, False, {}, False, False), torch.zeros(768), -1)
    with pytest.raises(LinkLost, match="carried over, which failed"):
        session._load(client, carry=True)
    assert session._encoder is None, "the next attachment says that it does not encode"
    client.close()


def test_the_daemon_hears_the_end_also_where_a_loaders_worker_lives_on(tmp_path: Path) -> None:
    """It was forked with the socket open. The next attachment was refused, as that of a second program."""
    here, there = socket.socketpair()
    of_a_worker = os.dup(here.fileno())
    try:
        DaemonClient(here, Welcome(RUN_ID, "peer", 1, False, {}, False, False), torch.zeros(1), -1).close()
        there.settimeout(10.0)
        assert there.recv(1) == b""
    finally:
        os.close(of_a_worker)
        there.close()
