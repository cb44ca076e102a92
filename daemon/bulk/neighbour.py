"""One neighbour in one collective: what has come from it and gone to it, what waits, and when it was last heard.

Owns these books; whoever uses them holds the collective's lock. Refuses to know sockets.
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from intellectd.daemon.bulk.channel_port import ChannelPort
from intellectd.daemon.bulk.errors import Failure, WireError
from intellectd.daemon.bulk.frames import Header, Kind
from intellectd.daemon.bulk.limits import ON_BYTES_EVERY, SIGNS_MEANT
from intellectd.daemon.bulk.schedules.program import Send

EPOCHS = 2**16  # attempts are counted by each host, modulo what a header has room for
EPOCH_OF_CHUNK = 0x7F
EARLY = 0x80  # in the same place: of a chunk that went before it was known that the neighbour is there, for any attempt
PAGE_BYTES = 960  # of a bitmap in one GO: what CONTROL_BYTES_MAX leaves room for


def item(chunk: int, is_result: bool) -> int:
    """Its number among all that may come from one neighbour: no chunk comes from it more than once of each kind."""
    return 2 * chunk + is_result


def is_older(epoch: int, than: int | None) -> bool:
    """Of two attempts of one host; they are counted round a circle."""
    return than is not None and (epoch - than) % EPOCHS > EPOCHS // 2


class Sends(Protocol):
    def fill(self, parcel: "Parcel", seal: Callable[[memoryview], None], room: memoryview) -> bool: ...

    def moved(self, parcel: "Parcel") -> None: ...

    def sent(self, parcel: "Parcel") -> None: ...


class Way(enum.Enum):
    """How far a parcel is."""

    QUEUED = enum.auto()
    FILLED = enum.auto()  # a wire has it in its own buffer
    SENT = enum.auto()


class Parcel:
    """A chunk on its way to a neighbour, addressed to the attempt that the neighbour is in. When it has to go again, a
    new one goes in its stead: nothing that a wire still does with this one counts then."""

    __slots__ = ("_collective", "anew", "early", "header", "losses", "number", "send", "to", "way")

    def __init__(self, collective: Sends, to: "Neighbour", send: Send, number: int, transfer: int, length: int) -> None:
        self._collective, self.to, self.send, self.number = collective, to, send, number
        self.header = Header(Kind.CHUNK, to.chunks_epoch, send.step, send.chunk, transfer, length)
        self.way = Way.QUEUED
        self.early = False  # it may go before the neighbour has said GO
        self.losses = 0  # of connections to the neighbour, before a wire took it
        self.anew = False  # it has gone before, to an attempt that the neighbour has given up

    def again(self) -> "Parcel":
        header = self.header
        other = Parcel(self._collective, self.to, self.send, self.number, header.transfer, header.length)
        other.anew = self.anew or (self.way is not Way.QUEUED and header.flag != other.header.flag)
        return other

    def fill(self, seal: Callable[[memoryview], None], room: memoryview) -> bool:
        return self._collective.fill(self, seal, room)

    def moved(self) -> None:
        self._collective.moved(self)

    def sent(self) -> None:
        self._collective.sent(self)


@dataclass
class Neighbour:
    number: int
    peer: str
    arrivals: int  # still to come
    departures: int  # still to go
    channel: ChannelPort
    now: float
    taken: bytearray  # a bit for each item that has come
    epoch: int | None = None  # of its newest attempt that is known here
    ready: int | None = None  # in which attempt it has said GO: its buffers are there
    ended: int | None = None  # which attempt has ended there
    aborted: int | None = None  # which attempt it has given up, of which nothing else is known
    why: Failure | None = None  # it did, or has ended it, and has begun no other
    missed: bool = True  # what it sent before this host had begun may not have been kept
    met: bool = False  # it has said anything of this transfer
    lost: str = ""  # why a connection to it broke last
    losses: int = 0  # how many broke
    unsure: bool = False  # one broke, and it has not said that all is there
    waiting: int = 0  # parcels made and not sent
    waits_here: int = 0  # its chunks that wait for others' in this host's threads
    held: bool = False  # it said that this host's chunks waited there for others'
    holds: bool = False  # and said last that they do so, for none of this host's own
    gave_back: bool = False  # something that has come from it, since it was last told what came
    parcels: dict[int, Parcel] = field(default_factory=dict)  # by item
    heard_at: float = field(init=False)
    flowed_at: float = field(init=False)  # when a word or ON_BYTES_EVERY of chunks had come
    stirred: int = 0  # bytes of chunks since
    sign_s: float | None = None  # that ON_BYTES_EVERY took, in the mean of the last few
    moved_at: float = field(init=False)  # when it last took something, or there was nothing to take
    told_at: float = field(init=False)
    nudged_at: float = field(init=False)  # when it was last told what has come, of itself
    nudges: int = 0  # since a chunk came
    owed: int = field(init=False)  # parcels for it in all
    there: dict[int, int] = field(default_factory=dict)  # how many it said to have, by page

    def __post_init__(self) -> None:
        self.heard_at = self.flowed_at = self.moved_at = self.told_at = self.nudged_at = self.now
        self.owed = self.departures

    @property
    def chunks_epoch(self) -> int:
        """Of the attempt in which it takes chunks: as much of it as a chunk's header has room for."""
        return EARLY if self.ready is None else self.ready & EPOCH_OF_CHUNK

    def speaks_in(self, epoch: int) -> bool:
        """It has said something in this attempt. False if that is an old one, told late."""
        if is_older(epoch, self.epoch) or epoch == self.ended or is_older(epoch, self.ended):
            return False
        self.epoch, self.why = epoch, None
        return True

    def ends(self, epoch: int, why: Failure) -> bool:
        """This attempt is at its end there. False if it has begun another one since."""
        if is_older(epoch, self.epoch):
            return False
        self.ended, self.why = epoch, why
        return True

    def gives_up(self, epoch: int, why: Failure) -> None:
        """An attempt that it has not been heard in."""
        self.aborted, self.why = epoch, why

    @property
    def counts(self) -> bool:
        """Does anything still depend on it?"""
        return self.arrivals > 0 or self.departures > 0

    def heard(self, now: float) -> None:
        self.heard_at = self.flowed_at = now
        self.met, self.stirred = True, 0

    def stirs(self, count: int, now: float) -> bool:
        """So many bytes of its chunks have come, on any wire. Enough for a sign that they flow? What drips from a wire
        that fell behind is none. (Two threads at once may lose a count.)"""
        self.heard_at, self.stirred = now, self.stirred + count
        if self.stirred < ON_BYTES_EVERY:
            return False
        took_s = now - self.flowed_at
        self.sign_s = took_s if self.sign_s is None else self.sign_s + (took_s - self.sign_s) / SIGNS_MEANT
        self.flowed_at, self.stirred = now, 0
        return True

    def has(self, number: int) -> bool:
        return bool(self.taken[number >> 3] & 1 << (number & 7))

    def take(self, number: int) -> None:
        self.taken[number >> 3] |= 1 << (number & 7)

    def breaks(self, reason: str) -> None:
        """A connection to it. What was in sockets may be lost, and nobody says so of results that went last."""
        self.lost, self.losses = reason, self.losses + 1
        self.unsure = self.unsure or any(parcel.way is not Way.QUEUED for parcel in self.parcels.values())
        self.there.clear()

    def kept(self, parcel: Parcel) -> bool:
        """Of what went early: it is there, or will be, if its host says that it missed nothing."""
        return parcel.early and (parcel.way is Way.QUEUED or self._travels(parcel))

    def _travels(self, parcel: Parcel) -> bool:
        """It went after the last loss."""
        return parcel.losses == self.losses

    def give_back(self, number: int) -> None:
        """It came too early to be kept. It is asked for again."""
        self.taken[number >> 3] &= ~(1 << (number & 7))
        self.gave_back = True

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """(the first item's number, a bit for each from there on) of what has come."""
        for start in range(0, len(self.taken), PAGE_BYTES):
            yield 8 * start, bytes(self.taken[start : start + PAGE_BYTES])

    def told(self, first: int, bits: bytes, after_loss: bool) -> tuple[list[Parcel], list[Parcel]]:
        """Of these items what has come there, and what has gone and has not come; `after_loss`: but is not on its way
        on a connection that stands. Raises WireError for items that there are not."""
        if first >= 8 * len(self.taken):
            raise WireError(f"it tells of item {first} of {8 * len(self.taken)}")
        came: list[Parcel] = []
        lacking: list[Parcel] = []
        for offset in range(8 * len(bits)):
            parcel = self.parcels.get(first + offset)
            if parcel is not None and bits[offset >> 3] & 1 << (offset & 7):
                came.append(parcel)
            elif parcel is not None and parcel.way is not Way.QUEUED and not (after_loss and self._travels(parcel)):
                lacking.append(parcel)
        self.there[first] = len(came)
        self.unsure = self.unsure and sum(self.there.values()) < self.owed
        return came, lacking
