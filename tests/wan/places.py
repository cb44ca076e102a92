"""Doing things in a network namespace that has no name, only a descriptor: sockets, settings, commands.

Owns entering and leaving one. Refuses to know who made it and why.
"""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
CLONE_NEWNET = 0x40000000  # linux/sched.h


def within(place: Path, what: Callable[[], Result]) -> Result:
    """Calls it in a thread of its own that has entered the namespace; raises what it raises, or OSError."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            _set_namespace(place)
            results.append(what())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _set_namespace(place: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {place}")
    finally:
        os.close(descriptor)


def open_socket(place: Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that belongs there, whoever uses it."""
    return within(place, lambda: socket.socket(family, kind, protocol))


def setting(place: Path, name: str, value: str) -> None:
    """Writes a net.* sysctl of that namespace."""
    within(place, lambda: Path("/proc/sys", *name.split(".")).write_text(value))


def without_ipv6(place: Path) -> None:
    """There may be none to begin with: of the kernel, or switched off as it was booted."""
    with suppress(FileNotFoundError):
        setting(place, "net.ipv6.conf.all.disable_ipv6", "1")


def settle(place: Path, words: tuple[str, ...], told: str) -> None:
    """Runs a configuring command there with `told` on its standard input; OSError has what it said."""

    def run() -> None:
        done = subprocess.run(words, input=told, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{' '.join(words)}: {done.stderr.strip()[:2000]}")

    within(place, run)
