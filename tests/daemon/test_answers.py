"""What peers ask for holds up nothing of this host's own."""

import threading
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from intellectd.daemon.runs.answers import Answers
from intellectd.daemon.runs.compute import in_thread
from intellectd.protocol.ids import encode
from intellectd.protocol.messages import EntriesAnswer, EntriesRequest, call_proof, decode

RUN, SECRET, GENERATION, ASKING = b"r" * 32, b"s" * 32, b"g" * 32, 64
PATIENCE_S = 60.0


class SlowLog:
    """On a disk that hangs."""

    def __init__(self) -> None:
        self.answers, self.reading = threading.Event(), threading.Event()

    def entries_from(self, round_: int) -> list[Any]:
        self.reading.set()
        assert self.answers.wait(PATIENCE_S)
        return []


async def test_peers_that_read_the_log_leave_threads_for_votes() -> None:
    """Two of them that ask for all that they may have at once took every thread, however long the disk did."""
    log = SlowLog()
    calls: dict[str, Any] = {}
    network = SimpleNamespace(on_call=calls.__setitem__)
    bulk, me = SimpleNamespace(serve=lambda provide: None), SimpleNamespace(peer_id="me")
    host: Any = SimpleNamespace(network=network, bulk=bulk, runner=in_thread, identity=me)
    head = SimpleNamespace(generation=GENERATION)
    service: Any = SimpleNamespace(run=RUN, secret=SECRET, store=log, node=SimpleNamespace(head=head))
    Answers(host, {"run": service})
    request, answered = encode(EntriesRequest(RUN, call_proof(SECRET, "peer", "me"), GENERATION, 0)), list[bytes]()

    async def ask() -> None:
        answered.append(await calls["entries"]("peer", request))

    try:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for _ in range(ASKING):
                    nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                assert log.reading.wait(PATIENCE_S)
                assert await in_thread(lambda: "voted") == "voted"
                log.answers.set()
    finally:
        log.answers.set()
    assert [decode(body, EntriesAnswer).entries for body in answered] == [[]] * ASKING
