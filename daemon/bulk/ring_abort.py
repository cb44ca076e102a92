"""What members of a failing ring tell each other: who is at fault, so that nobody accuses the messenger.

Owns the meaning of an ABORT frame. Refuses to know when one is sent.
"""

from intellectd.daemon.bulk.errors import Failure, NeighbourAborted
from intellectd.daemon.bulk.limits import GOODBYE_S
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.ring_state import RingState
from intellectd.daemon.bulk.wire import Header, abort_length, decode_suspect, encode_abort


def abort_frame(failure: Failure, state: RingState) -> bytes:
    """`failure` as the neighbours shall hear it."""
    plan = state.plan
    return encode_abort(plan.members[plan.me] if failure.mine else failure.suspect, failure.silent)


def heard_abort(link: Link, header: Header, state: RingState) -> NeighbourAborted:
    """Read the rest of an ABORT frame. It may name a member of the ring, and no one else."""
    named = decode_suspect(link.read_bytes(abort_length(header), GOODBYE_S))
    silent = bool(header.flag)
    plan = state.plan
    if named == plan.members[plan.me]:
        return NeighbourAborted("it suspects this host", None, silent)
    if named not in plan.members:
        return NeighbourAborted("it suspects nobody", None, silent)
    return NeighbourAborted(f"it suspects {named}", named, silent)
