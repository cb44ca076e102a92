"""What may go wrong for a trainer, each with the next step. Owns the public exceptions of `import intellectd`.

Refuses to know how they come about. Imports nothing heavy.
"""

from intellectd.daemon.errors import OperatorError


class IntellectdError(OperatorError):
    """Base of everything the trainer API raises on purpose; `message` and `hint` are apart."""


class DaemonUnavailable(IntellectdError):
    """No daemon answers on the socket, or it went away for longer than the trainer waits."""


class RunNotFound(IntellectdError):
    """The daemon knows no such run (or more than one, where none was named)."""


class TensorMismatch(IntellectdError):
    """The model's parameters are not those of the run; names the first that differs, with both shapes."""


class AttachRefused(IntellectdError):
    """The daemon has the run but does not take this trainer: another one is attached, or versions differ."""


class ModelUnsupported(IntellectdError):
    """The model or the setting cannot be trained this way: no parameters, tensors that no vector takes, ranks apart."""
