"""Who is here: beacons, introductions, silence, and a table that stays bounded. SPEC B*, W4-W6."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.ids import hash_of
from tests.protocol.history import RUN
from tests.protocol.playbook import Host, opened, swarm
from tests.sim.tags import TagCrypto


def alone() -> Host:
    return Host(swarm("PA", "PB"))


def beacons(host: Host, target: str) -> list[m.Beacon]:
    """What it has told this peer of itself, since last asked."""
    said, host.beacons = host.beacons, []
    found = [opened(send) for send in said if send.peer == target]
    return [message for message in found if isinstance(message, m.Beacon)]


def test_a_beacon_proves_life_for_a_while() -> None:
    """SPEC B3: suspected after suspect_s, silent after expel_s; one more beacon heals both."""
    pa = alone().meet("PB")
    members = pa.node.membership
    assert members.alive("PB", pa.now + 14) and not members.alive("PB", pa.now + 15)
    assert not members.silent("PB", pa.now + 59) and members.silent("PB", pa.now + 60)
    pa.told(pa.after(70))
    assert members.silent("PB", pa.now)
    pa.told(pa.beacon("PB"))
    assert members.alive("PB", pa.now)


def test_who_is_able() -> None:
    """SPEC B4: alive, with a trainer, near the head, of this generation and not about to leave."""
    pa = alone()
    pa.told(
        pa.beacon("PB", state="waiting", applied=-1), pa.beacon("PC", state="training"), pa.beacon("PD", state="ready")
    )
    unable: list[dict[str, object]] = [
        {"state": "synced"},
        {"state": "catching-up"},
        {"applied": -2},
        {"leaving": True},
        {"generation": hash_of("other")},
    ]
    for number, fields in enumerate(unable):
        pa.told(pa.beacon(f"PE{number + 1}", **fields))
    assert pa.node.round.parts.muster.able_peers(pa.now) == ["PB", "PC", "PD"]
    assert pa.node.round.parts.muster.able_peers(pa.now + 15) == []


def test_an_introduction_tells_where_and_proves_no_life() -> None:
    """SPEC B5."""
    pa = alone().meet("PB")
    introduced = pa.beacon("PC", addresses=["/ip4/10.0.0.3/tcp/1"]).data
    effects = pa.node.handle(ev.MembersReceived("PB", (introduced,)), pa.now)
    assert ef.Learn("PC", ("/ip4/10.0.0.3/tcp/1",), own_word=True) in effects
    assert not pa.node.membership.alive("PC", pa.now)
    beacons(pa, "PC")
    pa.told(pa.after(0.06))
    assert len(beacons(pa, "PC")) == 1, "a newcomer hears from us at once"


def test_only_the_newest_beacon_counts() -> None:
    """SPEC B1: a replay or a late one changes nothing."""
    pa = alone()
    old, new = pa.beacon("PB", state="waiting"), pa.beacon("PB", state="training")
    pa.told(new, old)
    beacon = pa.node.membership.beacon("PB")
    assert beacon is not None and beacon.state == "training"
    pa.told(pa.beacon("PB", incarnation=0, state="synced"))
    beacon = pa.node.membership.beacon("PB")
    assert beacon is not None and beacon.state == "training"


def test_a_peer_reborn_with_its_clock_set_back_is_heard() -> None:
    """SPEC B1: once it counts as gone, and only from its own mouth."""
    pa = alone()
    pa.told(pa.beacon("PB", incarnation=10**12))
    pa.told(pa.after(16))
    reborn = pa.beacon("PB", incarnation=5)
    pa.told(ev.MembersReceived("PC", (reborn.data,)))
    assert not pa.node.membership.alive("PB", pa.now)
    pa.told(reborn)
    assert pa.node.membership.alive("PB", pa.now)


def test_what_others_hold_of_a_life_with_a_later_clock_does_not_hide_the_one_after_it() -> None:
    """SPEC B1: who never hears PB itself, as most of a sparse swarm, goes on showing the old one."""
    pa = alone()
    before = pa.beacon("PB", incarnation=10**12)
    pa.told(before)
    pa.told(pa.after(16))
    pa.told(pa.beacon("PB", incarnation=5), pa.beacon("PC"))
    later = pa.beacon("PB", incarnation=10**12)
    pa.told(ev.MembersReceived("PC", (before.data,)), pa.says("PC", m.Relay("PA", later.data)))
    pa.told(pa.beacon("PB", incarnation=5, state="ready"))
    known = pa.node.membership.beacon("PB")
    assert known is not None and (known.incarnation, known.state) == (5, "ready")


def test_of_several_lives_with_later_clocks_none_hides_the_one_that_speaks() -> None:
    """SPEC B1: a host that keeps neither its disk nor its clock may begin in the past each time, ever earlier."""
    pa = alone().meet("PC")
    kept = []
    for life in (9, 7, 5):
        kept.append(pa.beacon("PB", incarnation=life).data)
        pa.told(pa.beacon("PB", incarnation=life))
        pa.told(pa.after(16), pa.beacon("PC"))
    pa.told(ev.MembersReceived("PC", tuple(kept)), *(pa.says("PC", m.Relay("PA", data)) for data in kept))
    known = pa.node.membership.beacon("PB")
    assert known is not None and known.incarnation == 5 and not pa.node.membership.alive("PB", pa.now)


def test_a_second_daemon_with_this_hosts_identity_is_told_of() -> None:
    """SPEC B1: of a copied state directory each would vote, and nothing else shows that. Others pass its beacon on."""
    pa = alone().meet("PB")

    def doubles(incarnation: int) -> int:
        own = pa.beacon("PA", incarnation=incarnation).data
        before = len(pa.notes)
        pa.told(ev.MembersReceived("PB", (own,)))
        return len([note for note in pa.notes[before:] if note.event == "double"])

    assert [doubles(number) for number in (1, 2, 2, 3, 2, 3)] == [0, 1, 0, 1, 0, 0]
    assert "PA" not in pa.node.membership.peers
    pa.skip()


def test_a_host_that_slept_does_not_call_the_others_silent() -> None:
    """SPEC B6: it heard nobody because it was stopped; a vote must not be lost over that."""
    pa = alone().meet("PB")
    pa.now += 300
    pa.told(ev.Tick())
    assert pa.node.membership.alive("PB", pa.now) and not pa.node.membership.silent("PB", pa.now)
    pa.told(pa.after(61))
    assert pa.node.membership.silent("PB", pa.now), "awake and still nothing: now it is silence"


def test_beacons_go_to_everybody_in_their_time_and_on_news() -> None:
    """SPEC B2."""
    pa = alone().meet("PB")
    pa.told(pa.after(12))
    assert 2 <= len(beacons(pa, "PB")) <= 4
    pa.told(ev.TrainerAttached(None))
    pa.told(pa.after(0.06)).skip()
    newest = beacons(pa, "PB")[-1]
    assert newest.state == "training" and newest.head_round == 0 and newest.applied == 0


def test_a_silent_stranger_is_forgotten_and_a_voter_is_not() -> None:
    """SPEC B7."""
    pa = alone().meet("PB", "PC")
    for _ in range(160):
        pa.told(pa.after(4))
    assert list(pa.node.membership.peers) == ["PB"]


def test_the_table_is_bounded_and_the_living_keep_their_place() -> None:
    """SPEC B7, L1: a flood of invented names pushes out only other inventions."""
    pa = alone().meet("PB", "PC")
    for number in range(limits.PEERS_MAX + 50):
        name = "Q" + "".join("ABCDEFGHJK"[int(digit)] for digit in str(number))
        pa.node.membership.learn(name, (), pa.now)
    peers = pa.node.membership.peers
    assert len(peers) == limits.PEERS_MAX and "PB" in peers and "PC" in peers and name in peers


def test_a_peers_own_word_stands_before_hearsay() -> None:
    """SPEC B5: in the DHT anybody may announce anything of anybody."""
    pa = alone()
    pa.told(pa.beacon("PB", addresses=["/own"]))
    lies = tuple(f"/lie/{number}" for number in range(40))
    (learn,) = [e for e in pa.node.handle(ev.PeerLearned("PB", lies), pa.now) if isinstance(e, ef.Learn)]
    assert learn.addresses[0] == "/own" and not learn.own_word
    assert pa.node.membership.peers["PB"].addresses == ("/own", *lies[: limits.ADDRESSES_MAX - 1])


def test_a_peer_that_is_back_at_an_address_of_before_is_learnt_there() -> None:
    """SPEC B5: what the network is told last is what it dials first, and what a restart goes by."""
    pa, learnt = alone(), []
    for address in ("/home", "/office", "/home"):
        beacon = pa.beacon("PB", addresses=[address])
        learnt += [e for e in pa.node.handle(beacon, pa.now) if isinstance(e, ef.Learn)]
    assert learnt == [ef.Learn("PB", (address,), own_word=True) for address in ("/home", "/office", "/home")]
    late = pa.beacon("PB", incarnation=0, addresses=["/long-ago"])
    assert not any(isinstance(e, ef.Learn) for e in pa.node.handle(late, pa.now))


def test_who_moves_says_so_at_once() -> None:
    """SPEC B2: others dial what the newest beacon says."""
    pa = alone().meet("PB")
    pa.told(pa.after(6)).skip()
    beacons(pa, "PB")
    pa.told(ev.AddressesChanged(("/new",), "new:1"))
    pa.told(pa.after(0.06)).skip()
    (beacon,) = beacons(pa, "PB")
    assert (beacon.addresses, beacon.bulk) == (["/new"], "new:1")


def test_addresses_are_learnt_once_and_bounded() -> None:
    """SPEC B5."""
    pa = alone()
    first = pa.node.handle(ev.PeerLearned("PC", ("/a",)), pa.now)
    assert ef.Learn("PC", ("/a",)) in first
    assert not any(isinstance(e, ef.Learn) for e in pa.node.handle(ev.PeerLearned("PC", ("/a",)), pa.now))
    pa.told(ev.PeerLearned("PC", tuple(f"/{n}" for n in range(40))))
    assert len(pa.node.membership.peers["PC"].addresses) == limits.ADDRESSES_MAX
    assert pa.node.handle(ev.PeerLearned("PA", ("/self",)), pa.now) == []


def test_trust_follows_the_beacons() -> None:
    """SPEC B8: the bulk plane lets in whoever told its certificate under its own signature."""
    pa = alone()
    effects = pa.node.handle(pa.beacon("PB", bulk="10.0.0.2:9", certificate=b"der"), pa.now)
    assert ef.Trust((("PB", "10.0.0.2:9", b"der"),)) in effects
    assert not any(
        isinstance(e, ef.Trust) for e in pa.node.handle(pa.beacon("PB", bulk="10.0.0.2:9", certificate=b"der"), pa.now)
    )


def test_the_living_are_introduced_first() -> None:
    """SPEC B5: an answer that is cut short should help."""
    pa = alone().meet("PC")
    pa.told(pa.after(30), pa.beacon("PB"))
    names = [m.open_envelope(data).sender for data in pa.node.membership.envelopes()]
    assert names == ["PB", "PC"]


def test_who_answers_for_bytes_that_are_no_message() -> None:
    """SPEC W4-W6: the neighbour for what it delivers, the author for what it signed."""
    pa = alone().meet("PB", "PC")
    good = pa.beacon("PB").data
    pa >> ev.MessageReceived("PC", b"\x00\xff")
    assert pa.unread and isinstance(pa.unread[0], ef.PeerFault) and pa.unread.pop(0).peer == "PC"
    pa >> ev.MessageReceived("PC", good)
    pa << "fault PC: it is PB's and was not relayed"
    pa >> ev.MessageReceived(
        "PB",
        m.seal(hash_of("other run"), "PB", m.open_message(m.open_envelope(good), TagCrypto("PB")), TagCrypto("PB")),
    )
    pa << "fault PB: it is of another run"
    envelope = m.open_envelope(good)
    pa >> ev.MessageReceived("PB", m.encode(m.Envelope(RUN, "PB", envelope.body, bytes(64))))
    pa << "fault PB: the signature is not PB's, or the run's id is not known to it"
    prepare = pa.says("PB", m.Prepare(pa.history.head.at, m.Ballot(0, "PB")))
    pa >> ev.MembersReceived("PC", (prepare.data,))
    pa << "fault PC: only beacons can be introduced"
    pa >> pa.says("PA", m.Prepare(pa.history.head.at, m.Ballot(0, "PA")))
    pa.silent()  # our own words, come back
