"""The chunks of a collective that go: made when what they hold is there, sent when the neighbour is ready.

Owns parcels on their way. What was lost with a connection goes again from its place, which no result can have
overwritten before the neighbour had it.
"""

from collections.abc import Callable, Iterable

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.books import Books
from intellectd.daemon.bulk.errors import Stopped, failure_of
from intellectd.daemon.bulk.neighbour import Neighbour, Parcel, Way, item
from intellectd.daemon.bulk.schedules.program import Content, Send


class Departures:
    def __init__(self, books: Books) -> None:
        self._books = books
        self._started = bytearray(len(books.plan.chunks))  # this host's part is in `out`

    def make(self, sends: Iterable[Send]) -> list[Parcel]:
        """Under the lock. Those whose neighbour is ready are to be sent, without it."""
        books, found = self._books, []
        for send in sends:
            to, chunk = books.by_number[send.to], books.plan.chunks[send.chunk]
            parcel = Parcel(self, to, send, books.plan.key, chunk.size)
            to.parcels[item(send.chunk, books.plan.program.is_result(send.step))] = parcel
            to.waiting += 1
            if to.ready is not None:
                found.append(parcel)
        return found

    def begin(self, neighbour: Neighbour, epoch: int) -> None:
        """It is ready, in this attempt of its. Of an earlier one that it was ready in nothing is left there."""
        with self._books.changed:
            if neighbour.ready == epoch:
                return
            neighbour.ready, neighbour.moved_at = epoch, now_s()
            parcels = list(neighbour.parcels.values())
            for parcel in parcels:
                self._queue(parcel)
        for parcel in parcels:
            neighbour.channel.send(parcel)

    def _queue(self, parcel: Parcel) -> None:
        if parcel.way is Way.SENT:
            self._books.goes_again(parcel.to)
        parcel.way = Way.QUEUED
        parcel.readdress()

    def send_again(self, neighbour: Neighbour, first: int, bits: bytes) -> None:
        """Of the items from `first` on those that have gone and, by its bits, not come. What is still on its way may
        go twice; the second is dropped there."""
        with self._books.changed:
            lacking = neighbour.lacking(first, bits)
            for parcel in lacking:
                self._queue(parcel)
        for parcel in lacking:
            neighbour.channel.send(parcel)

    # ---- in a writer's thread

    def fill(self, parcel: Parcel, seal: Callable[[memoryview], None]) -> bool:
        books, send = self._books, parcel.send
        chunk, buffers = books.plan.chunks[send.chunk], books.buffers
        try:
            with buffers.inside:
                if send.content is Content.START and not self._started[chunk.index]:
                    buffers.start(chunk)
                    self._started[chunk.index] = 1
                seal(buffers.own(chunk) if send.content is Content.OWN else buffers.place(chunk))
                books.left[chunk.index] = 1
        except Stopped:
            return False
        except Exception as error:  # this host's own delta is not finite, or a kernel's
            books.fail(failure_of(error, ""))
            return False
        parcel.way = Way.FILLED
        return True

    def sent(self, parcel: Parcel) -> None:
        books = self._books
        with books.changed:
            if parcel.way is Way.SENT:
                return
            parcel.way = Way.SENT
            books.went(parcel.to, parcel.header.length)
            complete = books.complete
        if complete:
            books.over.set()
