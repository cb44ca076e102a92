"""Whether a socket file and TCP addresses are free to be taken, in an operator's words.

Owns the probes and their errors, for `run` before anything heavy is imported and for `doctor`. Refuses to listen.
"""

import errno
import socket
import stat
from pathlib import Path

from intellectd.daemon.atomic import storage_error
from intellectd.daemon.errors import EXIT_CONFIG, EXIT_TEMPORARY, EXIT_UNAVAILABLE, OperatorError


class AlreadyRunning(OperatorError):
    """Another daemon answers on this socket."""

    exit_code = EXIT_TEMPORARY


class SocketInTheWay(OperatorError):
    """Something that is no socket lies at the path; it is left there."""

    exit_code = EXIT_CONFIG


class PortUnavailable(OperatorError):
    """The port is taken."""

    exit_code = EXIT_UNAVAILABLE


class NotOurAddress(OperatorError):
    """The address is not this host's, or not one to listen on."""

    exit_code = EXIT_CONFIG


def refuse_if_taken(path: Path) -> None:
    """Raises an OperatorError if a daemon answers there, or something else lies in the way."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, path) from error
    if not stat.S_ISSOCK(mode):
        raise SocketInTheWay(f"{path} exists and is no socket", "move it away, or choose another `--socket`")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # Anything but a refusal, such as EAGAIN for a full backlog, means that somebody listens.
        if probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT):
            raise AlreadyRunning(f"a daemon already answers on {path}", "use that one, or stop it first")


def claim_tcp(host: str, port: int, what: str) -> None:
    """Bind and let go: raises what listening there would, long before anything does."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # [::] and 0.0.0.0 may be two listeners of one port
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(where)
    except OSError as error:
        raise not_listening(f"cannot listen on {host}:{port} for {what}", port, error) from error


def not_listening(what: str, port: int, error: OSError) -> OperatorError:
    if error.errno == errno.EADDRINUSE:
        hint = f"find who has it with `ss -ltnp 'sport = :{port}'`, or choose another address"
        return PortUnavailable(f"{what}: port {port} is in use", hint)
    return NotOurAddress(f"{what}: {error.strerror or error}", "choose an address of this host")
