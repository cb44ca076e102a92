"""What a program started, wherever it went: launchers such as torchrun put each rank into a session of its own, where
no signal to a group reaches it, and one that is killed leaves them behind.

Owns a mark in the environment, which children inherit however they are started, and the end of all that bear it.
Refuses to know programs. Who starts with an empty environment, as another user or in a container is not found, and
neither is who writes its title over its environment.
"""

import contextlib
import os
import secrets
import signal

MARK = "INTELLECTD_STARTED_AS"
# One that is killed takes a moment to go, and one that forks has a child that was not there yet: more than a few times
# that is a program which does nothing else.
PASSES_MAX = 8


def new_mark() -> str:
    return secrets.token_hex(16)


def marked(mark: str) -> list[int]:
    """Processes that bear it, but for those that are dead already."""
    return [pid for name in os.listdir("/proc") if name.isdecimal() and _bears(pid := int(name), mark)]


def kill_marked(mark: str) -> int:
    """How many there were. Reads all of /proc, so in a thread."""
    seen: set[int] = set()
    for _ in range(PASSES_MAX):
        found = [pid for pid in marked(mark) if pid not in seen]
        if not found:
            break
        for pid in found:
            _kill(pid, mark)
        seen.update(found)
    return len(seen)


def _bears(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={mark}".encode() in file.read().split(b"\0")
    except OSError:  # gone, or somebody else's
        return False


def _kill(pid: int, mark: str) -> None:
    """Looked at once more, as since all were looked at its number may have been given to another."""
    if _bears(pid, mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
