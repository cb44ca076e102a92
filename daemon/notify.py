"""What systemd wants to hear from a Type=notify service: ready, status, stopping, and that it lives.

Owns the datagrams of sd_notify(3) and the tasks that repeat them. Refuses to decide what "alive" is: the app says.
Without NOTIFY_SOCKET everything here does nothing.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping

import trio

# sd_watchdog_enabled(3) recommends half the interval.
WATCHDOG_FRACTION = 0.5
STATUS_CHARS_MAX = 200  # one line of `systemctl status`
STATUS_S = 5.0  # a round takes longer, and a beacon comes as often
# Asked for three times before it runs out. The bound is for a disk that hangs: a terabyte at 300 MB/s takes an hour.
MORE_TIME_S = 60.0
MORE_TIME_S_MAX = 3600.0


class Notifier:
    """Sends to the service manager; never blocks, and never fails the daemon."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL byte of an abstract socket.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.watchdog_s = _watchdog_s(environ)

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={_line(status)}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    @contextlib.contextmanager
    def more_time(self, nursery: trio.Nursery) -> Iterator[None]:
        """While a start or a stop goes on, the manager's timeout for it is put off."""
        with contextlib.ExitStack() as stack:
            scope = trio.CancelScope(deadline=trio.current_time() + MORE_TIME_S_MAX)
            stack.callback(scope.cancel)
            if self._address:
                nursery.start_soon(self._extend, scope)
            yield

    async def _extend(self, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                self.extend_timeout(MORE_TIME_S)
                await trio.sleep(MORE_TIME_S / 3)

    async def report(self, line: Callable[[], str]) -> None:
        """Runs until cancelled: tells the line whenever it has changed."""
        told = ""
        while self._address:
            if (now := line()) != told:
                self.status(now)
                told = now
            await trio.sleep(STATUS_S)

    async def watchdog(self, is_alive: Callable[[], bool]) -> None:
        """Runs until cancelled. A daemon that is not alive says nothing, and systemd restarts it."""
        if not self.watchdog_s:
            return
        while True:
            if is_alive():
                self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_s * WATCHDOG_FRACTION)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(), self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float:
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or (meant_for and meant_for != str(os.getpid())):
        return 0.0
    return int(microseconds) / 1e6


def _line(text: str) -> str:
    return " ".join(text.split())[:STATUS_CHARS_MAX]
