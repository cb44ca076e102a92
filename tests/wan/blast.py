"""As many bytes as TCP brings through, from one host to another; a program for both ends that needs nothing but Python.

    blast.py receive PORT WARM_S                     prints "listening", then a line of JSON
    blast.py send ADDRESS PORT SECONDS CONGESTION    "default": the host's own

Owns the two ends and what they print. The receiver's figure counts: what arrived after the first WARM_S seconds (of
slow start), over that time, without a look at it. Refuses to know the network between.
"""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # as a program it is run by its path, where `tests` cannot be imported
    from tests.wan.network import Wan

CHUNK = 1 << 20
FIRST = -20  # before all that have no priority in real time, as the router has
RETRANSMITTED_AT = 100  # tcpi_total_retrans in struct tcp_info, linux/tcp.h


def receive(port: int, warm_s: float) -> dict[str, float]:
    with socket.create_server(("", port)) as server:
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        connection, _ = server.accept()
    buffer = bytearray(CHUNK)
    began = last = time.monotonic()
    total = early = 0
    warm_at = began
    with connection:
        while got := connection.recv_into(buffer, CHUNK, socket.MSG_TRUNC):
            last = time.monotonic()
            total += got
            if last - began <= warm_s:
                early, warm_at = total, last
    return {"mbit": (total - early) * 8e-6 / max(last - warm_at, 1e-9), "bytes": total, "seconds": last - began}


def send(address: str, port: int, seconds: float, congestion: str) -> dict[str, float]:
    chunk = bytes(CHUNK)
    with socket.socket() as connection:
        if congestion != "default":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        connection.connect((address, port))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            connection.send(chunk)
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return {"retransmitted": struct.unpack_from("I", told, RETRANSMITTED_AT)[0]}


def blast(
    wan: "Wan",
    start: str,
    end: str,
    *,
    seconds: float,
    warm_s: float = 1.0,
    congestion: str = "default",
    port: int = 5201,
) -> dict[str, Any]:
    """mbit: TCP payload that arrived, in Mbit/s; bytes, seconds: of the whole; retransmitted: segments."""
    program = (sys.executable, "-S", str(Path(__file__)))
    with wan.popen(end, *program, "receive", str(port), str(warm_s), stdout=subprocess.PIPE, text=True) as receiver:
        try:
            receiver.stdout.readline()
            words = ("send", wan.address(end), str(port), str(seconds), congestion)
            sent = wan.run(start, *program, *words, capture_output=True, text=True).stdout
            return dict(json.loads(receiver.stdout.readline()) | json.loads(sent))
        finally:
            receiver.kill()


def main() -> None:
    # Both ends of a path stand for hosts that do nothing else; who is held up by this machine's other work is none.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    what, *words = sys.argv[1:]
    if what == "receive":
        told = receive(int(words[0]), float(words[1]))
    else:
        told = send(words[0], int(words[1]), float(words[2]), words[3])
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
