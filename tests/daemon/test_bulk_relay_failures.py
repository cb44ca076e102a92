"""A relay that hangs up half-way, that stops passing on, that dies: what the two who meet there say. SPEC D11."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import TransferFailed
from intellectd.daemon.bulk.relay import Pipes
from tests.daemon.bulk_swarm import Case, Events, trust_all

MEMBERS = ("a", "b", "r")
ELEMENTS = 16384 * 120  # 2 MB of int8: some chunks each way, and more than sockets of a relay hold

STALL_S = 2.5  # it passes; what is honest has to be heard in so long on a busy machine


class Falling(Pipes):
    """Passes so many bytes on, once, and then `fall`s."""

    bytes_left = 0
    fallen = threading.Event()

    def _rest(self, came: int, went: int) -> None:
        Falling.bytes_left -= went
        if Falling.bytes_left < 0 and not Falling.fallen.is_set():
            Falling.fallen.set()
            self.fall()

    def fall(self) -> None:
        raise OSError("it hangs up")


class Stalling(Falling):
    """From then on it passes nothing on, also of those that meet there anew."""

    def _rest(self, came: int, went: int) -> None:
        if Falling.fallen.is_set():
            self.fall()
        super()._rest(came, went)

    def fall(self) -> None:
        while True:  # until it is closed
            self._stop.wait(60.0)
            self._stop.check()


@contextmanager
def two_hidden(monkeypatch: pytest.MonkeyPatch, kind: type[Falling]) -> Iterator[dict[str, Engine]]:
    """a and b have no address; r, the relay, has one. A collective went well, so that the channel stands."""
    monkeypatch.setattr("intellectd.daemon.bulk.relay.Pipes", kind)
    monkeypatch.setattr(Falling, "bytes_left", 10**12)
    monkeypatch.setattr(Falling, "fallen", threading.Event())
    engines = {peer: Engine(peer, "127.0.0.1:0", "" if peer == "r" else None) for peer in MEMBERS}
    try:
        trust_all(engines)
        ended(engines, "before")
        yield engines
    finally:
        for engine in engines.values():
            engine.close()


def begun(engines: dict[str, Engine], name: str, **more: Any) -> tuple[Case, dict[str, Events]]:
    case = Case(MEMBERS, elements=ELEMENTS, name=name, schedule="direct", **more)
    return case, {peer: case.start(engine, peer) for peer, engine in engines.items()}


def ended(engines: dict[str, Engine], name: str) -> None:
    case, running = begun(engines, name)
    for events in running.values():
        events.done()
    assert len({bytes(out) for out in case.outs}) == 1


@pytest.mark.parametrize("after_bytes", [0, 100_000, 600_000])
def test_a_relay_that_hangs_up_costs_a_dial(monkeypatch: pytest.MonkeyPatch, after_bytes: int) -> None:
    with two_hidden(monkeypatch, Falling) as engines:
        Falling.bytes_left = after_bytes
        ended(engines, "dropped")
        assert Falling.fallen.is_set(), "nothing went through the relay"
        assert engines["r"].relayed()[0] == 1, "they meet there again"
        assert [engine._channels.offences() for engine in engines.values()] == [{}] * 3


def test_a_relay_that_passes_nothing_on_is_a_link_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two can only see that nothing comes from the other, and says through whom: the next attempt's order
    keeps the two apart."""
    with two_hidden(monkeypatch, Stalling) as engines:
        Stalling.bytes_left = Falling.bytes_left = 100_000
        _case, running = begun(engines, "stalled", stall_s=STALL_S)
        ends = {peer: running[peer].failed() for peer in ("a", "b")}  # r may have its part done, or not
        assert Falling.fallen.is_set()
        blaming = [end for end in ends.values() if end.suspect is not None]
        assert any(end.silent and "through r" in end.reason for end in blaming), ends
        assert ends["a"].suspect in (None, "b") and ends["b"].suspect in (None, "a"), ends


def test_a_relay_that_dies_ends_what_went_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have had its own part done: then all that is seen of it is the silence between the two, through it."""
    with two_hidden(monkeypatch, Stalling) as engines:
        Falling.bytes_left = 100_000
        _case, running = begun(engines, "died", stall_s=STALL_S)
        assert Falling.fallen.wait(20.0)
        engines["r"].close()
        ends: list[TransferFailed] = [running[peer].failed() for peer in ("a", "b")]
        blaming = [end for end in ends if end.suspect is not None]
        assert blaming and all(end.suspect == "r" or "through r" in end.reason for end in blaming), ends
