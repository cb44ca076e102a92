"""What a collective needs of the channel to a neighbour. `channel.py` has the real one."""

from typing import Protocol

from intellectd.daemon.bulk.frames import Header, Outgoing
from intellectd.daemon.bulk.streams import LinkMeasure


class ChannelPort(Protocol):
    @property
    def width(self) -> int:
        """Wires that stand."""
        ...

    @property
    def relay(self) -> str:
        """Who joins this host and the peer, or ""."""
        ...

    def stall_after(self, stall_s: float) -> None:
        """A wire on which what is begun does not move for so long is lost, from now on."""
        ...

    def tell(self, header: Header, payload: bytes = b"") -> None: ...

    def send(self, item: Outgoing, *, first: bool = False) -> None: ...

    def drop(self, transfer: int) -> None: ...

    def drop_chunks(self, transfer: int) -> None: ...


class ChannelsPort(Protocol):
    def need(self, peer: str, stall_s: float) -> ChannelPort: ...

    def release(self, peer: str) -> None: ...

    def measured(self, peer: str) -> LinkMeasure | None: ...
