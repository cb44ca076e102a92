"""Plans of a leader that lies: who follows them blames nobody else, and does not go on with them. SPEC A10, C2, W6."""

from msgspec.structs import replace

from intellectd.protocol import effects as ef
from intellectd.protocol import messages as m
from tests.protocol import puppets as say
from tests.protocol.playbook import opened
from tests.protocol.test_round_failures import NEXT, THEIRS, follower, until


def test_a_leader_that_tells_two_plans_has_nobody_blame_a_member() -> None:
    """SPEC A10, W6: PC was told another one, of PB, PC and PD, which broke; it tells all voters."""
    run, pa = follower("PB", "PA", "PC", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, "PA", "PB"))).skip()
    pa.told(pa.says("PC", say.abort(run, THEIRS, "PD"))).silent()
    assert pa.node.round.reducing is not None
    pa.told(pa.says("PZ", say.abort(run, THEIRS, "PD")))
    assert pa.one(ef.PeerFault).peer == "PZ"


def test_a_plan_with_false_tokens_is_not_gone_on_with() -> None:
    """SPEC A10, C2: PB says of PC's delta what PC does not, and dies; PC would refuse that plan from PA, too."""
    run, pa = follower("PB", "PA", "PC")
    members = say.plan(run, THEIRS, "PC", "PA").collective.members
    false = [replace(member, tokens=7) if member.peer == "PC" else member for member in members]
    plan = say.plan(run, THEIRS, "PC", "PA")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)))
    pa.told(pa.says("PB", replace(plan, collective=replace(plan.collective, members=false)))).skip()
    until(pa, "to PC: prepare 1.PA", "PC")
    pa.told(pa.says("PC", say.promise(run, NEXT))).told(pa.after(1.1))
    plans = [said for e in pa.skip() if isinstance(e, ef.Send) and isinstance(said := opened(e), m.Plan)]
    assert {member.tokens for plan in plans for member in plan.members if member.peer == "PC"} == {100}
