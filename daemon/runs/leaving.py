"""How this host takes leave of a run: it says so until the others can do without its vote, then puts the files aside.

Owns when that is over, what is said meanwhile and at the end, and where the files go. A voter that vanished in the
midst of a small swarm would take the quorum along; one that forgot its votes could vote twice when it comes back.
Refuses to judge what the others need: `protocol/farewell.py` does.
"""

import itertools
import os
from pathlib import Path

import trio

from intellectd.daemon.atomic import fsync_dir, make_dir, storage_errors
from intellectd.daemon.runs.service import RunService
from intellectd.daemon.runs.status import some, why
from intellectd.daemon.store.run_store import LEAVING_NAME
from intellectd.protocol import events as ev
from intellectd.protocol.farewell import Farewell, farewell

WORD_S = 2.0  # for the word that we leave to reach the peers
PART_S_MAX = 3600.0  # longer than any round so far took (40 minutes); then silence has to do
ASK_S = 5.0  # a vote may also become needless by peers that go


class Parting:
    """One run that this host leaves, or has left since the daemon began."""

    def __init__(self, service: RunService) -> None:
        self.run_id = service.run_id
        self.over = trio.Event()  # its folder is aside
        self.warnings: list[str] = []
        self.trouble = ""  # why its folder is not aside yet
        self._service: RunService | None = service
        self._hurried = False

    def hurry(self) -> None:
        """Do not wait for the others."""
        self._hurried = True
        if self._service is not None:
            self._service.tell_waiters()

    def waits_for(self) -> str:
        service = self._service
        if self.trouble:
            return f"its files to be put aside, which is tried again and again: {self.trouble}"
        if service is None:
            return "its farewell to reach the others, and its trainer to end"
        stand, slow = _stand(service), why(service, service.reach)
        if stand.seat_is_needed:
            return f"a round that is decided without this host's vote ({slow})"
        if stand.log_is_needed:
            return f"the newest record to reach the other voters ({slow})"
        if stand.update_is_needed:
            return f"the newest update to be applied by somebody who stays ({slow})"
        return "its farewell to reach the others, and its trainer to end"

    async def part(self) -> bool:
        """Until a record is without this host's seat, or nobody is there to write one. False: the daemon stops."""
        service = self._service
        assert service is not None
        service.post(ev.LeaveRequested())
        with trio.move_on_after(PART_S_MAX):
            with trio.move_on_after(WORD_S):
                await service.ended.wait()
            while not self._hurried and not service.ended.is_set() and _stand(service).must_stay:
                with trio.move_on_after(ASK_S):
                    await service.changed.wait()
        if service.ended.is_set():
            return False  # the mark on disk takes it up again at the next start
        self.warnings = _parting_words(service)
        self._service = None
        return True


def _stand(service: RunService) -> Farewell:
    node, until = service.node, service.config.until.rounds
    over = node.halted is not None or (until is not None and node.head.round >= until)
    alive = node.membership.alive_beacons(trio.current_time())
    me = service.host.identity.peer_id
    stands = {"sparse": node.membership.sparse, "over": over, "abstains": node.seat.lost}
    return farewell(me, node.head, node.catchup.reach, alive, **stands)


def _parting_words(service: RunService) -> list[str]:
    stand, found = _stand(service), []
    if stand.strands:
        found.append(
            f"the others cannot decide a round without this host's vote: {some(stand.strands)} will wait until it "
            f"joins again: `intellectd join {service.run_id}`"
        )
    if stand.takes_last_state:
        found.append(
            "no other host in reach that stays has this run's newest state: keep the folder. "
            f"`intellectd join {service.run_id}` takes it up again"
        )
    return found


# ---- the folder of a run that was left


def put_aside(source: Path, aside: Path) -> None:
    """The newest copy gets the name that `join` looks for: it knows all of this host's votes. May be said again after
    a disk refused, at whichever point. Raises StorageError."""
    with storage_errors(aside):
        if source.exists() and aside.exists():
            names = (aside.with_name(f"{aside.name}.{number}") for number in itertools.count(1))
            os.replace(aside, next(name for name in names if not name.exists()))
    move_folder(source, aside)


def take_up(aside: Path, target: Path) -> None:
    """Back from where `put_aside` put it. Raises StorageError."""
    with storage_errors(aside):
        (aside / LEAVING_NAME).unlink(missing_ok=True)
    move_folder(aside, target)


def move_folder(source: Path, target: Path) -> None:
    """What has moved already is made durable. Raises StorageError."""
    make_dir(target.parent, 0o700)
    with storage_errors(target):
        if source.exists() or not target.exists():
            os.replace(source, target)
        fsync_dir(source.parent)
        fsync_dir(target.parent)
