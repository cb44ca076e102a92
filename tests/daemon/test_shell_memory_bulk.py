"""The in-memory bulk plane against the real engine: the same bits; and its own ways to fail."""

import trio
import trio.testing

from intellectd.daemon.bulk.interface import (
    BulkEvent,
    Endpoint,
    FetchJob,
    LinkSeen,
    ProbeJob,
    TransferDone,
    TransferFailed,
)
from intellectd.daemon.memory_bulk import MemoryBulk, MemoryBulkHub
from intellectd.kernels.codec import GROUP
from tests.daemon.bulk_swarm import Case, swarm, transfer_id

Clock = trio.testing.MockClock
ELEMENTS = 50 * GROUP + 3 * 256  # slices of two chunks, and a group that is not whole


class Ended:
    def __init__(self) -> None:
        self.event: BulkEvent | None = None
        self.over = trio.Event()

    def __call__(self, event: BulkEvent) -> None:
        if isinstance(event, TransferDone | TransferFailed):
            self.event = event
            self.over.set()

    async def wait(self) -> BulkEvent:
        with trio.fail_after(1000):
            await self.over.wait()
        assert self.event is not None
        return self.event


def trusting(hub: MemoryBulkHub, *names: str) -> list[MemoryBulk]:
    engines = [hub.engine(name) for name in names]
    for engine in engines:
        engine.trust({name: other.endpoint for name, other in zip(names, engines, strict=True)})
    return engines


async def ring_of(hub: MemoryBulkHub, case: Case, present: str) -> list[Ended]:
    ends = []
    for name in present:
        ends.append(Ended())
        hub.engines[name].start_collective(case.job(name), ends[-1])
    return ends


async def test_a_ring_in_memory_has_the_bits_of_the_real_ring(autojump_clock: Clock) -> None:
    for codec, names in (("int8", "abc"), ("int8", "a"), ("fp32", "ab"), ("bf16", "ab")):
        real = Case(tuple(names), codec, ELEMENTS)
        with swarm(*names) as engines:
            for events in [real.start(engines[name], name) for name in names]:
                events.done()
        twin = Case(tuple(names), codec, ELEMENTS)
        async with trio.open_nursery() as nursery:
            hub = MemoryBulkHub(nursery)
            trusting(hub, *names)
            for end in await ring_of(hub, twin, names):
                assert isinstance(await end.wait(), TransferDone)
        assert twin.outs == real.outs
        assert len({bytes(out) for out in twin.outs}) == 1


async def test_who_is_missing_stalled_or_killed_is_suspected_by_everybody_else(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        hub = MemoryBulkHub(nursery)
        trusting(hub, "a", "b", "c")
        case = Case(("a", "b", "c"), stall_s=5.0)
        ends = [await end.wait() for end in await ring_of(hub, case, "ac")]
        assert [(e.suspect, e.silent) for e in ends if isinstance(e, TransferFailed)] == [("b", True)] * 2

        hub.stall("c")
        ends = [await end.wait() for end in await ring_of(hub, case, "abc")]
        assert [(e.suspect, e.silent) for e in ends if isinstance(e, TransferFailed)] == [
            ("c", True),
            ("c", True),
            (None, True),
        ]
        hub.stall("c", False)

        waiting = await ring_of(hub, case, "abc")
        await trio.sleep(0.1)
        hub.kill("a")
        ends = [await end.wait() for end in waiting[1:]]
        assert [(e.suspect, e.silent) for e in ends if isinstance(e, TransferFailed)] == [("a", False)] * 2
        assert not waiting[0].over.is_set()  # the dead hear nothing


async def test_an_abort_ends_it_for_this_host_and_names_nobody(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        hub = MemoryBulkHub(nursery)
        a, _ = trusting(hub, "a", "b")
        case = Case(("a", "b"), stall_s=5.0)
        (end,) = await ring_of(hub, case, "a")
        a.abort(transfer_id(case.name))
        failed = await end.wait()
        assert isinstance(failed, TransferFailed) and failed.suspect is None and "aborted" in failed.reason


async def test_objects_are_fetched_from_those_who_trust_the_asker_as_it_is_now(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        hub = MemoryBulkHub(nursery)
        a, b = trusting(hub, "a", "b")
        b.serve(lambda peer, name: memoryview(b"0123456789") if name == "x" else None)

        async def fetch(name: str, length: int = 4, offset: int = 2) -> tuple[BulkEvent, bytes]:
            into, end = bytearray(length), Ended()
            a.start_fetch(FetchJob(transfer_id(name), "b", name, offset, memoryview(into), 5.0, 60.0), end)
            return await end.wait(), bytes(into)

        done, data = await fetch("x")
        assert isinstance(done, TransferDone) and data == b"2345"
        missing, _ = await fetch("y")
        assert isinstance(missing, TransferFailed) and "has no y" in missing.reason
        too_long, _ = await fetch("x", 100)
        assert isinstance(too_long, TransferFailed)

        hub.tamper["b"] = lambda peer, name, data: data[::-1]
        assert (await fetch("x"))[1] == b"7654"
        b.trust({"a": Endpoint("memory:99", b"of an earlier life")})
        refused, _ = await fetch("x")
        assert isinstance(refused, TransferFailed) and refused.silent and refused.suspect == "b"


async def test_links_are_measured_where_the_hub_says_what_they_carry(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        hub = MemoryBulkHub(nursery)
        a, b = trusting(hub, "a", "b")
        hub.rates["a", "b"] = (5e6, 0.05)
        ends = [await end.wait() for end in await ring_of(hub, Case(("a", "b")), "ab")]
        assert [end.links for end in ends if isinstance(end, TransferDone)] == [
            (LinkSeen("b", 5e6, 0.05, 1, "bbr"),),
            (),
        ]
        assert a.links()["b"].bytes_per_s == 5e6 and b.links()["a"].bytes_per_s is None

        async def probe(engine: MemoryBulk, peer: str) -> BulkEvent:
            end = Ended()
            engine.start_probe(ProbeJob(transfer_id("probe"), peer, 1 << 20, 5.0, 60.0), end)
            return await end.wait()

        done, nothing = await probe(a, "b"), await probe(b, "a")
        assert isinstance(done, TransferDone) and [link.bytes_per_s for link in done.links] == [5e6]
        assert isinstance(nothing, TransferFailed) and nothing.suspect is None
