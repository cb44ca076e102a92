"""Links of the real engine: what collectives and probes tell of them, who reached whom, and who cannot be dialled."""

import pytest

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import ProbeJob, TransferDone
from intellectd.daemon.bulk.limits import MEASURED_BYTES_MIN, PROBE_BUSY_S_MIN
from intellectd.daemon.bulk.pace import Pace
from intellectd.daemon.bulk.probe import Look, judged
from tests.daemon.bulk_swarm import STALL_S, Case, Events, fetch_job, swarm, transfer_id, trust_all

MIB = 1024 * 1024
LARGE = 256 * 65536  # elements: 64 MiB of fp32, far more than what the kernel's clock can tell a rate by


def probe_job(peer: str, name: str = "probe", bytes_max: int = 2 * MIB, stall_s: float = STALL_S) -> ProbeJob:
    return ProbeJob(transfer_id(name), peer, bytes_max, stall_s, 60.0)


def probed(engine: Engine, job: ProbeJob) -> Events:
    events = Events()
    engine.start_probe(job, events)
    return events


def reduced(engines: dict[str, Engine], case: Case) -> list[TransferDone]:
    events = [case.start(engines[member], member) for member in case.members]
    done = [event.done() for event in events]
    assert len({bytes(out) for out in case.outs}) == 1
    return done


# ---- probes


def test_a_probe_measures_a_link_and_leaves_the_other_side_as_it_was() -> None:
    with swarm("a", "b") as engines:
        (link,) = probed(engines["a"], probe_job("b")).done().links
        assert link.peer == "b" and link.bytes_per_s > 0 and link.rtt_s >= 0
        assert link.streams >= 1
        known = engines["a"].links()["b"]
        assert (known.bytes_per_s, known.rtt_s) == (link.bytes_per_s, link.rtt_s) and known.wires >= 1
        assert known.measured_s is not None and known.reached_s is not None and known.came_s is None
        there = engines["b"].links()["a"]
        assert there.came_s is not None and there.reached_s is None and there.bytes_per_s is None
        assert engines["b"]._channels.offences() == {}
        # The channel stands, and a round goes over it.
        reduced(engines, Case(("a", "b")))
        assert engines["a"].links()["b"].wires >= 1


def test_no_probe_begins_while_a_collective_runs_and_one_that_begins_ends_it() -> None:
    with swarm("a", "b", "c") as engines:
        case = Case(("a", "c"), name="waits for c")
        waiting = case.start(engines["a"], "a")
        failed = probed(engines["a"], probe_job("b")).failed()
        assert failed.suspect is None and "goes first" in failed.reason and failed.links == ()
        engines["a"].abort(transfer_id(case.name))
        waiting.failed()

        engines["a"].trust({peer: engines[peer].endpoint for peer in "bc"} | {"b": engines["b"].endpoint})
        engines["b"].trust({})  # so that the probe has to wait for its channel
        began = probed(engines["a"], probe_job("b", "second"))
        again = Case(("a", "c"), name="again").start(engines["a"], "a")
        assert "goes first" in began.failed().reason
        engines["a"].abort(transfer_id("again"))
        again.failed()


def test_a_probe_of_a_peer_that_is_not_there_says_so_in_time_and_may_be_aborted() -> None:
    with swarm("a", "b") as engines:
        engines["b"].close()
        failed = probed(engines["a"], probe_job("b", stall_s=0.5)).failed()
        assert failed.links == () and "0.5 s" in failed.reason
        events = probed(engines["a"], probe_job("b", "endless"))
        engines["a"].abort(transfer_id("endless"))
        assert "aborted" in events.failed().reason
        link = engines["a"].links()["b"]
        assert link.failure and link.reached_s is None and link.address == engines["b"].endpoint.address
        with pytest.raises(ValueError, match="says nothing"):
            probed(engines["a"], probe_job("b", bytes_max=MEASURED_BYTES_MIN - 1))


def test_the_half_that_arrives_last_is_what_counts() -> None:
    slow_start = [Look(0, 0.0), Look(MIB // 2, 0.5), Look(MIB, 0.75), Look(2 * MIB, 1.0)]
    assert judged(slow_start) == pytest.approx(4 * MIB)
    # Everything between two looks: over all the time that it took, and never less of it than a clock tick.
    assert judged([Look(0, 0.0), Look(2 * MIB, 0.5)]) == pytest.approx(4 * MIB)
    assert judged([Look(0, 0.0), Look(MIB, 0.0), Look(2 * MIB, 0.0)]) == pytest.approx(2 * MIB / PROBE_BUSY_S_MIN)
    assert judged([]) is None and judged([Look(0, 0.0), Look(MEASURED_BYTES_MIN - 1, 1.0)]) is None
    assert judged([Look(2 * MIB, 1.0)]) is None


# ---- collectives


def test_a_collective_tells_of_those_it_sent_to_if_it_sent_enough() -> None:
    with swarm("a", "b", "c") as engines:
        first, second, third = reduced(engines, Case(("a", "b", "c"), "fp32", LARGE))
        links = [[link.peer for link in done.links] for done in (first, second, third)]
        assert links == [["b"], ["c"], ["a"]], "what came to this host is the sender's to tell"
        assert all(link.bytes_per_s > 0 for done in (first, second, third) for link in done.links)
        small = reduced(engines, Case(("a", "b", "c"), "int8", 256 * 64, name="small"))
        assert [done.links for done in small] == [(), (), ()], "nothing new was learnt"


def test_what_holds_back_a_sender_with_a_rate_limit_is_the_limit() -> None:
    engines = {"a": Engine("a", "127.0.0.1:0", pace=Pace(upload_mbit=80)), "b": Engine("b", "127.0.0.1:0")}
    try:
        trust_all(engines)
        done, _ = reduced(engines, Case(("a", "b"), "fp32", 256 * 4096))
        (link,) = done.links
        assert link.limit == "pace" and link.bytes_per_s < 1.5 * 80e6 / 8  # a bucket's burst is on top
        assert engines["a"].links()["b"].limit == "pace"
    finally:
        for engine in engines.values():
            engine.close()


# ---- hosts that nobody can dial


@pytest.mark.parametrize("hidden", ["a", "b"])  # the lower id dials first, where it can
def test_a_ring_of_two_of_which_one_cannot_be_dialled(hidden: str) -> None:
    seen = "b" if hidden == "a" else "a"
    engines = {peer: Engine(peer, "127.0.0.1:0", None if peer == hidden else "") for peer in "ab"}
    try:
        assert engines[hidden].endpoint.address == "" and engines[seen].endpoint.address
        trust_all(engines)
        for number in range(2):
            reduced(engines, Case(("a", "b"), name=f"ring {number}"))
        there, here = engines[seen].links()[hidden], engines[hidden].links()[seen]
        assert there.came_s is not None and there.reached_s is None and here.came_s is None
        assert here.reached_s is not None and here.address == engines[seen].endpoint.address

        # What it has is fetched from others: nobody waits for a connection that cannot be.
        failed = Events()
        engines[seen].start_fetch(fetch_job(hidden, "update/1", bytearray(10)), failed)
        end = failed.failed()
        assert end.suspect is None and "announces no address" in end.reason
    finally:
        for engine in engines.values():
            engine.close()
