"""Two hosts that cannot reach each other, and a third that both can. SPEC W8."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot
from tests.protocol.history import RUN, History, ready_of
from tests.protocol.playbook import Host, opened
from tests.sim.scenario import name_of
from tests.sim.tags import TagCrypto


def run_of_three() -> History:
    run = History()
    run.opening("PA", "PB", "PC")
    run.round("PA", "PB", "PC")
    return run


def relays(effects: list[ef.Effect]) -> list[tuple[str, str, str]]:
    """(to whom, for whom, whose)."""
    found = []
    for effect in effects:
        if isinstance(effect, ef.Send):
            message = m.open_message(m.open_envelope(effect.data), TagCrypto("PX"))
            if isinstance(message, m.Relay):
                found.append((effect.peer, message.to, m.open_envelope(message.envelope).sender))
    return found


def sealed(sender: str, message: m.AnyMessage) -> bytes:
    return m.seal(RUN, sender, message, TagCrypto(sender))


def prepare(host: Host, leader: str) -> m.Prepare:
    return m.Prepare(host.node.head.at, Ballot(0, leader))


def test_who_is_alive_to_another_and_silent_to_us_is_reached_by_way_of_it() -> None:
    """And no longer when it is heard directly again."""
    pa = Host(run_of_three())
    pa.told(pa.beacon("PB"), pa.beacon("PC")).skip()
    for _ in range(5):
        pa.told(pa.after(4.0), pa.beacon("PB"))
    pa.skip()
    pa.told(ev.MembersReceived("PB", (pa.beacon("PC").data,)))
    assert pa.node.relaying.unheard("PC", pa.now) and not pa.node.relaying.unheard("PB", pa.now)
    pa.told(pa.after(6.0))  # time for a beacon of its own
    assert ("PB", "PC", "PA") in relays(pa.skip())
    pa.told(pa.beacon("PC"))
    assert not pa.node.relaying.unheard("PC", pa.now)


def test_one_hop_for_the_author_alone() -> None:
    pb = Host(run_of_three(), peer="PB")
    pb.told(pb.beacon("PA"), pb.beacon("PC")).skip()
    letter = sealed("PA", prepare(pb, "PA"))
    effects = pb.node.handle(pb.says("PA", m.Relay("PC", letter)), pb.now)
    assert relays(effects) == [("PC", "PC", "PA")]
    for bad, says in (
        (sealed("PC", prepare(pb, "PC")), "was not relayed"),
        (sealed("PA", m.Relay("PC", letter)), "a relay in a relay"),
        (letter[:-1] + bytes([letter[-1] ^ 1]), "signature"),
        (b"\x00", "not a valid"),
    ):
        (fault,) = [e for e in pb.node.handle(pb.says("PA", m.Relay("PC", bad)), pb.now) if isinstance(e, ef.PeerFault)]
        assert fault.peer == "PA" and says in fault.reason
    effects = pb.node.handle(pb.says("PA", m.Relay("PZ", letter)), pb.now)
    assert relays(effects) == []  # nobody here hears it


def test_what_arrives_counts_as_its_authors() -> None:
    pc = Host(run_of_three(), peer="PC")
    pc.told(pc.beacon("PB")).skip()
    beacon = pc.beacon("PA")
    pc.told(pc.says("PB", m.Relay("PC", beacon.data)))
    assert pc.node.membership.alive("PA", pc.now)
    for _ in range(5):
        pc.told(pc.after(4.0), pc.beacon("PB"), pc.says("PB", m.Relay("PC", pc.beacon("PA").data)))
    assert pc.node.relaying.unheard("PA", pc.now)
    forged = m.seal(RUN, "PA", prepare(pc, "PA"), TagCrypto("PB"))
    (fault,) = [e for e in pc.node.handle(pc.says("PB", m.Relay("PC", forged)), pc.now) if isinstance(e, ef.PeerFault)]
    assert fault.peer == "PB"


def test_a_dead_peer_is_not_revived_with_a_beacon_of_an_earlier_life() -> None:
    """SPEC B1, W8: only from its own mouth may it come with a lower incarnation, its clock set back."""
    pc = Host(run_of_three(), peer="PC")
    old = pc.beacon("PA", incarnation=4).data
    pc.told(pc.beacon("PB"), pc.beacon("PA", incarnation=5)).skip()
    for _ in range(5):
        pc.told(pc.after(4.0), pc.beacon("PB"))
    pc.told(pc.says("PB", m.Relay("PC", old)))
    assert not pc.node.membership.alive("PA", pc.now)
    assert not pc.node.relaying.unheard("PA", pc.now)


def test_a_plan_for_many_goes_by_voters_that_are_heard_directly() -> None:
    """SPEC W11, W8: `spread` is not relayed; whoever passed on one in a relay would blame its author."""
    names = [name_of(number) for number in range(40)]
    run = History()
    run.opening(*names)
    first = leader_order(run.head.voters, run.head.hash)[0]
    pa = Host(run, peer=first).work()
    guides = [pa.node.membership.audience.near(peer)[0] for peer in names if peer not in run.head.voters]
    hidden, way = [voter for voter in run.head.voters if voter in guides and voter != first][:2]

    def hear(**fields: object) -> None:
        for peer in names:
            ready = ready_of(run.head, peer, run.state) if fields else None
            beacon = pa.beacon(peer, ready=ready, **fields)
            if peer != first:
                pa.told(pa.says(way, m.Relay(first, beacon.data)) if peer == hidden else beacon)

    for _ in range(5):
        hear()
        pa.told(pa.after(4.0))
    hear(state="ready")
    pa.told(pa.after(limits.LOOK_S + 0.01)).skip()
    assert pa.node.relaying.unheard(hidden, pa.now) and pa.node.round.parts.members.alive(hidden, pa.now)
    said = m.Promise(run.head.at, Ballot(0, first), run.state, None, None, None, [])
    pa.told(pa.says(way, m.Relay(first, sealed(hidden, said))))
    pa.told(*(pa.says(v, said) for v in run.head.voters if v not in (first, hidden)))
    sent = [(e.peer, opened(e)) for e in pa.skip() if isinstance(e, ef.Send)]
    spread = {peer: message.to for peer, message in sent if isinstance(message, m.Spread)}
    passed = [opened(ef.Send("", message.envelope)) for _, message in sent if isinstance(message, m.Relay)]
    assert spread and not any(isinstance(message, m.Spread) for message in passed)
    told = [peer for peer, message in sent if isinstance(message, m.Plan)]
    assert hidden in told and sorted([first, *told, *(p for to in spread.values() for p in to)]) == sorted(names)


def test_nobody_is_carried_for_without_end() -> None:
    pb = Host(run_of_three(), peer="PB")
    pb.told(pb.beacon("PA"), pb.beacon("PC")).skip()
    letter = m.Relay("PC", sealed("PA", prepare(pb, "PA")))
    sent = [relays(pb.node.handle(pb.says("PA", letter), pb.now)) for _ in range(100)]
    assert sum(len(found) for found in sent) == 32


def test_of_too_many_peers_the_one_not_heard_for_longest_is_forgotten() -> None:
    """SPEC L1, W8: not the one that was met first, which may speak every second."""
    relaying = Host(run_of_three()).node.relaying
    for number in range(limits.PEERS_MAX):
        relaying.on_direct(f"P{number}", 0.0)
    relaying.on_direct("P0", 1.0)
    relaying.on_direct("PZ", 2.0)
    assert len(relaying._direct) == limits.PEERS_MAX
    assert "P0" in relaying._direct and "P1" not in relaying._direct
