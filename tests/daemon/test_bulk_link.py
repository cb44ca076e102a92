"""A link's patience: with a line that is slow, and with a peer that takes nothing."""

import socket
import ssl
from collections.abc import Callable

import pytest

from intellectd.daemon.bulk.bell import Stop
from intellectd.daemon.bulk.errors import LinkSilent
from intellectd.daemon.bulk.limits import PIECE_BYTES
from intellectd.daemon.bulk.link import Link
from tests.daemon.bulk_swarm import read_exactly

PIECE = 70_000  # given to the socket at once, which counts it until all of it is read


class Full:
    """A connection that has no room while any of `turns` is left."""

    def __init__(self, connection: socket.socket, turns: list[Callable[[], object]]) -> None:
        self._connection, self.turns = connection, turns

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, data: memoryview) -> int:
        if self.turns:
            raise ssl.SSLWantWriteError
        return len(data)


class Waiting(Link):
    """On a clock of the test's: each wait ends when its time is over, after the next of the turns."""

    def __init__(self, connection: Full, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(connection, Stop())  # type: ignore[arg-type]
        self.now, self._full = 100.0, connection
        monkeypatch.setattr("intellectd.daemon.bulk.link.now_s", lambda: self.now)

    def wait(self, timeout_s: float, **_what: object) -> bool:
        self.now += timeout_s
        self._full.turns.pop(0)()
        return False


@pytest.mark.parametrize(("takes", "silent"), [(PIECE, False), (0, True)])
def test_a_piece_that_has_gone_from_the_kernel_was_taken(
    monkeypatch: pytest.MonkeyPatch, takes: int, silent: bool
) -> None:
    """At 0.4 Mbit/s it is 10 s until it says that there is room, and the reader was dropped."""
    here, there = socket.socketpair()
    for _piece in range(2):
        assert here.send(bytes(PIECE)) == PIECE > PIECE_BYTES
    link = Waiting(Full(here, 2 * [lambda: read_exactly(there, takes)]), monkeypatch)
    if silent:
        with pytest.raises(LinkSilent, match="took nothing for 10 s"):
            link.write_all(memoryview(bytes(1)), 10.0)
        assert link.now == 110.0
    else:
        link.write_all(memoryview(bytes(1)), 10.0)
        assert link.now == 120.0
    here.close(), there.close()
