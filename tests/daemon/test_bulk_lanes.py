"""Memory that two processes of one host share for a wire (daemon/bulk/lanes.py, sharing.py). SPEC D12."""

import fcntl
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import msgpack
import pytest

from intellectd.daemon.bulk.bell import Bell, Stop
from intellectd.daemon.bulk.errors import LinkLost, LinkSilent, WireError
from intellectd.daemon.bulk.lanes import LANE_BYTES, SLOT_BYTES, Lanes, check_memory, new_memory
from intellectd.daemon.bulk.limits import FRAME_BYTES_MAX, LANE_SLOTS, SHARED_WIRES_MAX
from intellectd.daemon.bulk.sealed import TAG_BYTES
from intellectd.daemon.bulk.sharing import Offer, Sharing, _address, _rights
from intellectd.daemon.bulk.sockets import is_within_host
from intellectd.daemon.bulk.wire import NEAR_BYTES, ChannelRequest, decode_request, encode_request
from tests.daemon.channel_hosts import WAIT_S

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

TOKEN = bytes(range(32))


@contextmanager
def pair() -> Iterator[tuple[Lanes, Lanes]]:
    """Both ends: the dialler's and the acceptor's."""
    memory, ends = new_memory(), socket.socketpair()
    made = [
        Lanes(os.dup(memory), end, dialled=dialled, on_closed=lambda: None)
        for end, dialled in zip(ends, (True, False), strict=True)
    ]
    os.close(memory)
    try:
        yield made[0], made[1]
    finally:
        for lanes in made:
            lanes.close()


def sent(lanes: Lanes, payload: bytes) -> None:
    assert lanes.out.has_room()
    lanes.out.room()[: len(payload)] = payload
    lanes.out.filled(len(payload))


def test_slots_take_turns_and_each_direction_has_its_own() -> None:
    with pair() as (a, b):
        for turn in range(2 * LANE_SLOTS + 1):
            for here in (a, b):
                sent(here, f"{turn} of {id(here)}".encode())
            for here, there in ((a, b), (b, a)):
                words = f"{turn} of {id(here)}".encode()
                assert bytes(there.back.slot(len(words))) == words
                there.back.give_back()
        assert a.out.has_room() and a.out.filled_bytes == b.out.filled_bytes > 0


def test_a_slot_holds_the_largest_frame() -> None:
    with pair() as (a, _b):
        assert len(a.out.room()) == SLOT_BYTES >= FRAME_BYTES_MAX + TAG_BYTES


def test_there_is_room_once_a_slot_is_given_back() -> None:
    with pair() as (a, b):
        for _ in range(LANE_SLOTS):
            sent(a, b"x")
        assert not a.out.has_room()
        b.back.give_back()
        a.out.wait(WAIT_S)
        assert a.out.has_room()
        sent(a, b"y")
        assert not a.out.has_room()


def test_who_takes_nothing_is_silent() -> None:
    with pair() as (a, _b):
        for _ in range(LANE_SLOTS):
            sent(a, b"x")
        a.out.wait(0.01)  # whoever asks may have more patience by the next time
        with pytest.raises(LinkSilent, match=r"it took nothing for 0\.01 s"):
            a.out.wait(0.01)
        assert a.out.waited_s >= 0.01


def test_a_wait_ends_by_a_bell_and_goes_on_where_it_was() -> None:
    with pair() as (a, _b), closing(Bell()) as bell:
        a.out.watch(bell)
        for _ in range(LANE_SLOTS):
            sent(a, b"x")
        bell.ring()
        a.out.wait(WAIT_S)
        assert not a.out.has_room() and a.out.waited_s < WAIT_S / 2, "it was the bell that ended it"
        with pytest.raises(LinkSilent):
            a.out.wait(0.0)


def test_a_stop_ends_a_wait_for_a_slot() -> None:
    with pair() as (a, _b), closing(Stop()) as stop:
        a.out.watch(stop)
        for _ in range(LANE_SLOTS):
            sent(a, b"x")
        timer = threading.Timer(0.01, stop.set)
        timer.start()
        a.out.wait(WAIT_S)
        timer.join()
        assert a.out.waited_s < WAIT_S / 2, "it was the stop that ended it"


def test_who_has_gone_is_lost_to_the_writer_and_no_matter_to_the_reader() -> None:
    with pair() as (a, b):
        for _ in range(LANE_SLOTS):
            sent(a, b"x")
        sent(b, b"y")
        b.close()
        a.back.give_back()
        with pytest.raises(LinkLost, match="closed the connection"):
            a.out.has_room()


def test_who_gives_back_what_it_has_not_got_breaks_the_protocol() -> None:
    with pair() as (a, b):
        for _ in range(LANE_SLOTS):
            sent(a, b"x")
        for _ in range(LANE_SLOTS + 1):
            b.back.give_back()
        with pytest.raises(WireError, match="gave"):
            a.out.has_room()


def shrunk() -> int:
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, 2 * LANE_BYTES)
    return memory


def short() -> int:
    return os.memfd_create("test", os.MFD_CLOEXEC)


@pytest.mark.parametrize(
    ("memory", "words"), [(shrunk, "final"), (short, "final"), (lambda: os.open("/dev/null", os.O_RDWR), "no memory")]
)
def test_memory_that_could_shrink_under_the_map_is_not_mapped(memory: Callable[[], int], words: str) -> None:
    """Whoever maps a file that is cut short dies of SIGBUS."""
    with ExitStack() as stack:
        file = memory()
        stack.callback(os.close, file)
        end = stack.enter_context(socket.socket(socket.AF_UNIX))
        with pytest.raises(WireError, match=words):
            check_memory(file, end.fileno())


def test_memory_that_is_handed_over_keeps_its_size() -> None:
    memory = new_memory()
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(memory, 0)
        with pytest.raises(WireError, match="no memory and a socket"):
            check_memory(memory, memory)
    finally:
        os.close(memory)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def offered(sharing: Sharing) -> Iterator[Offer]:
    offer = sharing.offer()
    assert offer is not None
    with closing(offer):
        yield offer


def test_what_is_given_is_what_is_taken() -> None:
    dialler, acceptor = Sharing(True), Sharing(True)
    with offered(dialler) as offer:
        given = acceptor.give(offer.near, TOKEN)
        assert given is not None
        taken = offer.take(TOKEN)
    sent(taken, b"there")
    sent(given, b"and back")
    assert bytes(given.back.slot(5)) == b"there" and bytes(taken.back.slot(8)) == b"and back"
    given.close()
    taken.close()
    assert dialler._wires == acceptor._wires == 0


def test_what_others_of_this_host_leave_there_is_passed_over() -> None:
    """Names of sockets can be read by everybody on the host (/proc/net/unix): the token is what counts."""
    files = open_files()
    with offered(Sharing(True)) as offer:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, open(os.devnull) as null:
            other.connect(_address(offer.near))
            other.send(b"")
            other.sendmsg([TOKEN[::-1]], [_rights(*[null.fileno()] * 5)])
            other.sendmsg([TOKEN + b"more"], [_rights(null.fileno())])
        given = Sharing(True).give(offer.near, TOKEN)
        taken = offer.take(TOKEN)
        assert given is not None
        given.close()
        taken.close()
    del given, taken
    assert open_files() == files


def test_as_much_as_the_queue_holds_may_be_strangers() -> None:
    """Here a queue that is longer than this kernel's: systemd makes it 512 (net.unix.max_dgram_qlen)."""
    memory, words = new_memory(), socket.socketpair()
    queue = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as stack, offered(Sharing(True)) as offer:
        stack.callback(os.close, memory)
        for end in (*words, queue[1]):
            stack.enter_context(end)
        offer._socket.close()
        offer._socket = queue[0]
        for _ in range(100):
            queue[1].send(b"stranger", socket.MSG_DONTWAIT)
        queue[1].sendmsg([TOKEN], [_rights(memory, words[0].fileno())], socket.MSG_DONTWAIT)
        offer.take(TOKEN).close()


def test_files_of_strangers_are_not_even_closed(tmp_path: Path) -> None:
    """That would take this process's locks on them, and wait for file systems of theirs."""
    with offered(Sharing(True)) as offer, open(tmp_path / "locked", "w") as locked:
        fcntl.lockf(locked, fcntl.LOCK_EX)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.connect(_address(offer.near))
            other.sendmsg([TOKEN[::-1]], [_rights(locked.fileno())])
        with pytest.raises(LinkLost, match="did not come"):
            offer.take(TOKEN)
        assert f":{os.fstat(locked.fileno()).st_ino} " in Path("/proc/locks").read_text()


def test_what_does_not_come_is_not_asked_for_again() -> None:
    sharing = Sharing(True)
    with offered(sharing) as offer, pytest.raises(LinkLost, match="did not come"):
        offer.take(TOKEN)
    assert sharing.offer() is None


def test_who_hands_over_something_else_breaks_the_protocol() -> None:
    with offered(Sharing(True)) as offer:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.connect(_address(offer.near))
            other.sendmsg([TOKEN], [_rights(other.fileno(), other.fileno())])
        with pytest.raises(WireError, match="no memory"):
            offer.take(TOKEN)


@contextmanager
def files_left(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        yield


def test_whichever_file_is_one_too_many_for_who_gives_nothing_is_left_open() -> None:
    given, count = None, 0
    while given is None:
        with offered(Sharing(True)) as offer:
            before, giver = open_files(), Sharing(True)
            with files_left(count):
                given = giver.give(offer.near, TOKEN)
            assert given is not None or (open_files(), giver._wires) == (before, 0)
        count += 1
    given.close()


def test_whichever_file_is_one_too_many_for_who_takes_nothing_is_left_open() -> None:
    taken, count = None, 0
    while taken is None:
        with offered(Sharing(True)) as offer:
            given = Sharing(True).give(offer.near, TOKEN)
            assert given is not None
            before = open_files()
            with files_left(count), suppress(LinkLost):
                taken = offer.take(TOKEN)
            assert taken is not None or open_files() == before
            given.close()
        count += 1
    taken.close()


def test_no_memory_is_given_to_a_name_that_nobody_has() -> None:
    sharing = Sharing(True)
    assert sharing.give(bytes(NEAR_BYTES), TOKEN) is None
    assert sharing._wires == 0


def test_so_many_wires_have_shared_memory_and_no_more() -> None:
    sharing = Sharing(True)
    with ExitStack() as stack:
        for _ in range(SHARED_WIRES_MAX):
            stack.enter_context(offered(sharing))
        assert sharing.offer() is None and sharing.give(bytes(NEAR_BYTES), TOKEN) is None
    with offered(sharing):
        pass
    assert Sharing(False).offer() is None


def test_the_request_says_where_and_old_ones_do_not() -> None:
    near = ChannelRequest((), True, bytes(NEAR_BYTES))
    assert decode_request(encode_request(near)[2:]) == near
    assert b"near" not in encode_request(ChannelRequest())
    for wrong in (b"short", bytes(NEAR_BYTES + 1), "text", 7, None):
        with pytest.raises(WireError, match="shared memory"):
            decode_request(msgpack.packb({"v": 1, "op": "channel", "wires": [], "sealed": True, "near": wrong}))


def test_connections_within_the_host_are_known() -> None:
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with ExitStack() as stack:
            try:
                listening = stack.enter_context(socket.create_server((host, 0), family=family))
            except OSError:
                continue  # no IPv6 here
            near = stack.enter_context(socket.create_connection(listening.getsockname()[:2]))
            assert is_within_host(near)
    assert not is_within_host(socket.socket())
