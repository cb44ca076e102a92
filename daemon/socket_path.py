"""Where the daemon's unix socket lies, and whether that path can be one.

Owns the defaults that daemon, CLI and SDK must agree on, and the kernel's length limit. Refuses to know what
is spoken there. Imports the standard library alone.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from intellectd.daemon.errors import EXIT_CONFIG, OperatorError

SYSTEM_SOCKET_DIR = Path("/run/intellectd")  # RuntimeDirectory= of deploy/systemd/intellectd.service
SOCKET_NAME = "intellectd.sock"
SOCKET_PATH_BYTES_MAX = 107  # sun_path of unix(7) has 108 bytes, the last of them NUL


class SocketPathError(OperatorError):
    """The path cannot name a unix socket."""

    exit_code = EXIT_CONFIG


def user_state_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/intellectd`, for a daemon that is not a system service."""
    root = environ.get("XDG_STATE_HOME") or str(home(environ) / ".local/state")
    return Path(root) / "intellectd"


def home(environ: Mapping[str, str]) -> Path:
    """Of this user. Where nobody knows one it is /, as of a container's user that has only a number."""
    try:
        return Path(environ.get("HOME") or "~").expanduser()
    except RuntimeError:
        return Path("/")


def daemon_socket(environ: Mapping[str, str]) -> Path:
    """Where a daemon of this user listens by default. Never /tmp, where anybody may squat on the name."""
    existing = SYSTEM_SOCKET_DIR if SYSTEM_SOCKET_DIR.is_dir() else SYSTEM_SOCKET_DIR.parent
    if os.access(existing, os.W_OK):
        return SYSTEM_SOCKET_DIR / SOCKET_NAME
    return _user_socket(environ)


def default_socket(environ: Mapping[str, str]) -> Path:
    """Which daemon a client means by default: this user's own if it has one, else the system's."""
    user = _user_socket(environ)
    if SYSTEM_SOCKET_DIR.is_dir() and not user.exists():
        return SYSTEM_SOCKET_DIR / SOCKET_NAME
    return user if user.exists() else daemon_socket(environ)


def _user_socket(environ: Mapping[str, str]) -> Path:
    runtime_dir = environ.get("XDG_RUNTIME_DIR")
    return (Path(runtime_dir) if runtime_dir else user_state_dir(environ)) / SOCKET_NAME


def check_socket_path(path: Path) -> Path:
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        raise SocketPathError(
            f"socket path {path} has {length} bytes; a unix socket's may have {SOCKET_PATH_BYTES_MAX}",
            "choose a shorter one with `--socket PATH`, INTELLECTD_SOCKET or `socket` in the config file",
        )
    return path
