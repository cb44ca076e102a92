"""What a host behind each kind of NAT can do, and what can be done to it, in the terms of RFC 4787."""

import socket

import pytest

from tests.wan.fixture import Make
from tests.wan.network import Wan
from tests.wan.test_network import ANSWER_S, PORT, mailbox
from tests.wan.topology import Host, Route, Topology

KINDS = ("full-cone", "port-restricted", "symmetric")


def home(kind: str) -> Topology:
    hosts = (Host("home", nat=kind), Host("server"), Host("other"))
    return Topology(hosts, {("home", "server"): Route(delay_ms=1)})


def arrived(wan: Wan, start: str) -> int:
    """Packets from there that reached the door of the home."""
    path = wan.counts().paths.get((start, "home"))
    return path.arrived if path else 0


@pytest.mark.parametrize("kind", KINDS)
def test_who_learns_the_outside_port_may_use_it_or_not(wan: Make, kind: str) -> None:
    net = wan(home(kind))
    with mailbox(net, "home") as inside, mailbox(net, "server") as server, mailbox(net, "other") as other:
        inside.sendto(b"hello", (net.address("server"), PORT))
        _, seen = server.recvfrom(100)
        assert seen[0] == net.address("home")
        assert (seen[1] == PORT) == (kind != "symmetric")
        other.sendto(b"unasked", seen)
        while not arrived(net, "other"):
            pass
        server.sendto(b"answer", seen)
        first = inside.recv(100)
        assert first == (b"unasked" if kind == "full-cone" else b"answer")


@pytest.mark.parametrize("kind", KINDS)
def test_another_destination_sees_the_same_port_but_of_a_symmetric_nat(wan: Make, kind: str) -> None:
    net = wan(home(kind))
    with mailbox(net, "home") as inside, mailbox(net, "server") as server, mailbox(net, "other") as other:
        ports = []
        for name, box in (("server", server), ("other", other)):
            inside.sendto(b"hello", (net.address(name), PORT))
            ports.append(box.recvfrom(100)[1][1])
        assert (ports[0] == ports[1]) == (kind != "symmetric")


@pytest.mark.parametrize("kind", KINDS)
def test_it_dials_out_and_cannot_be_dialled(wan: Make, kind: str) -> None:
    net = wan(home(kind))
    with (
        net.open_socket("home", socket.SOCK_STREAM) as inside,
        net.open_socket("server", socket.SOCK_STREAM) as dialler,
    ):
        inside.bind(("", PORT))
        inside.listen(1)
        dialler.setblocking(False)
        assert dialler.connect_ex((net.address("home"), PORT)) != 0
        while not arrived(net, "server"):
            pass
        inside.setblocking(False)
        with pytest.raises(BlockingIOError):
            inside.accept()
    with (
        net.open_socket("server", socket.SOCK_STREAM) as server,
        net.open_socket("home", socket.SOCK_STREAM) as dialler,
    ):
        server.bind(("", PORT))
        server.listen(1)
        dialler.settimeout(ANSWER_S)
        dialler.connect((net.address("server"), PORT))
        connection, seen = server.accept()
        with connection:
            assert seen[0] == net.address("home")
            sent = bytes(range(256)) * 1000
            dialler.sendall(sent)
            came = b""
            connection.settimeout(ANSWER_S)
            while len(came) < len(sent):
                came += connection.recv(65536)
            assert came == sent
