"""A value that some accepted, and whose bytes nobody else can get: they are heard, by way of others, and cannot be
asked. SPEC A6."""

import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot
from intellectd.protocol.messages import Accept, Plan
from tests.protocol import puppets as say
from tests.protocol.playbook import History, Host, opened, swarm

OTHERS = ("PB", "PC", "PD")


def parted() -> tuple[History, Host]:
    """PA is the most senior of four voters, so it and any other are a quorum. Everybody is ready."""
    run = swarm("PA", *OTHERS)
    return run, Host(run).meet(*OTHERS).work()


def leads(pa: Host, above: int = -1) -> Ballot:
    """When it does next, in an attempt above that one; the others begin none."""
    while (led := pa.node.round.leading.attempt) is None or led.ballot.attempt <= above:
        assert pa.now < 400.0
        pa.told(*(pa.ready(peer) for peer in OTHERS), pa.after(1.0)).skip()
    return led.ballot


def proposes(run: History, pa: Host, ballot: Ballot, *empty_handed: str) -> str:
    """What PA makes of it that PB and PD have accepted a value, and these promised that they have not."""
    value = (Ballot(first(run, "PB"), "PB"), say.proposal(run, "PB", "PD"))
    pa.told(*(pa.says(peer, say.promise(run, ballot, accepted=value)) for peer in ("PB", "PD")))
    pa.told(*(pa.says(peer, say.promise(run, ballot)) for peer in empty_handed), pa.after(1.1))
    said = [opened(e) for e in pa.skip() if isinstance(e, ef.Send)]
    again = [m for m in said if isinstance(m, Accept) and m.proposal == value[1]]
    return "again" if again else "anew" if any(isinstance(m, Plan) for m in said) else "nothing"


def first(run: History, peer: str) -> int:
    """The first attempt that this voter leads."""
    return leader_order(run.head.voters, run.head.hash).index(peer)


def test_it_is_proposed_again_once_and_left_if_nobody_can_have_decided_it() -> None:
    """SPEC A6: PB and PD are no quorum, and neither PA nor PC will vote below this ballot."""
    run, pa = parted()
    ballot = leads(pa, above=first(run, "PB"))
    assert proposes(run, pa, ballot, "PC") == "again", "its bytes may be had yet"
    ballot = leads(pa, above=ballot.attempt)
    assert proposes(run, pa, ballot, "PC") == "anew"


def test_it_is_never_left_while_a_voter_may_have_decided_it_with_them() -> None:
    """SPEC A6: without PC's word it may have voted for it, too, and those three are a quorum."""
    run, pa = parted()
    ballot = Ballot(first(run, "PB"), "PB")
    for _ in range(3):
        ballot = leads(pa, above=ballot.attempt)
        assert proposes(run, pa, ballot) == "again"


def test_whoever_has_its_bytes_proposes_it_again_for_as_long_as_it_takes() -> None:
    """SPEC A6: others can get them here."""
    run, pa = parted()
    ballot = leads(pa, above=first(run, "PB"))
    assert proposes(run, pa, ballot, "PC") == "again"
    pa.told(ev.UpdateHeld(say.proposal(run, "PB", "PD").record.update_root)).skip()
    ballot = leads(pa, above=ballot.attempt)
    assert proposes(run, pa, ballot, "PC") == "again"


@pytest.mark.parametrize(("seniority", "left"), [(("PA", "PB", "PC", "PD"), True), (("PB", "PA", "PC", "PD"), False)])
def test_of_an_even_number_it_depends_on_who_is_the_most_senior(seniority: tuple[str, ...], left: bool) -> None:
    """SPEC A6, Q1: two of four are a quorum if the most senior is one of them."""
    run = swarm(*seniority)
    pa = Host(run).meet(*OTHERS).work()
    ballot = leads(pa, above=first(run, "PB"))
    assert proposes(run, pa, ballot, "PC") == "again"
    ballot = leads(pa, above=ballot.attempt)
    assert proposes(run, pa, ballot, "PC") == ("anew" if left else "again")
