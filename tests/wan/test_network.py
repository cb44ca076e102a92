"""The network as real kernels see it: delays, rates, losses, cuts, while it runs."""

import errno
import socket
import statistics

import pytest

from tests.wan.fixture import Make, trust
from tests.wan.network import Wan
from tests.wan.probe import SO_TIMESTAMPNS_NEW, arrival, round_trips
from tests.wan.topology import Route, Topology, uniform

ANSWER_S = 20.0  # what is certain to come on a busy machine
PORT = 4001
DATAGRAM = 1472  # with its headers an IP packet of 1500 bytes
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
BOX_BYTES = 4 << 20  # what comes while this process does not get to read


def mailbox(wan: Wan, name: str, port: int = PORT) -> socket.socket:
    box = wan.open_socket(name, socket.SOCK_DGRAM)
    box.bind(("", port))
    box.settimeout(ANSWER_S)
    box.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BOX_BYTES)
    return box


def pace(sender: socket.socket, receiver: socket.socket, address: str, count: int, floods: int) -> float:
    """Seconds that half as many datagrams take to pass: the median of several floods."""
    return statistics.median(flood(sender, receiver, address, count) for _ in range(floods))


def flood(sender: socket.socket, receiver: socket.socket, address: str, count: int) -> float:
    """Datagrams sent at once; seconds between each and the one that half of them came after, by the receiver's kernel.

    Their median, because a sender, router or receiver that is held up makes some of these longer and others shorter:
    from the first to the last, one hold-up of either end is the result."""
    receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
    for _ in range(count):
        sender.sendto(bytes(DATAGRAM), (address, PORT))
    stamps = []
    for _ in range(count):
        _, ancillary, _, _ = receiver.recvmsg(2048, 256)
        stamps.append(arrival(ancillary))
    half = count // 2
    return statistics.median(late - early for early, late in zip(stamps, stamps[half:], strict=False))


def test_a_round_trip_takes_the_delays_of_both_ways(wan: Make) -> None:
    routes = {("a", "b"): Route(delay_ms=30), ("b", "a"): Route(delay_ms=50), ("a", "c"): Route(delay_ms=5)}
    net = wan(Topology(uniform(("a", "b", "c"), Route()).hosts, routes))
    for end, expected in (("b", 0.080), ("c", 0.005)):
        trips = round_trips(net, "a", end, 50)
        counts = net.counts()
        assert len(trips) == 50
        assert min(trips) >= expected
        trust(counts)
        assert statistics.median(trips) == pytest.approx(expected, rel=0.05, abs=0.0005)


def test_a_path_passes_its_rate(wan: Make) -> None:
    net = wan(uniform(("a", "b"), Route(mbit=24, queue_ms=2000)))
    with mailbox(net, "a") as sender, mailbox(net, "b") as receiver:
        took = pace(sender, receiver, net.address("b"), 200, floods=10)
    trust(net.counts())
    assert 100 * 1500 * 8 / took == pytest.approx(24e6, rel=0.03)


def test_a_short_queue_drops_what_a_long_one_keeps(wan: Make) -> None:
    net = wan(uniform(("a", "b"), Route(mbit=10, queue_ms=12)))  # ten packets wait, and one is on its way
    with mailbox(net, "a") as sender, mailbox(net, "b") as receiver:
        for number in range(100):
            sender.sendto(number.to_bytes(2) + bytes(DATAGRAM - 2), (net.address("b"), PORT))
        came = [int.from_bytes(receiver.recv(2048)[:2]) for _ in range(11)]
        while net.counts().paths["a", "b"].sent < 100:
            pass
        counts = net.counts().paths["a", "b"]
        assert came == list(range(11))
        assert counts.sent == 100
        assert counts.path_full + counts.arrived <= 100
        assert counts.path_full  # most of them, if the sender is not held up
        net.change("a", "b", queue_ms=200.0)
        before = net.counts().paths["a", "b"].path_full
        for _ in range(100):
            sender.sendto(bytes(DATAGRAM), (net.address("b"), PORT))
        while net.counts().paths["a", "b"].sent < 200:
            pass
        assert net.counts().paths["a", "b"].path_full == before


def test_a_lossy_path_loses_and_tcp_repairs(wan: Make) -> None:
    # What is cut out of a packet of 64 KiB must leave the rest intact: a TCP stream is the judge.
    net = wan(uniform(("a", "b"), Route(delay_ms=2, jitter_ms=1, loss=0.02, mbit=400)), seed=5)
    sent = bytes(range(256)) * 20_000
    with net.open_socket("b", socket.SOCK_STREAM) as server, net.open_socket("a", socket.SOCK_STREAM) as sender:
        server.bind(("", PORT))
        server.listen(1)
        sender.settimeout(ANSWER_S)
        sender.connect((net.address("b"), PORT))
        receiver, _ = server.accept()
        receiver.settimeout(ANSWER_S)
        came = bytearray()
        with receiver:
            left = memoryview(sent)
            while len(came) < len(sent):
                if left:
                    left = left[sender.send(left[:100_000]) :]
                came += receiver.recv(65536)
        assert came == sent
    assert net.counts().paths["a", "b"].lost > 10


def test_a_cut_is_silent_and_a_connection_outlives_it(wan: Make) -> None:
    net = wan(uniform(("a", "b", "c"), Route(delay_ms=1)))
    with net.open_socket("b", socket.SOCK_STREAM) as server, net.open_socket("a", socket.SOCK_STREAM) as sender:
        server.bind(("", PORT))
        server.listen(1)
        sender.connect((net.address("b"), PORT))
        receiver, _ = server.accept()
        receiver.settimeout(ANSWER_S)
        with receiver:
            net.cut("a", "b")
            sender.sendall(b"through")
            while not net.counts().paths["a", "b"].cut:
                pass
            assert len(round_trips(net, "a", "c", 5)) == 5
            net.heal("a", "b")
            assert receiver.recv(100) == b"through"


def test_who_is_cut_off_hears_nobody(wan: Make) -> None:
    net = wan(uniform(("a", "b", "c"), Route()))
    with mailbox(net, "a") as a, mailbox(net, "b") as b, mailbox(net, "c") as c:
        net.cut("b", "c")
        net.cut("c")
        net.heal("c")  # not the pair
        net.cut("a")
        net.heal("b", "c")
        for start, end in ((a, "b"), (a, "c"), (b, "a"), (c, "a"), (b, "c")):
            start.sendto(b"cut", (net.address(end), PORT))
        assert c.recvfrom(100) == (b"cut", (net.address("b"), PORT))
        while sum(path.cut for path in net.counts().paths.values()) < 4:
            pass
        net.heal("a")
        for start, end in ((b, "a"), (a, "b"), (a, "c")):
            start.sendto(b"healed", (net.address(end), PORT))
        assert [box.recv(100) for box in (a, b, c)] == [b"healed"] * 3
        assert sum(path.cut for path in net.counts().paths.values()) == 4


def test_one_way_may_be_mute(wan: Make) -> None:
    net = wan(uniform(("a", "b"), Route()))
    with mailbox(net, "a") as a, mailbox(net, "b") as b:
        net.change("a", "b", open=False)
        a.sendto(b"lost", (net.address("b"), PORT))
        b.sendto(b"heard", (net.address("a"), PORT))
        assert a.recv(100) == b"heard"
        while not net.counts().paths["a", "b"].cut:
            pass
        net.change("a", "b", open=True)
        a.sendto(b"again", (net.address("b"), PORT))
        assert b.recv(100) == b"again"


def test_a_link_is_slowed_and_restored_while_it_carries(wan: Make) -> None:
    net = wan(uniform(("a", "b"), Route(mbit=100, queue_ms=1000)))
    net.slow("a", "b", 0.1)
    assert (net.route("a", "b").mbit, net.route("b", "a").mbit) == (10.0, 10.0)
    with mailbox(net, "a") as sender, mailbox(net, "b") as receiver:
        took = {}
        for factor in (0.1, 1.0):
            net.slow("a", "b", factor)
            took[factor] = pace(sender, receiver, net.address("b"), 300, floods=3)
    trust(net.counts())
    assert took[0.1] / took[1.0] == pytest.approx(10, rel=0.15)


def test_a_host_does_not_see_the_machine(wan: Make) -> None:
    net = wan(uniform(("a", "b"), Route()))
    listed = net.run("a", "ip", "-o", "link", capture_output=True, text=True).stdout
    assert sorted(line.split()[1] for line in listed.splitlines()) == ["lo:", "wan0:"]
    with socket.create_server(("127.0.0.1", 0)) as ours, net.open_socket("a", socket.SOCK_STREAM) as theirs:
        assert theirs.connect_ex(ours.getsockname()) == errno.ECONNREFUSED
