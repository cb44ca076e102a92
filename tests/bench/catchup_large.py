"""A state of 4 GiB on one machine: two donors and a joiner on loopback, what memory they take, and CPU for each GiB.

Rows of catchup.py: `large_peak_memory`, the most that was resident of all three together over 24 GiB (a joiner's mapped
file counts, though the kernel may write it out and take it back; a page that two processes map counts twice);
`large_cpu_vs_tls`, CPU seconds for each GiB fetched, verified twice, taken into memory and kept as a snapshot, donors
and joiner together, over those of a plain copy through TLS between two processes in the same run, which writes nothing.
"""

import json
import multiprocessing
import resource
import socket
import sys
import tempfile
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from intellectd.daemon.bulk.certificate import Identity
from tests.bench.members import Answer, Member, here

PEER = Path(__file__).with_name("catchup_large_peer.py")
GIB = 4
TLS_GIB = 1
MEMORY_GIB_MAX = 24
READ_BYTES, WRITE_BYTES = 1 << 20, 1 << 18
NAMES = ("d0", "d1", "joiner")
Row = dict[str, Any]


def good(answer: Answer) -> Answer:
    if "cpu_s" not in answer:
        raise SystemExit(f"a host ended without a result: {answer}")
    return answer


def large(gib: int = GIB) -> tuple[list[Row], str]:
    elements = gib * 2**30 // 8
    with tempfile.TemporaryDirectory(prefix="catchup-") as folder, ExitStack() as stack:
        members: dict[str, Member] = {}
        for name in NAMES:
            place = Path(folder) / ("donors" if name != "joiner" else name)
            place.mkdir(exist_ok=True)
            spec = {"name": name, "folder": str(place), "elements": elements}
            members[name] = Member(stack, name, here, sys.executable, str(PEER), json.dumps(spec))
        table = {name: member.hear() for name, member in members.items()}

        def ask(name: str, **told: object) -> Answer:
            members[name].tell(told)
            return good(members[name].hear())

        spec = {"name": "maker", "folder": str(Path(folder) / "donors"), "elements": elements}
        maker = Member(stack, "maker", here, sys.executable, str(PEER), json.dumps(spec))
        maker.hear()
        maker.tell({"make": 1})
        digest = good(maker.hear())["digest"]
        maker.kill()  # with the vectors: a donor serves from its disk
        for name in NAMES:
            ask(name, members=table)
        before = {name: ask(name, serve=digest) for name in NAMES[:2]}
        fetched = ask("joiner", fetch=digest, donors=NAMES[:2])
        after = {name: ask(name, members=table) for name in NAMES[:2]}
        cpu = {name: after[name]["all_cpu_s"] - before[name]["all_cpu_s"] for name in NAMES[:2]}
        cpu["joiner"] = fetched["cpu_s"]
        peaks = {name: answer["peak_gib"] for name, answer in (*after.items(), ("joiner", fetched))}
    tls = tls_cpu_s(TLS_GIB) / TLS_GIB
    each, most = sum(cpu.values()) / gib, sum(peak["most"] for peak in peaks.values())
    rows = [
        {
            "name": "large_peak_memory",
            "value": round(most, 2),
            "unit": "GiB",
            "against": f"{MEMORY_GIB_MAX} GiB",
            "ratio": round(most / MEMORY_GIB_MAX, 3),
        },
        {
            "name": "large_cpu_vs_tls",
            "value": round(each, 3),
            "unit": "s/GiB",
            "against": f"a copy through TLS, {tls:.3f} s/GiB",
            "ratio": round(each / tls, 3),
        },
    ]
    told = ", ".join(f"{name} {peak['most']} GiB ({peak['anonymous']} without a file)" for name, peak in peaks.items())
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in cpu.items())
    return rows, f"of {gib} GiB: {told}; CPU {spent}; the joiner's seconds: {fetched['seconds']}"


def tls_cpu_s(gib: int) -> float:
    """Of both ends, from one buffer into another, AES-128-GCM or what OpenSSL chooses."""
    here_end, there_end = multiprocessing.Pipe()
    identity = Identity("one")
    process = multiprocessing.get_context("fork").Process(target=_receive, args=(there_end, identity, gib))
    process.start()
    port, before = here_end.recv(), _cpu_s()
    with socket.create_connection(("127.0.0.1", port)) as plain:
        connection = identity.context(False, [identity.certificate]).wrap_socket(plain)
        block, left = memoryview(bytearray(1 << 20)), gib * 2**30
        while left:
            at = 0
            while at < len(block):
                at += connection.send(block[at : at + WRITE_BYTES])
            left -= len(block)
        received = float(here_end.recv())
    process.join()
    identity.close()
    return _cpu_s() - before + received


def _receive(tell: Connection, identity: Identity, gib: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tell.send(listener.getsockname()[1])
        plain, _address = listener.accept()
        connection = identity.context(True, [identity.certificate]).wrap_socket(plain, server_side=True)
        before, left, into = _cpu_s(), gib * 2**30, memoryview(bytearray(READ_BYTES))
        while left:
            left -= connection.recv_into(into[: min(left, READ_BYTES)])
        tell.send(_cpu_s() - before)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
