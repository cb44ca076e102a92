"""protocol/collectives.py: which schedules and shapes a run allows. SPEC C7."""

import pytest

from intellectd.protocol.collectives import may_be_direct, misfit, torus_rows
from intellectd.protocol.entries import Collective, Member


def of(members: int, schedule: str, *shape: int) -> Collective:
    return Collective([Member("P" + "Q" * n, 1, bytes(32)) for n in range(members)], schedule, list(shape))


ALLOWED = [
    of(1, "ring"),
    of(7, "ring"),
    of(2, "direct", 1, 1),
    of(3, "direct", 0, 65_535, 1),
    of(64, "direct", *[1] * 64),
    of(4, "torus", 2),
    of(6, "torus", 2),
    of(6, "torus", 3),
    of(100, "torus", 10),
]
REFUSED = [
    of(3, "ring", 3),
    of(3, "tree"),
    of(1, "direct", 1),
    of(3, "direct"),
    of(3, "direct", 1, 1),
    of(3, "direct", 0, 0, 0),
    of(65, "direct", *[1] * 64),
    of(4, "torus"),
    of(4, "torus", 0),
    of(4, "torus", 1),
    of(4, "torus", 4),
    of(4, "torus", 2, 2),
    of(6, "torus", 4),
    of(7, "torus", 7),
]


@pytest.mark.parametrize("collective", ALLOWED, ids=lambda c: f"{len(c.members)}-{c.schedule}")
def test_what_a_run_allows(collective: Collective) -> None:
    """SPEC C7: by itself, or if the manifest leaves it open; a ring in any run."""
    assert misfit(collective, "auto") == misfit(collective, collective.schedule) == ""
    for other in ("ring", "direct", "torus"):
        assert (misfit(collective, other) == "") == (collective.schedule in (other, "ring"))


@pytest.mark.parametrize("collective", REFUSED, ids=lambda c: f"{len(c.members)}-{c.schedule}{len(c.shape)}")
def test_what_no_run_allows(collective: Collective) -> None:
    """SPEC C7: another word, or a shape that leaves a member without a place or a slice without an owner."""
    assert misfit(collective, "auto") and misfit(collective, collective.schedule)


def test_shapes_of_a_torus_have_two_rows_and_two_columns_at_least() -> None:
    assert torus_rows(12) == [2, 3, 4, 6] and torus_rows(16) == [2, 4, 8]
    assert [n for n in range(1, 20) if not torus_rows(n)] == [1, 2, 3, 5, 7, 11, 13, 17, 19]
    assert [n for n in (1, 2, 64, 65) if may_be_direct(n)] == [2, 64]
