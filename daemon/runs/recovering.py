"""The owner's recovery, as this daemon serves it: a draft to sign, and what was signed announced. SPEC G5.

Owns the two answers. The owner's key never comes here: whoever holds it signs, on this host or another.
"""

from typing import Any

import trio

from intellectd.daemon.control import ControlError
from intellectd.daemon.runs.service import RunService
from intellectd.protocol import events as ev
from intellectd.protocol.branch import FIRST_ATTEMPT
from intellectd.protocol.ids import Ballot, encode
from intellectd.protocol.limits import OWNERS_MAX
from intellectd.protocol.manifest import owners_of
from intellectd.protocol.node import Node
from intellectd.protocol.records import BadRecord, Certificate, Entry, Vote, decode_entry
from intellectd.protocol.recovery import NoRecovery

GIVEN_UP_SHOWN_MAX = 64  # a trail is not much longer, and nobody reads more
TAKEN_S = 30.0  # for the record to be on disk here; the peers follow by themselves


def draft(service: RunService) -> dict[str, Any]:
    """What the owner would sign now, and what it means. Raises ControlError."""
    node = service.node
    try:
        record, blob = node.recovery_draft(trio.current_time())
    except NoRecovery as error:
        raise ControlError(
            "no_recovery",
            f"run {service.config.name!r} cannot be recovered from here: {error}",
            "`intellectd status` says more",
        ) from error
    owners, needed = owners_of(node.context.manifest, node.context.config)
    unsigned = Entry(record, blob, Certificate(Ballot(FIRST_ATTEMPT, node.context.peer), []))
    key = service.host.config.state_dir / "owner-keys" / f"{service.run_id}.pem"
    return {
        "run_id": service.run_id,
        "name": service.config.name,
        "round": record.round,
        "given_up": list(range(record.round, node.head.round + 1))[:GIVEN_UP_SHOWN_MAX],
        "voters": list(record.next_voters),
        "lost": [voter for voter in node.head.voters if voter not in record.next_voters],
        "forgot": [voter for voter in record.next_voters if not _remembers(node, voter)],
        "owners": list(owners),
        "needed": needed,
        "listed": bool(node.context.config.recovery.keys),
        "key_path": str(key) if node.context.manifest.owner in owners and key.is_file() else None,
        "entry": encode(unsigned).hex(),
    }


def _remembers(node: Node, voter: str) -> bool:
    """Its votes of the line that was lost; who does not begins anew in the branch."""
    beacon = node.membership.beacon(voter)
    return node.seat.may_branch(node.head) if voter == node.context.peer else bool(beacon and beacon.lineage.votes)


async def take(service: RunService, entry_hex: str, owners: list[str], signatures: list[str]) -> dict[str, Any]:
    """What was signed: checked, written, and told to the peers. Raises ControlError."""
    node = service.node
    try:
        unsigned = decode_entry(bytes.fromhex(entry_hex))
        votes = [Vote(o, bytes.fromhex(s)) for o, s in zip(owners[:OWNERS_MAX], signatures, strict=True)]
        entry = Entry(unsigned.record, unsigned.blob, Certificate(unsigned.certificate.ballot, votes))
        node.recovery_base(entry)
    except (BadRecord, ValueError) as error:
        raise ControlError(
            "bad_recovery", f"this recovery does not fit: {error}", "run `intellectd recover` again"
        ) from error
    before = node.head.recoveries
    service.post(ev.RecoverySigned(entry))
    with trio.move_on_after(TAKEN_S):
        while node.head.recoveries == before:
            await service.changed.wait()
        return {"run_id": service.run_id, "round": entry.record.round, "voters": list(entry.record.next_voters)}
    raise ControlError(
        "bad_recovery", "the run did not take the recovery", "`intellectd status` says what it waits for"
    )
