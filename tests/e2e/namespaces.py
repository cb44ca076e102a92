"""A network that can be cut: each host in a network namespace of its own, joined by a bridge in one more.

Owns the namespaces, and that none outlives its test. Needs root and iproute2. Refuses to know who lives in them.
"""

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

PORT = 4001  # each has an address of its own, so that a restart finds its port free
NOWHERE = "02:00:00:00:00:01"  # a locally administered address that nobody has


def can_cut() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"soak-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "del", name)
    return made


class Namespaces:
    def __init__(self, count: int) -> None:
        self._hub = f"soak-{os.getpid()}-hub"
        self._names = [f"soak-{os.getpid()}-{number}" for number in range(count)]
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._make(self._hub)
            _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._hub, "link", "set", "bridge", "up")
            for number, name in enumerate(self._names):
                self._make(name)
                _ip("-n", self._hub, "link", "add", f"to{number}", "type", "veth", "peer", "up0", "netns", name)
                _ip("-n", self._hub, "link", "set", f"to{number}", "master", "bridge", "up")
                _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "up0")
                _ip("-n", name, "link", "set", "up0", "up")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    @staticmethod
    def address(number: int) -> str:
        return f"198.18.0.{number + 1}"  # set aside for tests of networks (RFC 2544)

    def inside(self, number: int) -> tuple[str, ...]:
        """What a command line begins with there."""
        return ("ip", "netns", "exec", self._names[number])

    def cut(self, number: int, whole: bool) -> None:
        """From everybody, silently: nobody is told that a connection is gone."""
        _ip("-n", self._hub, "link", "set", f"to{number}", "up" if whole else "down")

    def mute(self, number: int, towards: int, whole: bool) -> None:
        """What one sends to the other gets lost; the other way it goes on."""
        there = (self.address(towards), "dev", "up0")
        if whole:
            _ip("-n", self._names[number], "neigh", "del", *there)
        else:
            place = self._names[number]
            _ip("-n", place, "neigh", "replace", there[0], "lladdr", NOWHERE, *there[1:], "nud", "permanent")

    def _make(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _end(self) -> None:
        while self._made:
            _ip("netns", "del", self._made.pop())


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
