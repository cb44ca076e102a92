"""What can go wrong on the bulk plane, and whose fault each thing is.

Owns the exceptions and their translation into a TransferFailed's suspect. Refuses to know sockets.
"""

from dataclasses import dataclass


class BulkError(Exception):
    """Something this host's operator or the app can act on."""


class BulkAddressInUse(BulkError):
    """The listen address is taken; names it."""


class BulkBadAddress(BulkError):
    """The listen address is not this host's; names it."""


class BulkClosed(BulkError):
    def __init__(self) -> None:
        super().__init__("the bulk engine is closed")


class BulkBusy(BulkError):
    """More transfers were started than the engine runs at once."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} transfers are running; wait for one to end")


class BulkExhausted(BulkError):
    """The system has no thread or no file left for it; names which."""


class Stopped(Exception):
    """The transfer was aborted or has failed in its other thread: leave at once."""


class DeadlinePassed(Exception):
    """The whole transfer took too long, though each part moved."""

    def __init__(self) -> None:
        super().__init__("the transfer's deadline has passed")


class LinkLost(Exception):
    """The connection said so: reset, closed, refused."""


class PeerRefused(LinkLost):
    """Nobody listens at the peer's address, so the process whose certificate is pinned is gone."""


class LinkSilent(Exception):
    """Nothing moved on the connection in time."""


class WireError(Exception):
    """The peer sent what the plan does not allow."""


class NotAuthentic(WireError):
    """A frame is not what the peer sealed: that was changed on its way, by whomever."""


class Declined(Exception):
    """A donor answered, and the answer is no. Nobody is at fault."""


class Busy(Declined):
    """It would, but serves as many as it can: worth asking again."""


class NeighbourAborted(Exception):
    """A neighbour ended the transfer and said whom it suspects, if anybody."""

    def __init__(self, reason: str, suspect: str | None, silent: bool) -> None:
        super().__init__(reason)
        self.suspect = suspect
        self.silent = silent


@dataclass(frozen=True)
class Failure:
    """The first thing that went wrong in a transfer; the fields of TransferFailed.

    `mine`: this host is why, and neighbours are told to suspect it, though it does not suspect itself.
    """

    suspect: str | None
    reason: str
    silent: bool = False
    mine: bool = False


def failure_of(error: Exception, peer: str) -> Failure:
    """Whose fault `error` is, where `peer` is the other end of the connection it came up on."""
    match error:
        case LinkLost() | LinkSilent():
            return Failure(peer, f"{peer}: {error}", silent=isinstance(error, LinkSilent))
        case WireError():
            return Failure(peer, f"{peer} broke the protocol: {error}")
        case NeighbourAborted():
            return Failure(error.suspect, f"{peer} ended the transfer: {error}", error.silent)
        case DeadlinePassed():
            return Failure(None, str(error), silent=True)
        case Declined():
            return Failure(None, f"{peer}: {error}")
        case _:
            # A fault of this host (a kernel, memory): end loudly rather than leave neighbours waiting.
            return Failure(None, f"this host failed: {type(error).__name__}: {error}", mine=True)
