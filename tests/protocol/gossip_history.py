"""Histories of runs whose rounds are decided in groups, made by hand as history.py makes others."""

from intellectd.protocol import messages as m
from intellectd.protocol.collectives import together
from intellectd.protocol.context import leader_order
from intellectd.protocol.entries import groups_root
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.proposal import Outcome, build_record, contributions, next_blob, next_voters
from intellectd.protocol.records import (
    Collective,
    Entry,
    Member,
    Proposal,
    Vote,
    result_bytes,
    transfer_id,
)
from tests.protocol.history import RUN, UPDATE_BYTES, History, ready_of, run_config
from tests.sim.tags import TagCrypto

FOUR, SIX = ("PA", "PB", "PC", "PD"), ("PA", "PB", "PC", "PD", "PE", "PF")
MINE = Ballot(0, "PA")


def gossip(every: int = 3, until: int | None = None, **swarm: int) -> History:
    outer: dict[str, object] = {"schedule": "gossip", "gossip": {"exact_every": every, "group_size": 2}}
    return History(run_config(swarm, until, outer))


def led(*peers: str, every: int = 3) -> History:
    """PA leads the first attempt of round 1."""
    for nonce in range(1000):
        outer: dict[str, object] = {"schedule": "gossip", "gossip": {"exact_every": every, "group_size": 2}}
        run = History(run_config(outer=outer), nonce=nonce)
        run.opening(*peers)
        if leader_order(run.head.voters, run.head.hash)[0] == "PA":
            return run
    raise AssertionError("no nonce gives that order")


def part(run: History, members: list[str]) -> Collective:
    roots = {p: ready_of(run.head, p, run.state).delta_root for p in members}
    return Collective([Member(p, 100, roots[p]) for p in members], "ring", [])


def name_and_root(run: History, members: list[str]) -> tuple[bytes, bytes]:
    name = transfer_id(run.head.at, part(run, members), run.head.codec)
    return name, hash_of("update", name)


def grouped(run: History, groups: list[list[str]] | None = None, able: tuple[str, ...] = ()) -> Proposal:
    """What a leader proposes of these groups (by default those that are drawn), each signed by all of its members."""
    groups = run.head.groups if groups is None else groups
    peers = [peer for group in groups for peer in group]
    ready = {peer: ready_of(run.head, peer, run.state) for peer in peers}
    roots = tuple(name_and_root(run, group)[1] for group in groups)
    outcome = Outcome(together([part(run, group) for group in groups]), groups_root(roots), UPDATE_BYTES, roots)
    contributed = contributions(outcome, ready)
    able = able or tuple(peers)
    blob = next_blob(run.head, contributed, able, [])
    record = build_record(run.head, outcome, blob, next_voters(run.head, contributed, [], able), run.state)
    results = [result_of(run, peer, group) for group in groups for peer in group]
    return Proposal(record, blob, [Vote(r[0], r[1].signature) for r in results])


def result_of(run: History, by: str, group: list[str]) -> tuple[str, m.Result]:
    name, root = name_and_root(run, group)
    signature = TagCrypto(by).sign(result_bytes(RUN, run.head.at, name, root))
    return by, m.Result(run.head.at, name, root, UPDATE_BYTES, signature)


def round_of(run: History, groups: list[list[str]] | None = None, able: tuple[str, ...] = ()) -> Entry:
    return run.decide(grouped(run, groups, able))
