"""The client's end of the control socket: one question, one answer, and plain words when there is none.

Owns connecting, deadlines and the exit codes of refusals. Refuses to know what the operations mean.
"""

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intellectd.daemon.errors import (
    EXIT_CONFIG,
    EXIT_DEGRADED,
    EXIT_FAILURE,
    EXIT_NOT_RUNNING,
    EXIT_TIMEOUT,
    EXIT_USAGE,
    OperatorError,
)
from intellectd.daemon.frames import PROTOCOL_VERSION, FrameError, recv_frame, send_frame
from intellectd.daemon.socket_path import check_socket_path, daemon_socket, default_socket

ANSWER_S_MAX = 10.0  # for what the daemon knows by heart; slower operations say how long they may take
LOOK_S = 0.5  # a person waits; what is done sooner needs no word
_EXIT_CODES = {
    "no_such_run": EXIT_DEGRADED,
    "not_joined": EXIT_DEGRADED,
    "timeout": EXIT_TIMEOUT,
    "bad_config": EXIT_CONFIG,
    "bad_run_id": EXIT_USAGE,
    "bad_address": EXIT_USAGE,
    "usage": EXIT_USAGE,
}


class NotRunning(OperatorError):
    """Nobody listens on the socket."""

    exit_code = EXIT_NOT_RUNNING


class NoAnswer(OperatorError):
    """The daemon is there but did not answer in time."""

    exit_code = EXIT_TIMEOUT


class Refused(OperatorError):
    """The daemon said no."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code
        self.exit_code = _EXIT_CODES.get(code, EXIT_FAILURE)


def socket_of(arguments: Any) -> Path:
    """--socket, else INTELLECTD_SOCKET, else the default."""
    named = arguments.socket or os.environ.get("INTELLECTD_SOCKET")
    return check_socket_path(Path(named) if named else default_socket(os.environ))


def ask(path: Path, op: str, answer_s_max: float = ANSWER_S_MAX, /, **fields: Any) -> dict[str, Any]:
    """The daemon's answer. Raises an OperatorError for anything else."""
    return ask_and_look(path, op, answer_s_max, None, **fields)


def ask_and_look(
    path: Path, op: str, answer_s_max: float, look: Callable[[], None] | None, /, **fields: Any
) -> dict[str, Any]:
    """`ask`, calling `look` now and then while there is no answer yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(answer_s_max)
        _connect(sock, path)
        try:
            send_frame(sock, {"op": op, "version": PROTOCOL_VERSION, **fields})
            if look is not None:
                _look_until_readable(sock, time.monotonic() + answer_s_max, look)
            answer = recv_frame(sock)
        except TimeoutError:
            raise NoAnswer(
                f"the daemon on {path} did not answer `{op}` within {answer_s_max:g} s",
                "is the host overloaded? its log may tell more; then try again",
            ) from None
        except (OSError, FrameError) as error:
            raise OperatorError(
                f"the daemon on {path} ended the conversation: {error}",
                "it may have stopped: its log tells why; `intellectd status` shows whether it is back",
            ) from error
    if answer.get("ok") is not True:
        raise _refusal(answer)
    return answer


def _look_until_readable(sock: socket.socket, deadline_s: float, look: Callable[[], None]) -> None:
    while not select.select([sock], [], [], LOOK_S)[0]:
        if time.monotonic() > deadline_s:
            raise TimeoutError
        look()


def _refusal(answer: dict[str, Any]) -> Refused:
    error = answer.get("error")
    facts = error if isinstance(error, dict) else {}
    code, message, hint = (str(facts.get(key, "")) for key in ("code", "message", "hint"))
    return Refused(code, message or "the daemon refused without a reason", hint)


def _connect(sock: socket.socket, path: Path) -> None:
    try:
        sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NotRunning(f"no daemon is running: nobody answers on {path}", _how_to_start(path)) from None
    except PermissionError:
        raise OperatorError(
            f"this user may not use the daemon's socket {path}",
            "run the command with sudo, or join its group: `sudo usermod -aG intellectd $USER`, then log in again",
        ) from None
    except TimeoutError:
        raise NoAnswer(f"the daemon on {path} does not accept connections", "its log may tell why") from None
    except OSError as error:
        raise OperatorError(f"cannot connect to {path}: {error.strerror}", "is it the daemon's socket?") from error


def _how_to_start(path: Path) -> str:
    default = daemon_socket(os.environ)
    service = path == default and Path("/etc/systemd/system/intellectd.service").exists()
    if service:
        return "start it with `sudo systemctl start intellectd`"
    option = "" if path == default else f" --socket {path}"
    return f"start it with `intellectd run{option}`, or name another daemon's socket with `--socket PATH`"
