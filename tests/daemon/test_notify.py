"""The words for systemd, received on a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from intellectd.daemon.notify import MORE_TIME_S_MAX, Notifier

Systemd = tuple[socket.socket, dict[str, str]]


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@intellectd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.setblocking(False)
        yield sock, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}


def heard(sock: socket.socket) -> list[str]:
    messages = []
    try:
        while True:
            messages.append(sock.recv(4096).decode())
    except BlockingIOError:
        return messages


def test_ready_status_and_stopping(systemd: Systemd) -> None:
    sock, environ = systemd
    notifier = Notifier(environ)
    notifier.ready("round 0\nwaiting")
    notifier.status("round 1")
    notifier.extend_timeout(30)
    notifier.stopping()
    assert heard(sock) == [
        "READY=1\nSTATUS=round 0 waiting",
        "STATUS=round 1",
        "EXTEND_TIMEOUT_USEC=30000000",
        "STOPPING=1",
    ]


async def test_the_watchdog_is_fed_twice_an_interval_while_alive(
    systemd: Systemd, autojump_clock: trio.abc.Clock
) -> None:
    sock, environ = systemd
    notifier = Notifier(environ)
    with trio.move_on_after(100):
        await notifier.watchdog(lambda: trio.current_time() < 70)
    assert heard(sock) == ["WATCHDOG=1"] * 3  # at 0, 30 and 60 s; at 90 s it is not alive


async def test_a_long_start_is_given_more_time_until_it_is_over(
    systemd: Systemd, autojump_clock: trio.abc.Clock
) -> None:
    sock, environ = systemd
    notifier = Notifier(environ)
    async with trio.open_nursery() as nursery:
        with notifier.more_time(nursery):
            await trio.sleep(50)
    assert heard(sock) == ["EXTEND_TIMEOUT_USEC=60000000"] * 3  # at 0, 20 and 40 s
    async with trio.open_nursery() as nursery:
        with notifier.more_time(nursery):
            await trio.sleep(MORE_TIME_S_MAX)
            assert heard(sock)
            await trio.sleep(100)
    assert heard(sock) == []  # it hangs: the manager is to end it


async def test_the_status_is_told_when_it_has_changed(systemd: Systemd, autojump_clock: trio.abc.Clock) -> None:
    sock, environ = systemd
    with trio.move_on_after(60):
        await Notifier(environ).report(lambda: "mini: round 1" if trio.current_time() < 29 else "mini: round 2")
    assert heard(sock) == ["STATUS=mini: round 1", "STATUS=mini: round 2"]


@pytest.mark.parametrize("pid", ["1", "x"])
async def test_a_watchdog_meant_for_another_process_is_not_fed(pid: str) -> None:
    assert Notifier({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": pid}).watchdog_s == 0


async def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).ready("up")
    await Notifier({}).watchdog(lambda: True)
    await Notifier({}).report(lambda: "up")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("up")
