"""How this host takes leave of a run: it says so until the others can do without its vote, then puts the files aside.

Owns when that is over, and the mark on disk that outlives a restart. A voter that vanished in the midst of a small
swarm would take the quorum along; one that forgot its votes could vote twice when it comes back.
"""

import trio

from intellectd.daemon.logs import get_log
from intellectd.daemon.runs.service import RunService
from intellectd.protocol import events as ev

WORD_S = 2.0  # for the word that we leave to reach the peers
PART_S_MAX = 3600.0  # longer than any round so far took (40 minutes); then silence has to do
ASK_S = 5.0  # a vote may also become needless by peers that go

log = get_log("runs")


async def part(service: RunService) -> None:
    """Until a record is without this host's seat, or nobody is there to write one."""
    service.post(ev.LeaveRequested())
    with trio.move_on_after(PART_S_MAX) as late:
        with trio.move_on_after(WORD_S):
            await service.ended.wait()
        while seat_is_needed(service):
            with trio.move_on_after(ASK_S):
                await service.changed.wait()
    if late.cancelled_caught:
        log.warning("left a run whose peers still count on this host's vote", run=service.config.name)


def seat_is_needed(service: RunService) -> bool:
    node, until = service.node, service.config.until.rounds
    over = node.halted or service.ended.is_set() or (until is not None and node.head.round >= until)
    votes = service.host.identity.peer_id in node.head.voters
    return bool(not over and votes and node.membership.alive_beacons(trio.current_time()))
