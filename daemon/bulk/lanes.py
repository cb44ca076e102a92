"""Memory that two processes of one host share for a wire's chunks: sealed into a slot of it here, opened there.

Owns the slots of both directions, whose turn they take, and the bytes that give them back. Refuses to know headers,
which go by the wire's connection as ever: whatever ends, cuts or stalls that does it to the lanes. SPEC D12.

The peer maps the same memory, so nothing in it is believed before it authenticates. What is made there to be sealed in
place it can change before: it is what the peer itself is to get, and nobody else here looks at it. That the memory
cannot shrink under the map is the kernel's word (file seals).
"""

import contextlib
import fcntl
import mmap
import os
import select
import socket
import stat
from collections.abc import Callable

from intellectd.daemon.bulk.bell import Bell, Stop, now_s
from intellectd.daemon.bulk.errors import LinkLost, LinkSilent, WireError
from intellectd.daemon.bulk.limits import FRAME_BYTES_MAX, LANE_SLOTS
from intellectd.daemon.bulk.sealed import TAG_BYTES

SLOT_BYTES = FRAME_BYTES_MAX + mmap.PAGESIZE * -(-TAG_BYTES // mmap.PAGESIZE)  # each begins on a page
LANE_BYTES = LANE_SLOTS * SLOT_BYTES
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_GIVEN = b"\0"  # one slot
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14 (include/uapi/asm-generic/mman-common.h)


class Lanes:
    """Both directions of one wire, as one end has them. Raises OSError where there is no room."""

    def __init__(self, memory: int, words: socket.socket, *, dialled: bool, on_closed: Callable[[], None]) -> None:
        """Takes both over, also when it fails: `memory` is a file's number."""
        try:
            mapped = mmap.mmap(memory, 2 * LANE_BYTES, mmap.MAP_SHARED)
        except BaseException:
            words.close()
            raise
        finally:
            os.close(memory)
        with contextlib.suppress(OSError):  # all at once; else page by page, as they are used
            mapped.madvise(_POPULATE_WRITE)
        whole = memoryview(mapped)
        lanes = whole[:LANE_BYTES], whole[LANE_BYTES:]  # from the dialler, from the acceptor
        self._words, self._on_closed = words, on_closed
        self.out = LaneOut(lanes[0 if dialled else 1], words)
        self.back = LaneIn(lanes[1 if dialled else 0], words)

    def close(self) -> None:
        """Once. The memory goes when nobody refers to it."""
        self._words.close()
        self._on_closed()


class LaneOut:
    """In the hands of the writing thread."""

    def __init__(self, memory: memoryview, words: socket.socket) -> None:
        self._slots, self._words = _cut(memory), words
        self._next = 0
        self._under_way = 0  # slots that the peer has not done with
        self._full_s: float | None = None  # since when it has done with none of them
        self.filled_bytes = 0
        self.waited_s = 0.0  # for a slot
        self._poll = select.poll()
        self._poll.register(words.fileno(), select.POLLIN)

    def watch(self, *bells: Stop | Bell) -> None:
        """What ends a wait, too."""
        for bell in bells:
            self._poll.register(bell.fileno(), select.POLLIN)

    def has_room(self) -> bool:
        """Is there a slot for a chunk? Raises LinkLost, WireError."""
        if self._under_way == LANE_SLOTS:
            self._hear()
        return self._under_way < LANE_SLOTS

    def room(self) -> memoryview:
        """The next slot, of SLOT_BYTES; there has to be one."""
        assert self._under_way < LANE_SLOTS
        return self._slots[self._next]

    def filled(self, count: int) -> None:
        """That slot is the peer's."""
        self._next = (self._next + 1) % LANE_SLOTS
        self._under_way += 1
        self.filled_bytes += count
        self._full_s = now_s() if self._under_way == LANE_SLOTS else None

    def wait(self, stall_s: float) -> None:
        """For a slot, or a bell, or until the peer has done with none for so long. Raises LinkLost, WireError, and
        LinkSilent where that was so before: the next time asks with a patience that may have changed meanwhile."""
        if self._full_s is None:
            return
        began = now_s()
        left_s = max(0.0, self._full_s + stall_s - began)
        self._poll.poll(left_s * 1000.0)
        self._hear()
        self.waited_s += now_s() - began
        if self._full_s is not None and not left_s:
            raise LinkSilent(f"it took nothing for {stall_s:g} s")

    def _hear(self) -> None:
        try:
            given = len(self._words.recv(LANE_SLOTS + 1, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkLost(error.strerror or str(error)) from None
        if not given:
            raise LinkLost("it closed the connection")
        if given > self._under_way:
            raise WireError(f"it gave {given} slots back, of {self._under_way}")
        self._full_s = None
        self._under_way -= given


class LaneIn:
    """In the hands of the reading thread."""

    def __init__(self, memory: memoryview, words: socket.socket) -> None:
        self._slots, self._words = _cut(memory), words
        self._next = 0

    def slot(self, count: int) -> memoryview:
        """What came with the header that was read last."""
        return self._slots[self._next][:count]

    def give_back(self) -> None:
        self._next = (self._next + 1) % LANE_SLOTS
        with contextlib.suppress(OSError):  # who has gone is heard of by the connection
            self._words.send(_GIVEN, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _cut(memory: memoryview) -> list[memoryview]:
    return [memory[at : at + SLOT_BYTES] for at in range(0, LANE_BYTES, SLOT_BYTES)]


def new_memory() -> int:
    """A file in memory of two lanes, whose size is final and whose room is there. Raises OSError."""
    memory = os.memfd_create("intellectd-wire", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(memory, 0, 2 * LANE_BYTES)  # a page that is not to be had is an error here, and no SIGBUS
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memory)
        raise
    return memory


def check_memory(memory: int, words: int) -> None:
    """What a peer handed over. Raises WireError."""
    try:
        sealed = fcntl.fcntl(memory, fcntl.F_GET_SEALS)
    except OSError as error:
        raise WireError(f"what it shares is no memory: {error.strerror}") from None
    if os.fstatvfs(memory).f_bsize != mmap.PAGESIZE:  # of huge ones there may be none left, and a hole is punched soon
        raise WireError("the memory that it shares is not of ordinary pages")
    if not sealed & fcntl.F_SEAL_SHRINK or os.fstat(memory).st_size != 2 * LANE_BYTES:
        raise WireError("the memory that it shares has another size, or none that is final")
    if not stat.S_ISSOCK(os.fstat(words).st_mode):
        raise WireError("what it shares is no memory and a socket")
