"""Errors meant for the operator: what was wrong, the next step, and the exit code a script may act on.

Owns the one base class that `intellectd` prints without a traceback, and the table of exit codes. Refuses to
know who raises them. Imports nothing, so that the CLI may.
"""

# For the CLI. 3 is what `systemctl status` answers for a stopped service; 124 is what timeout(1) answers.
EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_DEGRADED = 4
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# For the daemon: the names and numbers of <sysexits.h>, so that a unit file can list them.
EXIT_UNAVAILABLE = 69  # a port is in use
EXIT_TEMPORARY = 75  # another daemon holds the state directory
EXIT_PERMISSION = 77  # no permission, a read-only or a full file system
EXIT_CONFIG = 78  # bad configuration, or a corrupt file of ours

# What `--json` calls an error, where the daemon has no word of its own for it.
CODES = {
    EXIT_FAILURE: "failed",
    EXIT_USAGE: "usage",
    EXIT_NOT_RUNNING: "not_running",
    EXIT_DEGRADED: "degraded",
    EXIT_TIMEOUT: "timeout",
    EXIT_UNAVAILABLE: "port_in_use",
    EXIT_TEMPORARY: "in_use",
    EXIT_PERMISSION: "permission",
    EXIT_CONFIG: "bad_config",
}


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside nested exception groups, in which trio delivers what its tasks raised."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


class OperatorError(Exception):
    """`message` says what was wrong and names the thing; `hint` says what to do next."""

    exit_code = EXIT_FAILURE
    code = ""  # for scripts; empty: as CODES says

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message
