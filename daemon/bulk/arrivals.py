"""The chunks of a collective that come: checked against the plan, and put where they belong by the wires' threads.

Owns what is done with each, and the waits for what must come before. Refuses to know when a neighbour is too late.
"""

import threading
from collections.abc import Callable

from intellectd.daemon.bulk.books import Books
from intellectd.daemon.bulk.departures import Departures
from intellectd.daemon.bulk.errors import Failure, NotAuthentic, Stopped, WireError, failure_of
from intellectd.daemon.bulk.frames import Header, Incoming
from intellectd.daemon.bulk.gathering import Gathering
from intellectd.daemon.bulk.neighbour import EARLY, EPOCH_OF_CHUNK, Neighbour, item
from intellectd.daemon.bulk.schedules.chunks import Chunk
from intellectd.daemon.bulk.schedules.program import ROW_ENDS, Action, Arrival, Send, size_of

Expected = tuple[Neighbour, Arrival, Chunk, int]  # whose, what it means, of what, and the item's number


class Arrivals:
    def __init__(self, books: Books, departures: Departures, say_what_came: Callable[[Neighbour], None]) -> None:
        self._books, self._departures, self._say_what_came, plan = books, departures, say_what_came, books.plan
        gathered = [chunk.index for chunk in plan.chunks if plan.program.gathered(chunk.index)]
        self._gathering = Gathering(plan.me, len(plan.members), gathered, books.buffers, books.changed)
        self._rows = bytearray(len(plan.chunks))  # `out` holds the row's sum
        self._scratch = threading.local()
        self._looked_up: tuple[str, Header, Expected] | None = None  # the last frame: asked for before and after it

    def wants(self, peer: str, header: Header) -> bool:
        """Raises WireError for what no plan allows."""
        if not self._is_for_this(header):
            return False
        neighbour, _arrival, _chunk, number = self._expected(peer, header)
        return not self._books.over.is_set() and not neighbour.has(number)

    def _is_for_this(self, header: Header) -> bool:
        """Not for an earlier attempt, of whatever plan. What comes before this one has met anybody is."""
        return bool(self._books.neighbours) and header.flag in (EARLY, self._books.epoch & EPOCH_OF_CHUNK)

    def on_chunk(self, peer: str, header: Header, incoming: Incoming) -> None:
        """Raises WireError for what no plan allows; the collective has failed then. NotAuthentic for what was changed
        on its way: that ends the wire and comes again."""
        if not self._is_for_this(header):
            return  # it was wanted by the attempt before, which has ended since
        try:
            neighbour, arrival, chunk, number = self._expected(peer, header)
            if arrival.action is Action.GATHER or arrival.action in ROW_ENDS:
                then = self._join(neighbour, arrival, chunk, number, header.step, incoming)
            else:
                then = self._take(neighbour, arrival, chunk, number, incoming)
            if then is not None:
                self._taken(neighbour, chunk, header.length, then, arrival.ends_row)
        except Stopped:
            pass
        except NotAuthentic:
            raise  # not the peer's word
        except WireError as error:
            self._books.fail(failure_of(error, peer))
            raise
        except Exception as error:  # a kernel's
            self._books.fail(failure_of(error, peer))

    def _expected(self, peer: str, header: Header) -> Expected:
        """Of a frame, whose header is one object from its first byte to its last."""
        last = self._looked_up
        if last is None or last[1] is not header or last[0] != peer:
            last = self._looked_up = peer, header, self._look_up(peer, header)
        return last[2]

    def _look_up(self, peer: str, header: Header) -> Expected:
        neighbour, program = self._books.neighbours.get(peer), self._books.plan.program
        if neighbour is None:
            raise WireError("it sent a chunk of a transfer between others")
        if header.chunk >= len(program.chunks):
            raise WireError(f"it sent chunk {header.chunk} of {len(program.chunks)}")
        chunk, arrival = program.chunks[header.chunk], program.arrival(header.chunk, header.step)
        if arrival is None or arrival.source != neighbour.number:
            raise WireError(f"it sent chunk {header.chunk} in step {header.step}, in which it does not come from there")
        size = size_of(program, header.chunk, header.step)
        if header.length != size:
            raise WireError(f"it sent {header.length} bytes for chunk {header.chunk}, which has {size}")
        return neighbour, arrival, chunk, item(header.chunk, program.is_result(header.step))

    def _take(
        self, neighbour: Neighbour, arrival: Arrival, chunk: Chunk, number: int, incoming: Incoming
    ) -> tuple[Send, ...] | None:
        """Into its place at once. None: another wire has brought it already."""
        buffers, is_result = self._books.buffers, arrival.action is Action.STORE
        if is_result and not (self._books.left[chunk.index] or self._books.plan.program.parts_from_own):
            self._opened(incoming, chunk.size)  # before anybody is blamed
            self._lacks_own_part(neighbour, chunk)
        with buffers.inside:
            if not self._claim(neighbour, number):
                return None
            try:
                incoming.open_into(buffers.place(chunk))
            except NotAuthentic:
                self._unclaim(neighbour, number, is_result)
                raise
            if is_result:
                buffers.check(chunk)
            else:
                buffers.add(chunk, final=arrival.action is Action.FINISH)
        return arrival.then

    def _lacks_own_part(self, neighbour: Neighbour, chunk: Chunk) -> None:
        """Between two it is the other's fault. Among more, whoever was to get the part may have gone on without it, and
        those behind could not know. Raises WireError, Stopped."""
        if len(self._books.neighbours) == 1:
            raise WireError(f"it sent a result of chunk {chunk.index} that lacks this host's part")
        said = f"the result of chunk {chunk.index} that came by way of {neighbour.peer} lacks this host's part"
        self._books.fail(Failure(None, said))
        raise Stopped

    def _join(
        self, neighbour: Neighbour, arrival: Arrival, chunk: Chunk, number: int, step: int, incoming: Incoming
    ) -> tuple[Send, ...] | None:
        """What needs more than what has come. It waits for that in the wire's thread, so that its sender is held up
        and nothing piles up; what it waits for comes on other wires."""
        buffers, gathers = self._books.buffers, arrival.action is Action.GATHER
        part = self._opened(incoming, chunk.part_size if gathers else chunk.size)
        if not self._claim(neighbour, number):
            return None
        if gathers:
            return self._gather(neighbour, chunk, number, step, part)
        self._await(neighbour, lambda: bool(self._rows[chunk.index]))
        with buffers.inside:
            buffers.merge(chunk, part, final=arrival.action is Action.MERGE_FINISH)
        return arrival.then

    def _gather(
        self, neighbour: Neighbour, chunk: Chunk, number: int, step: int, part: memoryview
    ) -> tuple[Send, ...] | None:
        gathering, makes_way = self._gathering, False

        def is_decided() -> bool:
            nonlocal makes_way
            if gathering.is_turn(chunk, step):
                return True
            makes_way = self._lost_before(neighbour, chunk, number)
            return makes_way

        self._await(neighbour, is_decided)
        if makes_way:  # not "has come": another wire may have brought it again since
            return None
        with self._books.buffers.inside:
            is_last = gathering.add(chunk, step, part)
        if not is_last:
            return ()
        with self._books.lock:
            told = [other for other in self._books.neighbours.values() if other.gave_back]
            for other in told:
                other.gave_back = False
        for other in told:
            self._say_what_came(other)
        return self._books.plan.program.gathered(chunk.index)

    def _lost_before(self, neighbour: Neighbour, chunk: Chunk, number: int) -> bool:
        """What lacks most was lost with a connection, and comes again behind this, perhaps on the same wire: this one
        makes way."""
        if not neighbour.lost or not self._gathering.is_far(chunk):
            return False
        if self.holds(neighbour):
            return False  # what lacks is others'
        neighbour.give_back(number)
        return True

    def holds(self, neighbour: Neighbour) -> bool:
        """Under the lock. Do chunks of its wait here for others', and for none of its own? That one may be on a wire of
        its that is dead."""
        return neighbour.waits_here > 0 and all(neighbour.has(item(near, False)) for near in self._gathering.near())

    def release(self) -> None:
        """The memory beside the job's, now: what still refers to this waits for the garbage collector."""
        self._scratch = threading.local()
        self._gathering.release()

    def _opened(self, incoming: Incoming, size: int) -> memoryview:
        """In this thread's own memory. Raises Stopped when it is over."""
        self._books.check()
        whole: bytearray | None = getattr(self._scratch, "whole", None)
        if whole is None or len(whole) < size:
            whole = self._scratch.whole = bytearray(size)  # a chunk's, at most
        place = memoryview(whole)[:size]
        incoming.open_into(place)
        return place

    def _claim(self, neighbour: Neighbour, number: int) -> bool:
        """After a loss two wires may bring it; one of them has it."""
        with self._books.lock:
            if neighbour.has(number):
                return False
            neighbour.take(number)
            if number == item(number >> 1, True):
                self._books.resulted[number >> 1] = 1
            return True

    def _unclaim(self, neighbour: Neighbour, number: int, is_result: bool) -> None:
        """It has not come after all."""
        with self._books.lock:
            neighbour.give_back(number)
        if is_result and not self._books.plan.program.parts_from_own:
            # Of the sum that was in its place nothing is left, and a loss could ask for that again.
            self._books.fail(Failure(None, f"a result from {neighbour.peer} was changed on its way, in its place"))

    def _await(self, neighbour: Neighbour, ready: Callable[[], bool]) -> None:
        with self._books.changed:
            neighbour.waits_here += 1
            try:
                self._books.changed.wait_for(lambda: self._books.over.is_set() or ready())
            finally:
                neighbour.waits_here -= 1
        self._books.check()

    def _taken(self, neighbour: Neighbour, chunk: Chunk, size: int, then: tuple[Send, ...], ends_row: bool) -> None:
        books = self._books
        with books.lock:
            books.came(neighbour, size)
            ready = self._departures.make(then)
            if ends_row:
                self._rows[chunk.index] = 1
                books.changed.notify_all()
            complete, all_came = books.complete, neighbour.losses > 0 and not neighbour.arrivals
        if all_came:
            self._say_what_came(neighbour)  # it waits for that
        for parcel in ready:
            parcel.to.channel.send(parcel)
        if complete:
            books.over.set()
