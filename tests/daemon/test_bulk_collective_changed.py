"""Chunks that a line changes on their way (SPEC D10): they are nobody's word, so nobody is blamed for them."""

import struct

import pytest

from intellectd.daemon.bulk.frames import Kind
from intellectd.daemon.bulk.sealed import AesGcm
from tests.daemon.bulk_swarm import Case
from tests.daemon.channel_hosts import eventually
from tests.daemon.puppet import Puppet, with_puppet

FP32 = {"codec": "fp32", "elements": 2 * 16384}  # in two: one chunk each
PREFIX = struct.Struct(">BBHI")  # of a frame's header: kind, flag, step, chunk


def change_once(monkeypatch: pytest.MonkeyPatch, chunk: int, step: int) -> None:
    """One bit of the first such chunk that anybody sends."""
    seal, left = AesGcm.seal, [1]

    def changed(self: AesGcm, header: bytes, payload: memoryview, out: memoryview) -> None:
        seal(self, header, payload, out)
        kind, _flag, of_step, of_chunk = PREFIX.unpack_from(header)
        if (kind, of_chunk, of_step) == (Kind.CHUNK, chunk, step) and left:
            left.clear()
            out[0] ^= 1

    monkeypatch.setattr(AesGcm, "seal", changed)


def went_wrong(x: Puppet) -> None:
    assert x.diary.next("lost")[1] == "a"
    x.go("a")
    x.say("a", Kind.GO, 2, bytes(1))  # nothing has come: what was on the wire that ended goes again


@pytest.mark.parametrize(("schedule", "part", "result"), [("ring", (0, 0), (1, 1)), ("direct", (0, 1), (1, 2))])
@pytest.mark.parametrize("what", ["part", "result"])
def test_a_chunk_that_was_changed_comes_again(
    monkeypatch: pytest.MonkeyPatch, schedule: str, part: tuple[int, int], result: tuple[int, int], what: str
) -> None:
    change_once(monkeypatch, *(part if what == "part" else result))
    monkeypatch.setattr("intellectd.daemon.bulk.collective.SETTLE_S", 0.0)
    case = Case(("a", "x"), **FP32, schedule=schedule)
    with with_puppet(case) as (engines, events, x):
        x.meet()
        x.chunk()  # a's part has left
        x.send("a", *part, x.own(0))
        if what == "part":
            went_wrong(x)
            x.send("a", *part, x.own(0))
        x.send("a", *result, x.own(1))
        if what == "result" and schedule == "ring":
            # The sum that it was to replace is gone, and is what a loss would ask for again.
            end = events["a"].failed()
            assert end.suspect is None and "changed on its way" in end.reason
            assert x.hear(Kind.ABORT)[1] == b""
            return
        if what == "result":
            went_wrong(x)
            x.send("a", *result, x.own(1))
        events["a"].done()
        assert case.outs[0][len(x.own(0)) :] == x.own(1)
        eventually(lambda: engines["a"]._channels.offences() == {"x": 1})


def test_a_result_that_nobody_sent_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header says what no plan allows, and was never signed for."""
    change_once(monkeypatch, 1, 1)
    monkeypatch.setattr("intellectd.daemon.bulk.collective.SETTLE_S", 0.0)
    case = Case(("a", "x"), **FP32)
    with with_puppet(case) as (_engines, events, x):
        x.ask("a")
        x.hear(Kind.GO, 0)
        x.send("a", 1, 1, x.own(1))  # a's part of it has not left
        assert x.diary.next("lost")[1] == "a"
        x.go("a")
        x.finish("a")
        events["a"].done()
