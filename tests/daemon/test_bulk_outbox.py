"""What waits for one peer, and which of its wires takes it (daemon/bulk/outbox.py)."""

import threading
from dataclasses import dataclass, field

from intellectd.daemon.bulk.bell import Bell
from intellectd.daemon.bulk.frames import Outgoing
from intellectd.daemon.bulk.outbox import FULL, Control, Full, Outbox
from tests.daemon.channel_hosts import WAIT_S, eventually, piece


@dataclass
class Wire:
    """outbox.Taker, with one thread that takes once."""

    room: bool
    busy: bool = False
    bell: Bell | None = field(default_factory=Bell)
    took: Control | Outgoing | Full | None = None

    def has_room(self) -> bool:
        return self.room

    def own_control(self) -> Control | None:
        return None

    def is_retiring(self) -> bool:
        return False

    def takes(self, outbox: Outbox) -> threading.Thread:
        """It waits when this returns."""

        def take() -> None:
            self.took = outbox.take(self, WAIT_S)

        thread, before = threading.Thread(target=take), outbox._waiting
        thread.start()
        eventually(lambda: outbox._waiting > before)
        return thread


def test_a_chunk_for_which_the_wire_that_was_woken_has_no_room_wakes_another() -> None:
    outbox, full, free, chunk = Outbox(), Wire(room=False), Wire(room=True), piece(b"it")
    threads = [full.takes(outbox), free.takes(outbox)]
    outbox.send(chunk)
    for thread in threads:
        thread.join()
    assert (full.took, free.took) == (FULL, chunk)
