"""What systemd wants to hear from a Type=notify service: ready, status, stopping, and that it lives.

Owns the datagrams of sd_notify(3) and the watchdog task. Refuses to decide what "alive" is: the app says.
Without NOTIFY_SOCKET everything here does nothing.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Mapping

import trio

# sd_watchdog_enabled(3) recommends half the interval.
WATCHDOG_FRACTION = 0.5
STATUS_CHARS_MAX = 200  # one line of `systemctl status`


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
        """Asks for more time to start or stop, such as during a long catch-up."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

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
