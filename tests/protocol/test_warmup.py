"""A newcomer's delta weighs nothing in its first rounds, by the log alone. SPEC R15."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.branch import fork
from intellectd.protocol.context import leader_order
from intellectd.protocol.entries import Collective, Member
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.manifest import BadManifest, canonical, config_from_toml, config_of, float32_hex
from intellectd.protocol.records import BadRecord, check_proposal
from intellectd.protocol.warmup import misweighed, weighed
from tests.protocol import puppets as say
from tests.protocol.history import TIMERS, History, ready_of
from tests.protocol.playbook import Host, describe, opened
from tests.sim.tags import TagCrypto

ROOT = hash_of("delta")


def members(**tokens: int) -> list[Member]:
    return [Member(peer, count, ROOT) for peer, count in tokens.items()]


def run(warmup_rounds: int = 2, **more: object) -> History:
    given = {"warmup_rounds": warmup_rounds, "start_peers": 2, **more}
    return History(config_from_toml({"name": "warm", "swarm": given, "timers": TIMERS, "inner": {"steps": 10}}))


def contributed(history: History) -> dict[str, int]:
    return {c.peer: c.tokens for c in history.entries[-1].blob.contributions}


def grown(names: Sequence[str] = ("PA", "PB")) -> History:
    history = run()
    history.opening(*names)
    history.round(*names)
    return history


# ---- who warms up


def test_a_newcomer_counts_after_so_many_rounds_that_it_was_in() -> None:
    """SPEC R15: the opening's own count at once; a round that it missed is none of them."""
    history = grown()
    assert history.head.warming == {} and contributed(history) == {"PA": 100, "PB": 100}
    history.round("PA", "PB", able=("PA", "PB", "PC"))
    assert history.head.warming == {"PC": 2}
    history.round("PA", "PB", "PC")
    assert history.head.warming == {"PC": 1} and contributed(history) == {"PA": 100, "PB": 100, "PC": 0}
    history.round("PA", "PB", able=("PA", "PB", "PC"))
    assert history.head.warming == {"PC": 1}
    history.round("PA", "PB", "PC")
    assert history.head.warming == {} and contributed(history)["PC"] == 0
    before = history.head.tokens_total
    history.round("PA", "PB", "PC")
    assert contributed(history)["PC"] == 100 and history.head.tokens_total == before + 300


def test_who_was_away_warms_up_anew() -> None:
    """SPEC R15: whoever is not assigned has gone, and comes back as a newcomer."""
    history = grown(("PA", "PB", "PC"))
    history.round("PA", "PB")
    assert history.head.assignment("PC") is None
    history.round("PA", "PB", able=("PA", "PB", "PC"))
    assert history.head.warming == {"PC": 2}
    history.round("PA", "PB")
    assert history.head.warming == {}


def test_survivors_of_a_branch_do_not_warm_up() -> None:
    """SPEC R15, G2: they were assigned before; another that it names was not."""
    history = run(on_quorum_loss="fork")
    history.opening("PA", "PB", "PC")
    history.round("PA", "PB", "PC")
    history.decide_entry(fork(history.head, ["PB", "PC", "PD"], history.state, "PB", TagCrypto("PB")))
    assert history.head.warming == {"PD": 2}


def test_without_the_option_nobody_does() -> None:
    """SPEC R15, M3: and the manifest is the one it was before there was such an option."""
    plain, none = config_from_toml({"name": "a"}), config_from_toml({"name": "a", "swarm": {"warmup_rounds": 0}})
    assert canonical(plain) == canonical(none) and "warmup_rounds" not in canonical(plain)
    assert plain.swarm.warmup == none.swarm.warmup == 0
    assert config_of(run(3).manifest).swarm.warmup == 3
    with pytest.raises(BadManifest, match=r"swarm\.warmup_rounds"):
        config_from_toml({"name": "a", "swarm": {"warmup_rounds": -1}})
    history = run(0)
    history.opening("PA", "PB")
    history.round("PA", "PB", able=("PA", "PB", "PC"))
    assert history.head.warming == {}


# ---- what it makes of weights


def test_weights() -> None:
    """SPEC R15: nothing, but where there would be no mean."""
    warming = {"PC": 1, "PD": 2}
    two = members(PA=5, PC=7)
    assert weighed(two, warming) == members(PA=5, PC=0) and weighed(two, {}) == two
    assert weighed(members(PC=7, PD=8), warming) == members(PC=7, PD=8)

    def bad(*parts: list[Member]) -> bool:
        return misweighed([Collective(part, "ring", []) for part in parts], warming)

    assert not bad(members(PA=5, PC=0)) and not bad(members(PC=7, PD=8)) and not bad(members(PA=5), members(PC=7))
    assert bad(members(PA=5, PC=7)) and bad(members(PA=0, PC=0)) and bad(members(PC=0, PD=8))
    assert bad(members(PA=5, PC=0), members(PC=0)), "each group has a mean of its own"


def test_a_record_counts_those_that_count() -> None:
    """SPEC R4, R15, R9: the rate is of as many; the newcomer's data goes back and is handed out anew."""
    history = grown()
    history.round("PA", "PB", able=("PA", "PB", "PC"))
    given = history.head.assignment("PC")
    assert given is not None
    entry = history.round("PA", "PC", able=("PA", "PC"))
    assert entry.record.lr == float32_hex(0.4), "of one"
    newcomer = next(c for c in entry.blob.contributions if c.peer == "PC")
    assert newcomer.streams == [] and newcomer.steps == 10
    handed = [s for a in entry.blob.assignments for s in a.streams] + entry.blob.unconsumed
    assert given.streams[0] in handed
    assert "PC" in entry.record.next_voters


@pytest.mark.parametrize("warming", [{}, {"PA": 1}, {"PA": 1, "PC": 1}])
def test_records_that_weigh_otherwise_are_not_valid(warming: dict[str, int]) -> None:
    """SPEC R15: the newcomer counts, an old hand counts nothing; whatever a leader says of who warms up."""
    history = grown()
    history.round("PA", "PB", able=("PA", "PB", "PC"))
    ready = {peer: ready_of(history.head, peer, history.state) for peer in ("PA", "PB", "PC")}
    for said, good in ((history.head.warming, True), (warming, False)):
        history.head.warming = said
        value = history.proposal(history.outcome(ready), ready, ("PA", "PB", "PC"))
        history.head.warming = {"PC": 2}
        if good:
            check_proposal(history.head, value.record, value.blob)
            continue
        with pytest.raises(BadRecord, match="counts while it warms up"):
            check_proposal(history.head, value.record, value.blob)


# ---- in the machines


def warm(leader: str) -> History:
    """PA, PB and the newcomer PC, at whose first round this one leads the first attempt."""
    for nonce in range(100):
        history = History(config_of(run().manifest), nonce=nonce)
        history.opening("PA", "PB")
        history.round("PA", "PB", able=("PA", "PB", "PC"))
        if leader_order(history.head.voters, history.head.hash)[0] == leader:
            return history
    raise AssertionError("no nonce gives that order")


def test_the_leader_plans_a_newcomer_without_tokens() -> None:
    """SPEC R15, C2: though it says to have done as much as the others."""
    history = warm("PA")
    pa = Host(history).meet("PB", "PC").work()
    pa.told(pa.ready("PB"), pa.ready("PC")).skip()
    pa.told(pa.says("PB", say.promise(history, Ballot(0, "PA"))), pa.after(limits.PROMISE_GRACE_S))
    said = [opened(effect) for effect in pa.skip() if isinstance(effect, ef.Send)]
    plan = next(message for message in said if isinstance(message, m.Plan))
    assert {x.peer: x.tokens for x in plan.members} == {"PA": 100, "PB": 100, "PC": 0}


def test_the_newcomer_takes_part_as_planned_and_not_otherwise() -> None:
    """SPEC R15, C3: its delta is taken as it is; a leader that would count it is at fault."""
    history = warm("PB")
    pc = Host(history, "PC").meet("PA", "PB").work()
    root = ready_of(history.head, "PC", history.state).delta_root
    honest = say.plan(history, Ballot(0, "PB"), "PA", "PB", "PC")
    counts = [replace(x, tokens=100) for x in honest.members]
    greedy = replace(honest, collective=replace(honest.collective, members=counts))
    pc.told(pc.says("PB", greedy))
    assert pc.one(ef.PeerFault).reason.endswith("a member is planned without tokens, or counts while it warms up")
    pc.told(pc.says("PB", honest))
    started = pc.one(ef.StartTransfer)
    assert dict(zip(started.members, started.weights, strict=True)) == {"PA": 100, "PB": 100, "PC": 0}
    assert pc.node.progress.ready is not None and pc.node.progress.ready.delta_root == root
    entry = history.round("PA", "PB", "PC")
    pc.told(ev.TransferEnded(started.transfer, entry.record.update_root, entry.record.update_bytes)).skip()
    pc.told(ev.MessageReceived("PB", pc.sealed("PB", entry)))
    assert f"apply round {entry.record.round}, adopt" in [describe(effect) for effect in pc.skip()]
    assert pc.node.catchup.window.newest_delta(0) != root, "it did not count, so nothing of it is fed back"
