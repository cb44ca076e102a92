"""The chunks of a collective that go: made when what they hold is there, sent when the neighbour is ready.

Owns parcels on their way. What was lost with a connection goes again from its place, which no result can have
overwritten before the neighbour had it.
"""

from collections.abc import Callable, Iterable

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.books import Books
from intellectd.daemon.bulk.errors import Failure, Stopped, failure_of
from intellectd.daemon.bulk.neighbour import Neighbour, Parcel, Way, item
from intellectd.daemon.bulk.schedules.program import Content, Send, size_of


class BegunAnew(Exception):
    """A neighbour wants a sum again whose place has its result by now."""


class Departures:
    def __init__(self, books: Books) -> None:
        self._books = books

    def make(self, sends: Iterable[Send]) -> list[Parcel]:
        """Under the lock. Those whose neighbour is ready are to be sent, without it."""
        books, found = self._books, []
        for send in sends:
            to, program = books.by_number[send.to], books.plan.program
            number = item(send.chunk, program.is_result(send.step))
            size = size_of(program, send.chunk, send.step)
            parcel = to.parcels[number] = Parcel(self, to, send, number, books.plan.key, size)
            to.waiting += 1
            if to.ready is not None:
                found.append(parcel)
        return found

    def early(self, neighbour: Neighbour, bytes_max: float) -> None:
        """What the neighbour most likely takes, as it begins about now, too: for the time in which its GO travels."""
        found: list[Parcel] = []
        with self._books.lock:
            parcels = list(neighbour.parcels.values()) if neighbour.ready is None else []
            for parcel in parcels:
                bytes_max -= parcel.header.length
                if bytes_max < 0:
                    break
                parcel.early = True
                found.append(parcel)
        for parcel in found:
            neighbour.channel.send(parcel)

    def begin(self, neighbour: Neighbour, epoch: int, kept: bool) -> None:
        """It is ready, in this attempt of its. Of an earlier one that it was ready in nothing is left there; `kept`:
        but what went to it before any is."""
        with self._books.lock:
            if neighbour.ready == epoch:
                return
            kept = kept and neighbour.ready is None
            if neighbour.ready is not None:  # who begins anew without end must not fill the queue with what is void
                neighbour.channel.drop_chunks(self._books.plan.key)
            neighbour.ready, neighbour.moved_at = epoch, now_s()
            left = [parcel for parcel in neighbour.parcels.values() if not (kept and neighbour.kept(parcel))]
            parcels = [self._again(parcel) for parcel in left]
        for parcel in parcels:
            neighbour.channel.send(parcel)

    def _again(self, parcel: Parcel) -> Parcel:
        if parcel.way is Way.SENT:
            self._books.goes_again(parcel.to, parcel.header.length)
        other = parcel.to.parcels[parcel.number] = parcel.again()
        return other

    def send_again(self, neighbour: Neighbour, first: int, bits: bytes, after_loss: bool) -> None:
        """Of the items from `first` on those that have gone and, by its bits, not come. What is still on its way may
        go twice, unless it went after the last loss; the second is dropped there."""
        books = self._books
        with books.lock:
            came, lacking = neighbour.told(first, bits, after_loss)
            for parcel in came:  # of some of them this host does not know it: the wire broke behind the last byte
                self._went(parcel)
            again, complete = [self._again(parcel) for parcel in lacking], books.complete
        for parcel in reversed(again):
            neighbour.channel.send(parcel, first=True)  # others there may wait for just these
        if complete:
            books.over.set()

    def has_all(self, neighbour: Neighbour) -> None:
        """Its collective is complete: whatever of this has gone, it is there."""
        with self._books.lock:
            for parcel in neighbour.parcels.values():
                self._went(parcel)
            neighbour.unsure = False
            complete = self._books.complete
        if complete:
            self._books.over.set()

    def nobody_is_there(self, neighbours: Iterable[Neighbour]) -> None:
        """Or none that says whether it has all: this host does not wait for it any more."""
        with self._books.lock:
            for neighbour in neighbours:
                neighbour.unsure = False
            complete = self._books.complete
        if complete:
            self._books.over.set()

    def _went(self, parcel: Parcel) -> None:
        if parcel.way is not Way.SENT:
            parcel.way = Way.SENT
            # Also where only the neighbour says that it has it, of an earlier attempt here, or falsely: its result
            # comes by way of others, who would be blamed for it.
            self._books.left[parcel.send.chunk] = 1
            self._books.went(parcel.to, parcel.header.length)

    def _is_there(self, parcel: Parcel) -> bool:
        """What is to go: not a sum that was overwritten by its result."""
        is_result = self._books.plan.program.is_result(parcel.send.step)
        return parcel.send.content is Content.OWN or is_result or not self._books.resulted[parcel.send.chunk]

    def _is_current(self, parcel: Parcel) -> bool:
        return parcel.to.parcels.get(parcel.number) is parcel

    # ---- in a writer's thread

    def fill(self, parcel: Parcel, seal: Callable[[memoryview], None], room: memoryview) -> bool:
        books = self._books
        if not self._is_current(parcel) or parcel.way is Way.SENT:
            return False
        parcel.losses = parcel.to.losses
        try:
            if parcel.anew:
                with books.lock:  # it went to an earlier attempt of the neighbour's, which may have passed it on
                    self._seal(parcel, seal, room)
            else:  # a sum goes before its result can come, so nothing has to be held for it
                self._seal(parcel, seal, room)
        except Stopped:
            return False
        except BegunAnew:
            books.fail(Failure(None, f"{parcel.to.peer} has begun this transfer anew"))
            return False
        except Exception as error:  # this host's own delta is not finite, or a kernel's
            books.fail(failure_of(error, ""))
            return False
        with books.lock:
            if parcel.way is Way.QUEUED:  # else the neighbour has just said that it has it, of an earlier copy
                parcel.way = Way.FILLED
        return True

    def _seal(self, parcel: Parcel, seal: Callable[[memoryview], None], room: memoryview) -> None:
        books, send = self._books, parcel.send
        with books.buffers.inside:
            if parcel.anew and not self._is_there(parcel):
                raise BegunAnew
            seal(books.buffers.payload(books.plan.chunks[send.chunk], send.content, room))
            books.left[send.chunk] = 1

    def moved(self, parcel: Parcel) -> None:
        parcel.to.moved_at = now_s()

    def sent(self, parcel: Parcel) -> None:
        books = self._books
        with books.lock:
            if not self._is_current(parcel):
                return  # another goes in its stead
            self._went(parcel)
            complete = books.complete
        if complete:
            books.over.set()
