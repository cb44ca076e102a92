"""What secrecy costs: sealed frames against TLS links and against frames in the clear, between two processes.

`python tests/bench/sealing.py [--quick] [--json]`. One connection on loopback, chunks of 1 MiB out of and into 256 MiB,
all modes in turn, round after round. CPU seconds are of the whole process at each end, per GB (1e9 bytes); a figure
is the median of the rounds, a ratio the median of each round's own. Nothing is asserted here.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.daemon.bulk.bell import Stop
from intellectd.daemon.bulk.certificate import Identity
from intellectd.daemon.bulk.channels import Channels
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.dial import Dialler
from intellectd.daemon.bulk.frames import Header, Incoming, Kind
from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.listener import Listener
from intellectd.daemon.bulk.sockets import listen, public_address
from intellectd.daemon.bulk.trust import TrustTable
from intellectd.daemon.bulk.wire import ChannelRequest, GetRequest, Request, encode_request

CHUNK = 2**20
MEMORY = 2**28  # no cache of a core's own holds it
BYTES, BYTES_QUICK = 2**30, 2**28  # of one round and mode
ROUNDS, ROUNDS_QUICK = 7, 3
STALL_S = 30.0
END_S = 300.0  # of a whole round; a bench that takes longer has hung
MODES = ("plain", "sealed", "tls")
WAYS = ("one way", "both ways")


class Chunk:
    def __init__(self, number: int, data: memoryview, left: threading.Semaphore) -> None:
        self.header = Header(Kind.CHUNK, chunk=number, transfer=1, length=len(data))
        self._data = data
        self._left = left

    def fill(self, seal: Callable[[memoryview], None], _room: memoryview) -> bool:
        seal(self._data)
        return True

    def moved(self) -> None: ...

    def sent(self) -> None:
        self._left.release()


class Sink:
    """frames.Handler: every chunk to its place."""

    def __init__(self, place: memoryview) -> None:
        self._place = place
        self.received = threading.Semaphore(0)
        self.stands = threading.Event()

    def on_control(self, peer: str, header: Header, payload: bytes) -> None: ...

    def wants(self, peer: str, header: Header) -> bool:
        return True

    def on_bytes(self, peer: str, header: Header, count: int) -> None: ...

    def on_chunk(self, peer: str, header: Header, incoming: Incoming) -> None:
        incoming.open_into(piece_of(self._place, header.chunk))
        self.received.release()

    def on_lost(self, peer: str, reason: str, refused: bool) -> None:
        print(f"lost {peer}: {reason}", file=sys.stderr)

    def on_found(self, peer: str) -> None:
        self.stands.set()


def piece_of(memory: memoryview, number: int) -> memoryview:
    start = number * CHUNK % MEMORY
    return memory[start : start + CHUNK]


class End:
    """One process: a listener, channels sealed and in the clear, and TLS links dialled for what is to be received."""

    def __init__(self, me: str) -> None:
        self.me, self.other = me, "ba"[me == "b"]
        self.identity = Identity(me)
        self.trust = TrustTable(self.identity)
        self.crew = Crew()
        self.own, self.place = (
            memoryview(bytearray(os.urandom(CHUNK) * (MEMORY // CHUNK))),
            memoryview(bytearray(MEMORY)),
        )
        self.place[:] = self.own  # every page touched
        self.sinks = {mode: Sink(self.place) for mode in ("plain", "sealed")}
        self.channels = {
            mode: Channels(me, self.trust, self.crew, sink, sealed=mode == "sealed")
            for mode, sink in self.sinks.items()
        }
        listening = listen("127.0.0.1:0")
        self.address = public_address(listening)
        listener = Listener(listening, self.trust, self.crew, self.dispatch)
        self.crew.start("listen", listener.run)

    def dispatch(self, link: Link, request: Request) -> None:
        match request:
            case ChannelRequest():
                self.channels["sealed" if request.sealed else "plain"].accept(link, request)
            case GetRequest():
                for number in range(request.length // CHUNK):
                    link.write_all(piece_of(self.own, number), STALL_S)
                link.read_bytes(1, STALL_S)
                link.close()

    def meet(self, address: str, certificate: bytes) -> None:
        self.trust.replace({self.other: Endpoint(address, certificate)})
        for mode, channels in self.channels.items():
            channels.need(self.other, STALL_S)
            assert self.sinks[mode].stands.wait(END_S)

    def move(self, mode: str, size: int, sends: bool, receives: bool) -> None:
        chunks = size // CHUNK
        if mode == "tls":
            if receives:
                self.fetch(size)
            return
        left, sink = threading.Semaphore(0), self.sinks[mode]
        if sends:
            channel = self.channels[mode].need(self.other, STALL_S)
            for number in range(chunks):
                channel.send(Chunk(number, piece_of(self.own, number), left))
        for _ in range(chunks * sends):
            assert left.acquire(timeout=END_S)
        for _ in range(chunks * receives):
            assert sink.received.acquire(timeout=END_S)
        if sends:
            self.channels[mode].release(self.other)

    def fetch(self, size: int) -> None:
        request = encode_request(GetRequest("bench", 0, size))
        stop = Stop()
        link = Dialler(self.trust).reach(self.other, lambda: request, stop, time.monotonic() + STALL_S)
        for number in range(size // CHUNK):
            link.read_exactly(piece_of(self.place, number), STALL_S)
        link.write_all(memoryview(b"!"), STALL_S)
        link.close()
        stop.close()


def be_end(me: str) -> None:
    """A child: a line of JSON in, a line out. A round's CPU is told when the parent asks, after both have ended."""
    end, cpu_s = End(me), 0.0
    print(json.dumps({"address": end.address, "certificate": end.identity.certificate.hex()}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, float] = {}
        if "address" in order:
            end.meet(order["address"], bytes.fromhex(order["certificate"]))
        elif "mode" in order:
            cpu_s, began = time.process_time(), time.perf_counter()
            end.move(order["mode"], order["size"], me in order["senders"], me in order["receivers"])
            answer = {"wall_s": time.perf_counter() - began}
        else:
            answer = {"cpu_s": time.process_time() - cpu_s}
        print(json.dumps(answer), flush=True)
    os._exit(0)


class Child:
    def __init__(self, me: str) -> None:
        command = [sys.executable, __file__, "--end", me]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))


def once(children: list[Child], mode: str, way: str, size: int) -> tuple[float, float, float]:
    """GB/s of one direction, and CPU s per GB moved at the two ends: sender and receiver, or each of two that are
    both."""
    both = way == "both ways"
    order = {"mode": mode, "size": size, "senders": "ab" if both else "a", "receivers": "ab" if both else "b"}
    for child in children:
        child.tell(order)
    wall_s = max(child.hear()["wall_s"] for child in children)
    for child in children:
        child.tell({})
    cpu = [child.hear()["cpu_s"] / (size / 1e9) for child in children]
    return size / wall_s / 1e9, cpu[0], cpu[1]


def run(rounds: int, size: int) -> tuple[list[dict[str, Any]], list[str]]:
    notes = [f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"]
    notes.append(f"load before: {os.getloadavg()[0]:.1f}; CPU s per GB are dependable, GB/s only on a quiet machine")
    children = [Child("a"), Child("b")]
    met = [child.hear() for child in children]
    for child, other in zip(children, reversed(met), strict=True):
        child.tell(other)
    for child in children:
        child.hear()
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for number in range(rounds + 1):
        for way in WAYS:
            for mode in MODES:
                result = once(children, mode, way, size)
                if number:  # the first warms up
                    found.setdefault((mode, way), []).append(result)
    for child in children:
        child.process.communicate()
    return [row for key in found for row in rows_of(key, found)], notes


def rows_of(
    key: tuple[str, str], found: dict[tuple[str, str], list[tuple[float, float, float]]]
) -> list[dict[str, Any]]:
    mode, way = key
    rivals = found["tls", way] if mode == "sealed" else found["plain", way]
    whats = ("GB/s", "CPU s/GB"), ("CPU s/GB sending", "CPU s/GB receiving")
    names = [("rate", whats[0][0], 0)]
    names += (
        [("cpu", whats[0][1], 1)] if way == "both ways" else [("tx_cpu", whats[1][0], 1), ("rx_cpu", whats[1][1], 2)]
    )
    rows = []
    for name, unit, place in names:
        mine = [result[place] for result in found[key]]
        ratio = statistics.median(a / b[place] for a, b in zip(mine, rivals, strict=True))
        rows.append(
            {
                "name": f"{mode}_{way.replace(' ', '_')}_{name}",
                "value": round(statistics.median(mine), 3),
                "unit": unit,
                "against": "tls" if mode == "sealed" else "plain",
                "ratio": None if mode == "plain" else round(ratio, 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer bytes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--end", choices=("a", "b"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.end:
        be_end(arguments.end)
        return
    rounds, size = (ROUNDS_QUICK, BYTES_QUICK) if arguments.quick else (ROUNDS, BYTES)
    rows, notes = run(rounds, size)
    if arguments.json:
        print(json.dumps({"schema": 1, "results": rows, "notes": notes}))
        return
    print(f"{'':30}{'value':>8}  {'unit':20}{'ratio':>7}  against")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{row['name']:30}{row['value']:8.3f}  {row['unit']:20}{ratio:>7}  {row['against'] if ratio else ''}")
    for note in notes:
        print(note)


if __name__ == "__main__":
    main()
