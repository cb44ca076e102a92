"""What this host says of itself: the content of its beacon, and when that is news. SPEC B2.

Owns the beacon's sequence and what the shell reported for it. Refuses to know who listens (membership.py).
"""

from intellectd.protocol.events import AddressesChanged, SnapshotsHeld, TransferMoved
from intellectd.protocol.head import Head
from intellectd.protocol.messages import Beacon, Lineage, Link, Ready, Transfer

Quorum = tuple[bool, bool]  # is one alive to this host, and can this host vote


class Herald:
    def __init__(self, incarnation: int, addresses: tuple[str, ...], bulk: tuple[str, bytes]) -> None:
        self._incarnation, self._sequence = incarnation, 0
        self._addresses, self._bulk = addresses, bulk
        self._snapshots: tuple[int, ...] = ()
        self._updates_from = 0
        self._transfer: Transfer | None = None
        self._said: object = None

    def on_addresses(self, event: AddressesChanged) -> None:
        self._addresses, self._bulk = event.addresses, (event.bulk, self._bulk[1])

    def on_snapshots(self, event: SnapshotsHeld) -> None:
        self._snapshots, self._updates_from = event.rounds, event.updates_from

    def cut(self, round_: int) -> None:
        """States after this round are of a line that was left."""
        self._snapshots = tuple(r for r in self._snapshots if r <= max(0, round_))

    def on_transfer(self, transfer: bytes) -> None:
        """It has begun: whoever leads it sees that the plan has come."""
        self._transfer = Transfer(transfer, 0, 0)

    def on_moved(self, event: TransferMoved) -> None:
        if self._transfer is None or self._transfer.transfer == event.transfer:
            self._transfer = Transfer(event.transfer, event.done_bytes, event.total_bytes)

    def on_transfer_over(self, transfer: bytes | None = None) -> None:
        """This one, or whichever it is. Word of one that was given up comes when the next is under way."""
        if transfer is None or (self._transfer is not None and self._transfer.transfer == transfer):
            self._transfer = None

    def is_news(
        self, head: Head, applied: int, state: str, ready: Ready | None, leaving: bool, standing: Quorum
    ) -> bool:
        """Would the beacon say something else than when this was last asked?"""
        key = (head.hash, applied, state, ready, leaving, standing, self._snapshots, self._updates_from)
        if key == self._said:
            return False
        self._said = key
        return True

    def beacon(
        self,
        head: Head,
        applied: int,
        state: str,
        ready: Ready | None,
        leaving: bool,
        standing: Quorum,
        voted: bool,
        links: list[Link],
    ) -> Beacon:
        """`voted` is no news: it is sent with what is."""
        self._sequence += 1
        return Beacon(
            incarnation=self._incarnation,
            sequence=self._sequence,
            generation=head.generation,
            head_round=head.round,
            head=head.told,
            applied=applied,
            state=state,
            leaving=leaving,
            voted=voted,
            addresses=list(self._addresses),
            bulk=self._bulk[0],
            certificate=self._bulk[1],
            ready=ready,
            transfer=self._transfer,
            snapshots=list(self._snapshots),
            updates_from=self._updates_from,
            lineage=Lineage(head.recoveries, head.branches, head.tokens_total, *standing),
            links=links,
        )
