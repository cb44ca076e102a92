"""Every field of everything that a peer sends, out of its bounds one at a time: refused, blamed, and without effect.

SPEC T1-T7, W2, W3, W6. The fields are read from the types, so that none is forgotten; a value inside the bounds that
is wrong for another reason is test_hostile.py's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.entries import Group, Pending
from intellectd.protocol.ids import Ballot, Stream, encode, hash_of
from tests.protocol import puppets as say
from tests.protocol.history import RUN, ready_of
from tests.protocol.test_hostile import following
from tests.sim.tags import TagCrypto

WHOLE = ("Envelope.body", "MembersAnswer.beacons[]")  # as long as the transport lets them be (W7)
TOO_LARGE = (2**63, 2**64 - 1)
OTHER_TYPES: tuple[Any, ...] = (None, True, 1.5, "x", b"x", 7, [], {})


@dataclass(frozen=True)
class Spot:
    """A value somewhere in a message: how to get there, and what its type may be."""

    path: tuple[int, ...]
    owner: str  # the structure and the field, for the tally
    kind: inspect.Type
    also: tuple[type, ...]  # what else may stand there


def spots(kind: inspect.Type, tree: Any, path: tuple[int, ...] = (), owner: str = "") -> Iterator[Spot]:
    """Every value of the tree, with the type that it must have."""
    also: tuple[type, ...] = ()
    if isinstance(kind, inspect.UnionType):
        kind, among = next(part for part in kind.types if fits(part, tree)), kind.types
        also = tuple(FINE[type(part)] for part in among if part is not kind and type(part) is not type(kind))
    if isinstance(kind, inspect.NoneType):
        return
    yield Spot(path, owner, kind, also)
    if isinstance(kind, inspect.StructType):
        first = int(kind.tag is not None)
        for place, field in enumerate(kind.fields):
            name = f"{kind.cls.__name__}.{field.name}"
            yield from spots(field.type, tree[first + place], (*path, first + place), name)
    elif isinstance(kind, inspect.ListType):
        for place, item in enumerate(tree[:1]):  # one is as good as another
            yield from spots(kind.item_type, item, (*path, place), owner + "[]")


def fits(kind: inspect.Type, tree: Any) -> bool:
    if isinstance(kind, inspect.NoneType):
        return tree is None
    if isinstance(kind, inspect.StructType) and kind.tag is not None:
        return isinstance(tree, list) and tree[0] == kind.tag
    return type(tree) is FINE[type(kind)]


FINE: dict[type, type] = {
    inspect.IntType: int,
    inspect.BoolType: bool,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.ListType: list,
    inspect.StructType: list,
    inspect.NoneType: type(None),
}


def bad(spot: Spot, good: Any) -> Iterator[Any]:
    """Values that this type refuses: of other types, and just beyond its bounds."""
    kind = spot.kind
    fine = (FINE[type(kind)], *(kind for kind in spot.also if kind is not list))  # no list of none has a group's fields
    yield from (other for other in OTHER_TYPES if type(other) not in fine)
    if isinstance(kind, inspect.IntType):
        assert kind.ge is not None and kind.le is not None, f"{spot.owner}: a number without a bound"
        yield from (kind.ge - 1, kind.le + 1, *TOO_LARGE, -(2**63))
    elif isinstance(kind, inspect.StrType):
        yield "x" * (longest(spot) + 1)
        if kind.pattern:
            yield from ("", good[:-1] + "\n", good + "\n", good[:-1] + "é", good[:-1] + "\0", good[:-1] + " ")
    elif isinstance(kind, inspect.BytesType):
        if spot.owner not in WHOLE:
            yield bytes(longest(spot) + 1)
        if kind.min_length:
            yield bytes(kind.min_length - 1)
    elif isinstance(kind, inspect.ListType):
        yield [good[0] if good else 0] * (longest(spot) + 1)
        if kind.min_length:
            yield good[: kind.min_length - 1]
    elif isinstance(kind, inspect.StructType):
        yield from ([], good[:-1], [*good, 0])
        if kind.tag is not None:
            yield from ([other, *good[1:]] for other in ("relai", "", 0, None, str(kind.tag).upper()))


def longest(spot: Spot) -> int:
    assert isinstance(spot.kind, inspect.StrType | inspect.BytesType | inspect.ListType)
    assert spot.kind.max_length is not None, f"{spot.owner} has no bound"
    return spot.kind.max_length


def replaced(tree: Any, path: tuple[int, ...], value: Any) -> Any:
    if not path:
        return value
    copy = list(tree)
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


def at(tree: Any, path: tuple[int, ...]) -> Any:
    return at(tree[path[0]], path[1:]) if path else tree


def full() -> list[m.AnyMessage]:
    """Every message, with something in each of its lists, also where no honest host has it at once."""
    run, pa = following()
    ballot, value = Ballot(0, "PB"), say.proposal(run, "PB", "PA", "PC")
    pending, stream = Pending("PA", Stream(0, 0), 0), Stream(0, 0)
    blob = msgspec.structs.replace(value.blob, pending=[pending], unconsumed=[stream], lives=[1])
    record = msgspec.structs.replace(value.record, shape=[Group(3, hash_of("group"))])
    value = msgspec.structs.replace(value, blob=blob, record=record)
    entry = msgspec.structs.replace(run.certify(value), blob=blob)
    ready = ready_of(run.head, "PB", run.state)
    transfer = m.Transfer(hash_of("transfer"), 1, 2)
    lists: dict[str, object] = {"addresses": ["/ip4/1.2.3.4/tcp/1"], "snapshots": [0], "links": [m.Link("PA", 9, 8)]}
    beacon = pa.beacon("PB", ready=ready, transfer=transfer, **lists).data
    done = say.collective(run, "PB", "PA", "PC")
    return [
        m.open_message(m.open_envelope(beacon), TagCrypto("PB")),
        say.prepare(run, ballot),
        say.promise(run, ballot, accepted=(ballot, value), completed=done, silent=["PC"]),
        m.Refuse(run.head.at, ballot, ballot, "no"),
        say.plan(run, ballot, "PB", "PA", "PC", shares=(3, 2, 1)),
        say.result(run, "PB", "PB", "PA", "PC"),
        say.abort(run, ballot, "PC"),
        say.accept(run, ballot, value),
        say.accepted(run, "PB", ballot, value),
        m.Commit(entry),
        m.Relay("PC", m.seal(RUN, "PB", say.prepare(run, ballot), TagCrypto("PB"))),
        m.Spread(["PC"], m.seal(RUN, "PB", say.plan(run, ballot, "PB", "PA", "PC"), TagCrypto("PB"))),
        m.Introduce([beacon]),
    ]


def fields_of(kind: inspect.Type, found: dict[str, None]) -> dict[str, None]:
    """`Structure.field` for everything in reach of this type."""
    if isinstance(kind, inspect.UnionType):
        for part in kind.types:
            fields_of(part, found)
    elif isinstance(kind, inspect.ListType):
        fields_of(kind.item_type, found)
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            found[f"{kind.cls.__name__}.{field.name}"] = None
            fields_of(field.type, found)
    return found


def wrong(message: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """(which field, the whole tree with that one replaced)."""
    tree = msgspec.msgpack.decode(encode(message))
    for spot in spots(inspect.type_info(type(message)), tree):
        for value in bad(spot, at(tree, spot.path)):
            if value is not None or type(None) not in spot.also:
                yield spot.owner or type(message).__name__, replaced(tree, spot.path, value)


def test_calls_and_envelopes_out_of_range_are_no_messages() -> None:
    """SPEC W1, W3, W10."""
    _, pa = following()
    sealed = pa.ready("PB").data
    entry = next(message.entry for message in full() if isinstance(message, m.Commit))
    for call in (
        m.open_envelope(sealed),
        m.EntriesRequest(RUN, RUN, RUN, 3),
        m.EntriesAnswer([entry]),
        m.RunRequest(RUN, RUN),
        m.MembersAnswer([sealed]),
    ):
        assert m.decode(encode(call), type(call)) == call
        for _, tree in wrong(call):
            with pytest.raises(m.BadMessage):
                m.decode(msgspec.msgpack.encode(tree), type(call))


def test_the_samples_reach_every_field_of_every_message() -> None:
    reached: dict[str, None] = {}
    for message in full():
        tree = msgspec.msgpack.decode(encode(message))
        reached |= {spot.owner: None for spot in spots(inspect.type_info(type(message)), tree)}
    every: dict[str, None] = {}
    for kind in get_args(m.AnyMessage):
        every = fields_of(inspect.type_info(kind), every)
    assert [name for name in every if name not in reached] == [] and len(every) > 90
    kinds = [type(message) for message in full()]
    assert sorted(kinds, key=str) == sorted(get_args(m.AnyMessage), key=str)


@pytest.mark.parametrize("message", full(), ids=lambda message: type(message).__name__.lower())
def test_a_field_out_of_range_is_its_senders_fault_and_does_nothing(message: m.AnyMessage) -> None:
    """SPEC T1-T7, W3, W4: the peer is named, with the reason, and the round goes on."""
    run, pa = following()
    crypto, before = TagCrypto("PB"), repr(pa.node.round.parts.acceptor.promised)
    for field, tree in wrong(message):
        body = msgspec.msgpack.encode(tree)
        data = encode(m.Envelope(RUN, "PB", body, crypto.sign(m.signed_bytes(crypto.secret, body))))
        pa.told(ev.MessageReceived("PB", data))
        done = pa.skip()
        assert [type(effect) for effect in done] == [ef.PeerFault], (field, tree)
        assert (done[0].peer, done[0].kind) == ("PB", "bytes") and done[0].reason.startswith("not a valid "), field
    assert repr(pa.node.round.parts.acceptor.promised) == before
    pa >> pa.says("PB", say.prepare(run, Ballot(0, "PB")))
    pa << "on disk: promised 0.PB" << "to PB: promise 0.PB"
