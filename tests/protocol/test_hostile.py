"""A member that lies: valid messages with a part changed, signed by itself. Nothing it says raises or blames others.

SPEC W4, W6. The scenes are moments of a round; PB, a voter, is the one that turned.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.ids import NO_HASH, Ballot, encode, hash_of
from tests.protocol import puppets as say
from tests.protocol.history import RUN, ready_of
from tests.protocol.playbook import History, Host, swarm
from tests.sim.tags import TagCrypto

Scene = tuple[History, Host]
THEIRS = Ballot(0, "PB")


def following() -> Scene:
    run = swarm("PB", "PA", "PC")
    pa = Host(run).meet("PB", "PC").work()
    pa.told(pa.ready("PB"), pa.ready("PC")).skip()
    return run, pa


def in_the_ring() -> Scene:
    run, pa = following()
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, "PB", "PA", "PC"))).skip()
    return run, pa


def owing_a_vote() -> Scene:
    run, pa = in_the_ring()
    pa.told(pa.says("PB", say.accept(run, THEIRS, say.proposal(run, "PB", "PA", "PC")))).skip()
    return run, pa


def leading() -> Scene:
    run = swarm("PA", "PB", "PC")
    pa = Host(run).meet("PB", "PC").work()
    pa.told(pa.ready("PB"), pa.ready("PC")).skip()
    return run, pa


def leading_a_ring() -> Scene:
    run, pa = leading()
    for peer in ("PB", "PC"):
        pa.told(pa.says(peer, say.promise(run, Ballot(0, "PA"))))
    pa.skip()
    return run, pa


def leading_a_vote() -> Scene:
    run, pa = leading_a_ring()
    members = [x.peer for x in pa.node.round.leading.members()]
    pa.told(pa.says("PC", say.result(run, "PC", *members)), say.ended(run, *members)).skip()
    return run, pa


def joining() -> Scene:
    run = swarm("PB", "PA", "PC", rounds=2)
    return run, Host(run, applied=-2, entries=run.entries[:1])


SCENES = [following, in_the_ring, owing_a_vote, leading, leading_a_ring, leading_a_vote, joining]


def everything(run: History, pa: Host) -> list[m.AnyMessage]:
    """What PB could say at any moment, all of it well-formed."""
    mine, value = Ballot(0, "PA"), say.proposal(run, "PB", "PA", "PC")
    members = [x.peer for x in pa.node.round.leading.members()] or ["PB", "PA", "PC"]
    beacon = m.open_message(m.open_envelope(pa.ready("PB").data), TagCrypto("PB"))
    return [
        beacon,
        say.prepare(run, THEIRS),
        say.promise(run, mine),
        say.promise(run, mine, accepted=(THEIRS, value), completed=say.collective(run, *members), silent=["PC"]),
        m.Refuse(run.head.at, mine, Ballot(3, "PC"), "no"),
        say.plan(run, THEIRS, "PB", "PA", "PC"),
        say.result(run, "PB", *members),
        say.abort(run, mine, "PC"),
        say.abort(run, THEIRS, "PA", silent=True),
        say.accept(run, THEIRS, value),
        say.accepted(run, "PB", mine, value),
        say.commit(run, value),
        m.Relay("PC", b"x"),
        m.Spread(["PC"], b"x"),
        m.Introduce([b"x"]),
    ]


STRANGE: list[Any] = [
    0, 1, -1, 2**40, 2**53, 2**63, -(2**63), None, True, "", "PA", "PZ", "ring", "direct", "torus", [1, 1, 1], "é", b"",
    bytes(32), hash_of("strange"), bytes(64), [], [[]], {}, 1.5, float("nan"), "ffffffff", "7fc00000",
]  # fmt: skip


def changed(value: Any, rng: Random, pool: list[Any]) -> Any:
    """The same tree with one place changed: replaced, dropped, doubled, or taken from another message."""
    if isinstance(value, list) and value and rng.random() < 0.9:
        copy, at = list(value), rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.08:
            del copy[at]
        elif kind < 0.16:
            copy.insert(at, copy[at])
        else:
            copy[at] = changed(copy[at], rng, pool)
        return copy
    same = [other for other in pool if type(other) is type(value)]
    return rng.choice(same) if same and rng.random() < 0.6 else rng.choice(STRANGE)


def leaves(value: Any) -> list[Any]:
    return [value, *(leaf for item in value for leaf in leaves(item))] if isinstance(value, list) else [value]


def lie(message: m.AnyMessage, rng: Random, pool: list[Any]) -> ev.MessageReceived:
    tree = msgspec.msgpack.decode(encode(message))
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        tree = changed(tree, rng, pool)
    body = msgspec.msgpack.encode(tree)
    crypto = TagCrypto("PB")
    return ev.MessageReceived(
        "PB", encode(m.Envelope(RUN, "PB", body, crypto.sign(m.signed_bytes(crypto.secret, body))))
    )


@pytest.mark.parametrize("scene", SCENES)
def test_lies_are_the_liars_fault(scene: Callable[[], Scene]) -> None:
    rng = Random(scene.__name__)
    for _ in range(8):
        run, pa = scene()
        honest = everything(run, pa)
        pool = [leaf for message in honest for leaf in leaves(msgspec.msgpack.decode(encode(message)))]
        for _ in range(60):
            pa.now += rng.choice([0.0, 0.0, 0.1, 3.0])
            pa.told(lie(rng.choice(honest), rng, pool), ev.Tick())
        blamed = [(e.peer, e.reason) for e in pa.skip() if isinstance(e, ef.PeerFault)]
        assert blamed and all(peer == "PB" for peer, _ in blamed)
        assert not pa.node.halted and not any(note.event == "restless" for note in pa.notes)


@pytest.mark.parametrize("scene", SCENES[:6])
def test_after_all_lies_a_round_is_still_decided(scene: Callable[[], Scene]) -> None:
    """PA and PC are a quorum: once the liar falls silent, they go on."""
    rng = Random(scene.__name__)
    run, pa = scene()
    pool = [leaf for message in everything(run, pa) for leaf in leaves(msgspec.msgpack.decode(encode(message)))]
    for _ in range(100):
        pa.told(lie(rng.choice(everything(run, pa)), rng, pool))
    pa.skip()
    if pa.node.head.round == run.head.round:
        assert decided_with_pc(run, pa)


def decided_with_pc(run: History, pa: Host) -> bool:
    """PC answers as an honest peer would, for as long as several attempts take."""
    for _ in range(120):
        pa.now += 1.0
        pa.told(pa.ready("PC"), ev.Tick())
        for effect in pa.skip():
            if isinstance(effect, ef.AppendEntry):
                return True
            if isinstance(effect, ef.StartTransfer):
                pa.told(ev.TransferEnded(effect.transfer, hash_of("sum", effect.transfer), 260))
            if isinstance(effect, ef.Send) and effect.peer == "PC":
                answer(run, pa, m.open_message(m.open_envelope(effect.data), TagCrypto("PA")))
            if isinstance(effect, ef.FetchUpdate):
                pa.told(ev.UpdateHeld(effect.root))
    return False


def answer(run: History, pa: Host, message: m.AnyMessage) -> None:
    if isinstance(message, m.Prepare):
        pa.told(pa.says("PC", say.promise(run, message.ballot)))
    elif isinstance(message, m.Plan):
        [(name, _)] = pa.node.round.parts.exchange.named(message.collective)
        pa.told(pa.says("PC", say.signed_result(run, "PC", name, hash_of("sum", name))))
    elif isinstance(message, m.Accept):
        pa.told(pa.says("PC", say.accepted(run, "PC", message.ballot, message.proposal)))


def test_what_lies_may_fill_stays_bounded() -> None:
    """SPEC L1: names, accusations, progress and transfers that a member makes up."""
    run, pa = in_the_ring()
    for number in range(300):
        name = "Q" + "".join("ABCDEFGHJK"[int(digit)] for digit in str(number))
        pa.told(pa.says("PB", m.Abort(run.head.at, THEIRS, name, True, "x")))
        moved = m.Transfer(hash_of(name), number, 1000)
        pa.told(pa.beacon("PB", state="ready", ready=ready_of(run.head, "PB", run.state), transfer=moved))
    parts = pa.node.round.parts
    tables = [*vars(parts.suspicion).values(), *vars(parts.exchange).values()]
    assert max(len(table) for table in tables if isinstance(table, dict)) <= len(run.head.blob.assignments)


def test_ready_words_that_do_not_count() -> None:
    """SPEC A3: another decision, no tokens, another's data, the same data twice."""
    run = swarm("PA", "PB")
    pa = Host(run).meet("PB")
    good = ready_of(run.head, "PB", run.state)
    theirs = run.head.allowed_streams("PA")
    for bad in (
        m.Ready(run.heads[-1].at, *parts(good)[1:]),
        ready_of(run.head, "PB", run.state, tokens=0),
        ready_of(run.head, "PB", run.state, streams=theirs),
        ready_of(run.head, "PB", run.state, streams=[*good.streams, *good.streams]),
        ready_of(run.head, "PB", NO_HASH),
    ):
        pa.told(pa.beacon("PB", state="ready", ready=bad))
        assert pa.node.round.parts.muster.ready("PB") is None
    pa.told(pa.beacon("PB", state="ready", ready=good))
    assert pa.node.round.parts.muster.ready("PB") == good


def parts(value: msgspec.Struct) -> list[Any]:
    return [getattr(value, name) for name in value.__struct_fields__]
