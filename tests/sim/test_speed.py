"""What makes worlds fast changes nothing in them: each short cut beside the long way."""

import importlib
from pathlib import Path
from random import Random

import pytest

from intellectd.protocol import inbox
from intellectd.protocol import messages as m
from intellectd.protocol.ids import hash_of
from intellectd.protocol.node import Node
from tests.sim import tables
from tests.sim.config import sim_config
from tests.sim.decoded import Memory, once
from tests.sim.explore import Plan, outcomes
from tests.sim.native import native, parted
from tests.sim.scenario import name_of
from tests.sim.tags import QuickCrypto
from tests.sim.timeline import Call, Timeline
from tests.sim.world import World

RUN = hash_of("a run")
SOURCE = '''"""A module."""
from dataclasses import dataclass, field

MOST = 3  # of them


@dataclass(frozen=True)
class Point:
    """Somewhere."""

    x: int
    y: int = 2


@dataclass
class Box:
    size: int
    inside: list[int] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.inside) >= MOST
'''


def played(plan: Plan) -> list[tuple[int, int, str | None]]:
    return [(outcome.mark, outcome.events, outcome.problem) for _, outcome in outcomes(plan, jobs=1)]


def never(node: Node, now: float) -> bool:
    return False


def same_without_rest(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    rested = played(plan)
    monkeypatch.setattr(Node, "_rests", never)
    assert rested == played(plan)


def test_a_node_that_rests_would_have_found_nothing_due(monkeypatch: pytest.MonkeyPatch) -> None:
    same_without_rest(Plan(70000, 4, (2, 7), 1.5), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        Plan(70100, 32, (2, 9), 3.0),
        Plan(70100, 2, (40, 60), 1.0),
        Plan(70100, 4, (4, 9), 3.0, weather="gossip"),
    ],
)
def test_nodes_that_rest_would_have_found_nothing_due(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    same_without_rest(plan, monkeypatch)


def test_it_is_seen_when_one_rests_that_should_not(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(70000, 1, (3, 3), 1.0)
    honest = played(plan)
    monkeypatch.setattr(Node, "_stirs", lambda node, event: False)
    assert honest != played(plan)


def test_tables_are_measured_as_they_are_named() -> None:
    world = World(5, sim_config(start_peers=3))
    for number in range(3):
        world.add(name_of(number), [name_of(0)] if number else [])
    for _ in range(20):
        world.run(2.0)
        for host in world.hosts.values():
            largest = tables.Largest()
            tables.measure(host.node, False, largest, {})
            named = tables.named(host.node, "node", {})
            assert largest.of_rounds == max(size for _, size, of_rounds in named if of_rounds)
            assert largest.others == max(size for _, size, of_rounds in named if not of_rounds)


def test_what_is_remembered_is_opened_as_before_and_what_is_false_is_refused_each_time() -> None:
    message = m.Relay("PB", b"inside")
    good, false = (m.seal(RUN, "PA", message, QuickCrypto(by)) for by in ("PA", "PB"))
    with once(Memory()):
        read = [inbox.open_message(inbox.open_envelope(good), QuickCrypto("PC")) for _ in range(2)]  # type: ignore[attr-defined]
        assert read == [message, message] and read[0] is not read[1]
        for _ in range(2):
            with pytest.raises(m.BadEnvelope):
                inbox.open_message(inbox.open_envelope(false), QuickCrypto("PC"))  # type: ignore[attr-defined]
    assert inbox.open_message is m.open_message  # type: ignore[attr-defined]


def test_what_is_compiled_means_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = native(SOURCE)
    assert "MOST: typing.Final = 3  # of them" in text and text.count("def __init__") == 2
    (tmp_path / "as_it_is_for_mypyc.py").write_text(SOURCE)
    (tmp_path / "written_out_for_mypyc.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("as_it_is_for_mypyc", "written_out_for_mypyc"):
        module = importlib.import_module(name)
        point, box = module.Point, module.Box
        assert repr(point(1)) == "Point(x=1, y=2)" and point(1) == point(1, 2) != point(2)
        assert hash(point(1)) == hash(point(1, 2))
        assert box(1).inside is not box(1).inside and box(1, [1, 2, 3]).full and not box(1).full


ASKED = '''"""A module."""
from typing import assert_never

SOME = (int, bytes)  # of the kinds


def kind(value: object) -> str:
    match value:
        case bool():  # an int, too
            return "truth"
        case int():
            return "number"
        case _:
            return "…" if isinstance(value, str | bytes) and not isinstance(value, str) else "other"


def some(value: object) -> bool:
    return isinstance(value, SOME) and value != float("inf")
'''


def test_classes_that_are_asked_for_plainly_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [word for word in ("match ", "case ", " | ", "float(") if word in native(ASKED)]
    (tmp_path / "asked_as_it_is.py").write_text(ASKED)
    (tmp_path / "asked_plainly.py").write_text(native(ASKED))
    monkeypatch.syspath_prepend(tmp_path)
    here, there = importlib.import_module("asked_as_it_is"), importlib.import_module("asked_plainly")
    for value in (True, 3, "…", b"", None, 2.0, float("inf")):
        assert here.kind(value) == there.kind(value) and here.some(value) == there.some(value)


def test_a_module_in_two_parts_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCE + "\n\ndef far() -> Point:\n    return Point(MOST)\n\n\ndef near() -> Point:\n    return Point(0)\n"
    classes, functions = parted(source, "in_two_parts", ["near"])
    (tmp_path / "in_two_parts.py").write_text(classes)
    (tmp_path / "in_two_parts_functions.py").write_text(functions)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("in_two_parts")
    assert module.far() == module.Point(3) and module.near() == module.Point(0)
    assert module.far.__module__ == "in_two_parts_functions" and module.near.__module__ == "in_two_parts"


def test_moments_come_in_their_order() -> None:
    rng, timeline, waiting = Random(5), Timeline(), list[tuple[float, int]]()
    for number in range(1, 3000):
        at = float(rng.randrange(50))
        timeline.push(at, Call(print, (number,)))
        waiting.append((at, number))
        if rng.random() < 0.4:
            moment = timeline.pop()
            assert (moment.at, moment.number) == min(waiting)
            waiting.remove(min(waiting))
    while waiting:
        moment = timeline.pop()
        assert (moment.at, moment.number) == min(waiting)
        waiting.remove(min(waiting))
    assert timeline.next_at() == float("inf")
