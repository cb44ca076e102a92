"""The operator's limits at work: what is moved through sockets never comes faster than they say."""

from dataclasses import replace

import pytest

from intellectd.daemon.app import open_engine
from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.limits import PACE_BURST_S
from intellectd.daemon.bulk.pace import Pace
from intellectd.daemon.config import NetworkConfig
from tests.daemon.bulk_swarm import Events, fetch_job, trust_all
from tests.daemon.channel_hosts import STALL_S, hosts, piece

RATE = 1_000_000  # bytes/s of 8 Mbit/s
BYTES = 300_000
# No sooner than at the rate, a burst ahead: true on any machine, however slow or busy.
LEAST_S = (BYTES - RATE * PACE_BURST_S) / RATE


def limited(name: str, **limits: int) -> Engine:
    return open_engine(name, replace(NetworkConfig((), (), "127.0.0.1:0", "", ()), **limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("donor", "asker"),
    [
        ({"upload_mbit": 8, "serve_percent": 100}, {}),
        ({"upload_mbit": 32, "serve_percent": 25}, {}),
        ({}, {"download_mbit": 8}),
    ],
)
def test_a_fetch_keeps_to_the_limits_of_both_ends(donor: dict[str, int], asker: dict[str, int]) -> None:
    engines = {"asker": limited("asker", **asker), "donor": limited("donor", **donor)}
    try:
        trust_all(engines)
        engines["donor"].serve(lambda _peer, _name: memoryview(bytes(range(256)) * 2000)[:BYTES])
        into, events, began = bytearray(BYTES), Events(), now_s()
        engines["asker"].start_fetch(fetch_job("donor", "it", into), events)
        events.done()
        assert now_s() - began >= LEAST_S  # END comes only after the donor has rested for the last bytes
        assert into == (bytes(range(256)) * 2000)[:BYTES]
    finally:
        for engine in engines.values():
            engine.close()


@pytest.mark.parametrize("pace", [{"upload_mbit": 8.0}, {"download_mbit": 8.0}])
def test_wires_keep_to_the_limits(pace: dict[str, float]) -> None:
    with hosts("a", "b", pace=Pace(**pace)) as (a, b):
        channel = a.channels.need("b", STALL_S)
        a.diary.next("found"), b.diary.next("found")
        began = now_s()
        pieces = [piece(bytes(BYTES // 3), number) for number in range(3)]
        for one in pieces:
            channel.send(one)
        b.diary.await_chunks(3)
        if "upload_mbit" in pace:
            assert all(one.done.wait(STALL_S) for one in pieces)
        assert now_s() - began >= LEAST_S
