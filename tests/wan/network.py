"""The network itself: builds what a topology says, runs commands in its hosts, and changes it while it runs.

Owns the router process, and through it every namespace: all of it goes with the process that made it, however that
ends. Touches nothing of the machine's own network. Refuses to know what the hosts do.
"""

import functools
import os
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.wan import compiled, nat
from tests.wan.counts import Counts
from tests.wan.places import open_socket, setting, settle, without_ipv6
from tests.wan.topology import Host, Route, Topology

ANSWER_S = 10.0  # the router answers in microseconds; the machine may be busy
END_S = 10.0  # it kills what lives in its namespaces for a second at most
QUEUE_PACKETS = 10_000  # of the TUN device, before the router reads it: a burst of a whole window at 64 KiB a packet
MBIT = 1e6 / 8  # bytes a second


class WanError(Exception):
    """The network could not be built or does not answer; says what was said."""


def why_not() -> str | None:
    """Why no such network can be made here; None: it can. NAT needs nft, which why_no_nat() knows."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun: the kernel has no TUN devices, or this container may not use them"
    for tool in ("ip", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            return f"no `{tool}` on the PATH (Debian: iproute2, util-linux)"
    if compiled.compiler() is None:
        return "no C compiler for the router"
    return _refused(HOST)


def why_no_nat() -> str | None:
    if why := why_not():
        return why
    return _refused(NAT, NAT_RULES) if shutil.which("nft") else "no `nft` on the PATH (Debian: nftables)"


# What a host takes, and what a NAT takes besides: containers are refused one or the other, and kernels lack some of it.
HOST = """
set -e
ip tuntap add dev wan0 mode tun
if [ -e /proc/sys/net/ipv6 ]; then echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; fi
"""
NAT = f"""
set -e
ip link add {nat.INSIDE} type veth peer name other
echo 1 >/proc/sys/net/ipv4/ip_forward
nft -f -
"""
NAT_RULES = nat.rules("symmetric")


@functools.cache
def _refused(script: str, told: str = "") -> str | None:
    """What was said when a new namespace was to take that; None: it took it."""
    words = ("unshare", "--net", "sh", "-c", script)
    done = subprocess.run(words, input=told, capture_output=True, text=True, check=False)
    return f"no such network can be made here: {done.stderr.strip()[:2000]}" if done.returncode else None


class Wan:
    """`with Wan(load("home-hosts")) as wan: wan.run("oslo", "ping", "-c1", wan.address("tokyo"))`. WanError."""

    def __init__(self, topology: Topology, *, seed: int = 0, offloads: bool = True) -> None:
        """offloads: up to 64 KiB pass the kernel as one packet (they are cut and lost by MTU all the same)."""
        self.topology = topology
        self._seed, self._offloads = seed, offloads
        self._hosts = {host.name: host for host in topology.hosts}
        self._routes = {(a, b): topology.path(a, b) for a in topology.names for b in topology.names if a != b}
        self._number = {name: number for number, name in enumerate(topology.names)}
        self._off: frozenset[str] = frozenset()
        self._behind = [host.name for host in topology.hosts if host.nat != "none"]
        self._router: subprocess.Popen[str] | None = None
        self._places: dict[str, Path] = {}
        self._doors: dict[str, Path] = {}

    def __enter__(self) -> Self:
        self._control, its = socket.socketpair()
        self._control.settimeout(ANSWER_S)
        self._answers = self._control.makefile("r")
        try:
            with its:  # so that ours tells when the router's is closed
                self._start(its)
            self._find_places()
            for name, host in self._hosts.items():
                self._settle(host)
                self._tell_port(name)
            for pair in self._routes:
                self._tell_route(pair)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    @property
    def router_pid(self) -> int | None:
        return self._router.pid if self._router else None

    def address(self, name: str) -> str:
        """Where others see the host: its own, or that of the NAT that it is behind."""
        return f"198.18.0.{self._number[name] + 1}"

    def inside(self, name: str) -> tuple[str, ...]:
        """What a command line begins with to run in the host."""
        return ("nsenter", f"--net={self._places[name]}", "--")

    def popen(self, name: str, *words: str, **how: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen([*self.inside(name), *words], **how)

    def run(self, name: str, *words: str, check: bool = True, **how: Any) -> subprocess.CompletedProcess[Any]:
        return subprocess.run([*self.inside(name), *words], check=check, **how)

    def open_socket(self, name: str, kind: int, protocol: int = 0, family: int = socket.AF_INET) -> socket.socket:
        """A socket of the host, to be used from here."""
        return open_socket(self._places[name], family, kind, protocol)

    def setting(self, name: str, key: str, value: str) -> None:
        """A net.* sysctl of the host's namespace; OSError where the kernel lets only the machine's own change it."""
        setting(self._places[name], key, value)

    def one_congestion_control(self, name: str, algorithm: str) -> None:
        """What every later connection of the host uses; a program that asks for another is refused it.

        By its route: as a default of the namespace the kernel takes only what the machine's own allows to everybody,
        and that is not ours to change.
        """
        behind = self._hosts[name].nat != "none"
        route = f"default via {nat.GATEWAY} dev {nat.INSIDE}" if behind else "198.18.0.0/24 dev wan0"
        settle(self._places[name], ("ip", "-batch", "-"), f"route change {route} congctl lock {algorithm}\n")

    def route(self, start: str, end: str) -> Route:
        """As it is now."""
        return self._routes[start, end]

    def change(self, start: str, end: str, **values: float | bool) -> None:
        """Gives the path from one to the other, this way alone, other values of `Route`; in effect on return."""
        self._routes[start, end] = replace(self._routes[start, end], **values)
        self._tell_route((start, end))

    def change_host(self, name: str, **values: float) -> None:
        """Gives a host's own link other values of `Host`; in effect on return."""
        self._hosts[name] = replace(self._hosts[name], **values)
        self._tell_port(name)

    def cut(self, one: str, other: str | None = None, *, heal: bool = False) -> None:
        """Both ways, silently, between two hosts, or one and everybody. What is on its way still arrives.

        A host that was cut off and pairs that were are separate: each is healed as it was cut.
        """
        if other is not None:
            self.change(one, other, open=heal)
            self.change(other, one, open=heal)
            return
        self._off = self._off - {one} if heal else self._off | {one}
        for pair in self._routes:
            if one in pair:
                self._tell_route(pair)

    def heal(self, one: str, other: str | None = None) -> None:
        self.cut(one, other, heal=True)

    def slow(self, one: str, other: str, factor: float) -> None:
        """Both ways: the path's own rate times so much of what the topology says (a path without a rate has none)."""
        for pair in ((one, other), (other, one)):
            self.change(*pair, mbit=self.topology.path(*pair).mbit * factor)

    def counts(self) -> Counts:
        """Since the network was built; distrust() says whether the machine kept up."""
        return Counts.read(self._ask("counts"), self.topology.names)

    def _start(self, control: socket.socket) -> None:
        words = [control.fileno(), len(self._hosts), len(self._behind), int(self._offloads), self._seed]
        self._router = subprocess.Popen(
            [str(compiled.router()), *map(str, words)],
            pass_fds=[control.fileno()],
            start_new_session=True,  # an interrupt from the terminal is for us; it ends after us
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _find_places(self) -> None:
        assert self._router
        word, *descriptors = self._answer().split() or [""]
        if word != "places":
            raise WanError(f"the router did not start: {word}")
        paths = [Path(f"/proc/{self._router.pid}/fd/{descriptor}") for descriptor in descriptors]
        self._doors = dict(zip(self._hosts, paths, strict=False))
        self._places = self._doors | dict(zip(self._behind, paths[len(self._hosts) :], strict=True))

    def _settle(self, host: Host) -> None:
        door, place, mtu = self._doors[host.name], self._places[host.name], self.topology.mtu
        without_ipv6(door)
        lines = [
            "link set lo up",
            f"link set wan0 mtu {mtu} txqueuelen {QUEUE_PACKETS} up",
            f"address add {self.address(host.name)}/24 dev wan0",
        ]
        if place != door:
            without_ipv6(place)
            setting(door, "net.ipv4.ip_forward", "1")
            lines += [
                f"link add {nat.INSIDE} mtu {mtu} type veth peer name {nat.INSIDE} mtu {mtu} netns {place}",
                f"address add {nat.GATEWAY}/24 dev {nat.INSIDE}",
                f"link set {nat.INSIDE} up",
            ]
        settle(door, ("ip", "-batch", "-"), "\n".join(lines) + "\n")
        if place != door:
            settle(door, ("nft", "-f", "-"), nat.rules(host.nat))
            inner = [
                "link set lo up",
                f"link set {nat.INSIDE} up",
                f"address add {nat.BEHIND}/24 dev {nat.INSIDE}",
                f"route add default via {nat.GATEWAY} dev {nat.INSIDE}",
            ]
            settle(place, ("ip", "-batch", "-"), "\n".join(inner) + "\n")

    def _tell_port(self, name: str) -> None:
        host = self._hosts[name]
        for which, mbit in (("up", host.up_mbit), ("down", host.down_mbit)):
            self._tell(f"port {self._number[name]} {which} {_link(mbit, host.queue_ms)}")

    def _tell_route(self, pair: tuple[str, str]) -> None:
        start, end = (self._number[name] for name in pair)
        route = self._routes[pair]
        link = _link(route.mbit, route.queue_ms)
        delays = f"{route.delay_ms / 1e3:.9f} {route.jitter_ms / 1e3:.9f}"
        whole = route.open and self._off.isdisjoint(pair)
        self._tell(f"path {start} {end} {delays} {link} {route.loss:.9g} {int(whole)}")

    def _tell(self, line: str) -> None:
        answer = self._ask(line)
        if answer != "done":
            raise WanError(f"the router was told {line!r} and said {answer!r}")

    def _ask(self, line: str) -> str:
        try:
            self._control.sendall(line.encode() + b"\n")
        except OSError as error:
            raise WanError(f"the router is gone: {error}") from error
        return self._answer()

    def _answer(self) -> str:
        try:
            answer = self._answers.readline()
        except ConnectionResetError:  # it ended between our question and its reading it
            answer = ""
        except OSError as error:
            raise WanError(f"the router does not answer: {error}") from error
        if not answer:
            raise WanError(f"the router is gone: {self._end()}")
        return answer.strip()

    def _end(self) -> str:
        """Waits until the router has cleaned up; what it said."""
        self._answers.close()
        self._control.close()
        if self._router is None:
            return ""
        try:
            return self._router.communicate(timeout=END_S)[1].strip()
        except subprocess.TimeoutExpired:
            self._router.kill()
            raise
        finally:
            self._router = None


def _link(mbit: float, queue_ms: float) -> str:
    rate = mbit * MBIT
    return f"{rate:.3f} {rate * queue_ms / 1e3:.3f}"
