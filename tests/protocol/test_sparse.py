"""A run of many, seen from one host: who judges, who is told of a plan, a record, a failure. SPEC A16, B9-B12, W11."""

import msgspec
import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot
from tests.protocol.history import RUN, History, ready_of
from tests.protocol.playbook import NO_BALLOT, Host, opened
from tests.sim.scenario import name_of
from tests.sim.tags import TagCrypto

FIFTY = [name_of(number) for number in range(50)]
MANY = [name_of(number) for number in range(120)]


@pytest.fixture(scope="module")
def run() -> History:
    found = History()
    found.opening(*FIFTY)
    return found


@pytest.fixture(scope="module")
def large() -> History:
    """Where all voters together are no majority of the roster."""
    found = History()
    found.opening(*MANY)
    return found


def order(run: History) -> list[str]:
    return leader_order(run.head.voters, run.head.hash)


def host(run: History, peer: str) -> Host:
    return Host(run, peer=peer)


def of_kind(effects: list[ef.Effect], kind: type[m.AnyMessage]) -> dict[str, m.AnyMessage]:
    """To whom."""
    found = [(e.peer, opened(e)) for e in effects if isinstance(e, ef.Send)]
    return {peer: message for peer, message in found if isinstance(message, kind)}


def ringed(members: list[m.Member]) -> m.Collective:
    return m.Collective(members, "ring", [])


def leading(run: History) -> tuple[Host, list[ef.Effect]]:
    """The first leader, with everybody ready, when a quorum has promised."""
    first = order(run)[0]
    pa = host(run, first).work()
    pa.told(*(pa.ready(p) for p in FIFTY if p != first))
    pa.told(pa.after(limits.LOOK_S + 0.01))
    assert len(of_kind(pa.skip(), m.Prepare)) == 30
    ballot = Ballot(0, first)
    said = m.Promise(run.head.at, ballot, run.state, None, None, None, [])
    pa.told(*(pa.says(v, said) for v in run.head.voters if v != first))
    return pa, pa.skip()


def test_a_plan_goes_by_way_of_the_voters_and_members_are_introduced(run: History) -> None:
    pa, effects = leading(run)
    spread = of_kind(effects, m.Spread)
    directly = of_kind(effects, m.Plan)
    passed = [peer for message in spread.values() if isinstance(message, m.Spread) for peer in message.to]
    assert sorted([*passed, *directly, pa.peer]) == sorted(FIFTY)
    assert all(way in run.head.voters for way in spread) and len(passed) > 10
    introduced = of_kind(effects, m.Introduce)
    assert sorted([*introduced, pa.peer]) == sorted(FIFTY)
    plan = next(p for p in directly.values() if isinstance(p, m.Plan))
    ring = [member.peer for member in plan.members]
    somebody = ring[ring.index(pa.peer) - 5]
    message = introduced[somebody]
    assert isinstance(message, m.Introduce)
    at = ring.index(somebody)
    assert [m.open_envelope(b).sender for b in message.beacons] == [ring[at - 1], ring[(at + 1) % len(ring)]]


def test_who_shows_the_transfer_is_not_told_the_plan_again(run: History) -> None:
    """SPEC A12."""
    pa, effects = leading(run)
    plan = next(p for p in of_kind(effects, m.Plan).values() if isinstance(p, m.Plan))
    transfer = pa.node.round.parts.exchange.running
    assert transfer is not None
    mute = [peer for peer in FIFTY if peer != pa.peer][7]
    pa.now += 0.5
    pa.told(*(pa.beacon(p, transfer=m.Transfer(transfer, 0, 0)) for p in FIFTY if p not in (mute, pa.peer))).skip()
    pa.now += 3.0
    pa.told(ev.Tick())
    again = of_kind(pa.skip(), m.Plan)
    assert list(again) == [mute] and again[mute] == plan
    pa.now += 3.0  # before the next beacons come: what they have shown is not forgotten
    pa.told(ev.Tick())
    assert list(of_kind(pa.skip(), m.Plan)) == [mute]


def test_of_very_many_without_a_plan_each_has_its_turn(large: History) -> None:
    """SPEC A12: 64 with each repetition, and not the same ones."""
    first = leader_order(large.head.voters, large.head.hash)[0]
    pa = host(large, first).work()
    pa.told(*(pa.ready(p) for p in MANY if p != first), pa.after(limits.LOOK_S + 0.01))
    said = m.Promise(large.head.at, Ballot(0, first), large.state, None, None, None, [])
    pa.told(*(pa.says(v, said) for v in large.head.voters if v != first)).skip()
    told: list[str] = []
    for _ in range(2):
        pa.told(pa.after(3.0))
        again = list(of_kind(pa.skip(), m.Plan))
        assert len(again) == limits.SPREAD_MAX
        told += again
    assert sorted(dict.fromkeys(told)) == sorted(p for p in MANY if p != first)


def test_a_plan_is_said_again_though_nobody_says_anything(run: History) -> None:
    """SPEC A12: the wait for late promises is long over then, and is no reason to sleep."""
    pa, _ = leading(run)
    repeats_at = pa.node.round.leading.attempt.repeats_at if pa.node.round.leading.attempt else 0.0
    pa.told(pa.after(limits.PROMISE_GRACE_S + 0.1)).skip()
    assert pa.now < repeats_at and pa.node.round.deadline(pa.now) <= repeats_at


def test_word_of_a_transfer_that_was_given_up_does_not_hide_the_next(run: History) -> None:
    """SPEC A12: the bulk plane tells of the old one when the new one is under way, which is what beacons show."""
    first, second = order(run)[:2]
    pz = host(run, FIFTY[40]).work()
    pz.told(*(pz.beacon(p) for p in run.head.voters)).skip()
    members = [m.Member(p, 100, ready_of(run.head, p, run.state).delta_root) for p in FIFTY]
    pz.told(pz.says(first, m.Plan(run.head.at, Ballot(0, first), ringed(members), "int8")))
    old = pz.one(ef.StartTransfer).transfer
    pz.told(pz.says(second, m.Plan(run.head.at, Ballot(1, second), ringed(members[1:]), "int8")))
    new = pz.one(ef.StartTransfer).transfer
    pz.beacons.clear()
    pz.told(ev.TransferMoved(old, 3, 4), ev.TransferBroke(old, None, False, "aborted here"))
    pz.told(pz.after(7.0)).skip()
    said = opened(pz.beacons[-1])
    assert isinstance(said, m.Beacon) and said.transfer == m.Transfer(new, 0, 0)
    pz.told(ev.TransferBroke(new, None, False, "reset"))
    pz.told(pz.after(7.0)).skip()
    said = opened(pz.beacons[-1])
    assert isinstance(said, m.Beacon) and said.transfer is None


def test_who_tells_others_is_not_blamed_for_its_silence_here(run: History) -> None:
    """SPEC A10: a voter that is told seldom has no second witness in that; to a first leader two beacons are due."""
    for place, witness in ((limits.LEADERS_TOLD + 2, False), (1, True)):
        voter = order(run)[place]
        pa = host(run, voter).work()
        member = next(p for p in FIFTY if p not in run.head.voters)
        pa.told(pa.beacon(member))
        pa.now += 2 * pa.node.context.config.timers.beacon_s + 1.0
        pa.told(ev.Tick())
        assert pa.node.membership.overdue(member, pa.now) is witness


def test_an_introduced_neighbour_is_trusted_and_proves_no_life(run: History) -> None:
    pz = host(run, FIFTY[40])
    before = len(pz.node.membership.peers)
    beacon = pz.beacon(FIFTY[41]).data
    effects = pz.node.handle(pz.says(order(run)[0], m.Introduce([beacon])), pz.now)
    trust = next(e for e in effects if isinstance(e, ef.Trust))
    assert [peer for peer, _, _ in trust.peers] == [FIFTY[41]]
    assert len(pz.node.membership.peers) == before + 1 and not pz.node.membership.alive(FIFTY[41], pz.now)


def test_no_beacon_is_taken_that_could_not_be_passed_on(run: History) -> None:
    """SPEC W4: its author's fault, and not the leader's who introduces it. Characters are up to four bytes each."""
    pz, leader_ = host(run, FIFTY[40]), order(run)[0]
    fat = pz.beacon(FIFTY[41], addresses=["\U0001f600" * 256] * 16).data
    assert len(fat) > limits.BEACON_BYTES_MAX
    for told in (ev.MessageReceived(FIFTY[41], fat), ev.MembersReceived(FIFTY[42], (fat,))):
        faults = [(e.peer, e.kind) for e in pz.node.handle(told, pz.now) if isinstance(e, ef.PeerFault)]
        assert faults == [(FIFTY[41] if isinstance(told, ev.MessageReceived) else FIFTY[42], "envelope")]
    assert pz.node.membership.introduction(FIFTY[41]) == b""
    pz.told(pz.says(leader_, m.Introduce([pz.beacon(FIFTY[43], addresses=["x" * 256] * 16).data])))
    assert not [effect for effect in pz.skip() if isinstance(effect, ef.PeerFault)]


def test_a_voter_passes_a_plan_on_and_nothing_else(run: History) -> None:
    one, other = order(run)[:2]
    way = host(run, other)
    known = [p for p in FIFTY[31:] if p not in (one, other)][:9]
    way.told(*(way.beacon(p) for p in known)).skip()
    members = [m.Member(p, 100, bytes([1] * 32)) for p in known]
    plan = m.Plan(run.head.at, Ballot(0, one), ringed(members), "int8")
    letter = m.seal(RUN, one, m.Plan(plan.at, plan.ballot, ringed(members), "int8"), TagCrypto(one))
    effects = way.node.handle(
        way.says(one, m.Spread([*known[:4], next(p for p in FIFTY[45:] if p != other)], letter)), way.now
    )
    relays = of_kind(effects, m.Relay)
    assert list(relays) == known[:4], "the last one is not known here"
    assert all(isinstance(r, m.Relay) and r.envelope == letter for r in relays.values())
    for bad in (
        m.seal(RUN, one, m.Prepare(plan.at, plan.ballot), TagCrypto(one)),
        letter[:-1] + bytes([letter[-1] ^ 1]),
    ):
        effects = way.node.handle(way.says(one, m.Spread(FIFTY[31:33], bad)), way.now)
        assert [e.peer for e in effects if isinstance(e, ef.PeerFault)] == [one]
    by_nobody = way.node.handle(
        way.says(
            FIFTY[45],
            m.Spread(
                FIFTY[31:33],
                sealed(FIFTY[45], m.Plan(plan.at, Ballot(0, FIFTY[45]), ringed(members), "int8")),
            ),
        ),
        way.now,
    )
    assert not of_kind(by_nobody, m.Relay), "only voters may ask"
    stale = m.Plan(msgspec.structs.replace(plan.at, round=7), plan.ballot, ringed(members), "int8")
    of_another = way.node.handle(way.says(one, m.Spread(FIFTY[31:33], sealed(one, stale))), way.now + 1)
    assert not of_kind(of_another, m.Relay), "nor for another decision"
    for _ in range(limits.SPREADS_PER_S_MAX):
        effects = way.node.handle(way.says(one, m.Spread(FIFTY[31:33], letter)), way.now)
    assert not of_kind(effects, m.Relay), "and not without end"


def sealed(peer: str, message: m.AnyMessage) -> bytes:
    return m.seal(RUN, peer, message, TagCrypto(peer))


def test_a_spread_plan_arrives_like_any_other(run: History) -> None:
    one, other = order(run)[:2]
    pz = host(run, FIFTY[40]).work()
    ready = ready_of(run.head, FIFTY[40], run.state)
    assert pz.node.progress.ready == ready
    members = [m.Member(p, 100, ready_of(run.head, p, run.state).delta_root) for p in FIFTY[38:43]]
    letter = m.seal(RUN, one, m.Plan(run.head.at, Ballot(0, one), ringed(members), "int8"), TagCrypto(one))
    pz.told(pz.says(other, m.Relay(FIFTY[40], letter)))
    assert pz.one(ef.StartTransfer).members == tuple(FIFTY[38:43])


def members_of(run: History, names: list[str]) -> list[str]:
    """Those without a vote."""
    return [p for p in names if p not in run.head.voters]


def test_voters_that_hear_few_leave_it_to_those_that_are_told(large: History) -> None:
    """SPEC A16. All that it hears are ready, and still it waits for the leaders, but not for ever."""
    run, leaders = large, order(large)
    pa = host(run, leaders[5]).work()
    heard = members_of(run, MANY)[:5]
    voters = [v for v in leaders if v != pa.peer]

    def living(seconds: float, alive: list[str]) -> list[ef.Effect]:
        for _ in range(int(seconds / 4.0)):
            pa.told(pa.after(4.0), *(pa.beacon(v, state="synced") for v in alive), *(pa.ready(p) for p in heard))
        return pa.skip()

    timers = run.head.config.timers
    assert not of_kind(living(timers.grace_max_s + timers.expel_s - 20.0, voters), m.Prepare)
    assert "most of the roster tells others" in pa.node.round.reason
    assert of_kind(living(20.0 + 6 * timers.attempt_s, voters), m.Prepare)


def test_they_judge_when_none_of_those_is_alive(large: History) -> None:
    run, leaders = large, order(large)
    pa = host(run, leaders[3]).work()
    heard = members_of(run, MANY)[:5]
    pa.told(*(pa.beacon(v) for v in leaders[4:]), *(pa.ready(p) for p in heard))
    pa.told(pa.after(limits.LOOK_S))
    assert "most of the roster" not in pa.node.round.reason


def test_a_new_record_is_told_to_the_voters_and_shown_to_a_few(run: History) -> None:
    """SPEC B12; the leader's own record in Host.told is the puppets' here."""
    more = History()
    more.opening(*FIFTY)
    entry = more.round(*FIFTY)
    pz = host(run, FIFTY[40])
    pz.told(*(pz.beacon(p) for p in FIFTY if p != FIFTY[40])).skip()
    pz.beacons.clear()
    pz.told(pz.says(order(run)[0], m.Commit(entry)), pz.after(0.1))
    assert not of_kind(pz.skip(), m.Commit)
    told = {send.peer for send in pz.beacons}
    assert len(told) >= limits.RECORD_LOTS + limits.LEADERS_TOLD


def test_a_failure_is_told_to_the_voters(run: History) -> None:
    """SPEC A10: of a ring of fifty not every member tells every other one."""
    first = order(run)[0]
    pz = host(run, FIFTY[40]).work()
    members = [m.Member(p, 100, ready_of(run.head, p, run.state).delta_root) for p in FIFTY]
    pz.told(pz.says(first, m.Plan(run.head.at, Ballot(0, first), ringed(members), "int8")))
    transfer = pz.one(ef.StartTransfer).transfer
    pz.told(ev.TransferBroke(transfer, FIFTY[41], False, "reset"))
    assert sorted(of_kind(pz.skip(), m.Abort)) == sorted(run.head.voters)


def test_a_guide_tells_a_host_that_a_quorum_is_there(run: History) -> None:
    """SPEC B11: one voter that sees it is enough; one that does not is none."""
    pz = host(run, FIFTY[40])
    guide = order(run)[0]
    head = run.head
    pz.told(pz.beacon(guide), pz.after(1.0))
    assert pz.node.branching.led and not pz.node.branching.quorum
    reach = pz.node.round.reach(pz.now)
    assert reach is not None and reach.quorum
    lost = m.Lineage(head.recoveries, head.branches, head.tokens_total, False, True)
    pz.told(pz.beacon(guide, lineage=lost), pz.after(1.0))
    assert not pz.node.branching.led


def test_what_many_say_is_acted_on_a_few_times_a_second(run: History) -> None:
    """SPEC B10: a beacon with news is taken at once, and looked at within LOOK_S."""
    first = order(run)[0]
    pa = host(run, first)
    pa.told(*(pa.beacon(p) for p in FIFTY if p != first), pa.after(limits.LOOK_S)).skip()
    looked_at = pa.node._looked_at
    pa.now += 0.01
    pa.told(pa.ready(FIFTY[40]))
    assert pa.node._looked_at == looked_at and pa.node.deadline(pa.now) <= looked_at + limits.LOOK_S
    pa.now = pa.node.deadline(pa.now)
    pa.told(ev.Tick())
    assert pa.node._looked_at == pa.now


def test_a_host_without_a_journal_hears_all_voters(run: History) -> None:
    """SPEC A13, B9."""
    pz = Host(run, peer=FIFTY[40], vote=None)
    pz.told(*(pz.beacon(v) for v in run.head.voters)).skip()
    assert NO_BALLOT in [vote.promised for vote in pz.node._votes.values()]


def test_an_answer_names_the_voters_first(run: History) -> None:
    """SPEC W10."""
    pa = host(run, "PA")
    pa.told(*(pa.beacon(p) for p in FIFTY if p != "PA"), *(pa.beacon(f"PZ{n}{k}") for n in "123456789" for k in "1234"))
    names = [m.open_envelope(data).sender for data in pa.node.membership.envelopes()]
    assert len(names) == limits.MEMBERS_TOLD_MAX
    assert all(voter in names for voter in run.head.voters if voter != "PA")
