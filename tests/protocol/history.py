"""Valid logs for tests, made by hand: a manifest, an opening, rounds with named contributors, all certified.

States are a hash chain, as in the simulator: state after a round = hash(state before, update).
"""

from collections.abc import Sequence

from intellectd.protocol.collectives import DIRECT_ONLY, allowed
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, Ballot, Stream, hash_of
from intellectd.protocol.manifest import Manifest, RunConfig, Tensor, canonical, config_from_toml
from intellectd.protocol.messages import Ready
from intellectd.protocol.proposal import NOTHING, Outcome, build_record, contributions, next_blob, next_voters
from intellectd.protocol.records import (
    Certificate,
    Collective,
    Entry,
    Member,
    Proposal,
    Vote,
    accepted_bytes,
    record_hash,
    result_bytes,
    transfer_id,
)
from intellectd.protocol.warmup import weighed
from tests.sim.tags import TagCrypto

RUN = hash_of("test-run")
THETA0 = hash_of("test-theta-0")
UPDATE_BYTES = 260  # one block of int8: 256 codes and a scale
TIMERS = {"beacon_s": 5.0, "suspect_s": 15.0, "expel_s": 60.0, "attempt_s": 10.0, "stall_s": 10.0}


def run_config(
    swarm: dict[str, int] | None = None,
    until: int | None = None,
    outer: dict[str, object] | None = None,
    **timers: float,
) -> RunConfig:
    data: dict[str, object] = {"name": "test", "swarm": swarm or {}, "timers": {**TIMERS, **timers}}
    data |= {"outer": outer} if outer else {}
    return config_from_toml({**data, "inner": {"steps": 10}, "until": {"rounds": until} if until else {}})


def manifest_of(config: RunConfig, founder: str, nonce: int = 0) -> Manifest:
    tensors = [Tensor("w", [256])]
    return Manifest(1, canonical(config), "KEY", nonce.to_bytes(32, "big"), [founder], tensors, THETA0)


def ready_of(head: Head, peer: str, state: bytes, tokens: int = 100, streams: list[Stream] | None = None) -> Ready:
    """What an honest peer would say when its work of the coming round is done."""
    given = head.assignment(peer)
    used = streams if streams is not None else (list(given.streams) if given else [])
    root = hash_of("delta", peer.encode(), head.hash)
    return Ready(head.at, state, tokens, 10, "3f800000", root, used)


class History:
    def __init__(self, config: RunConfig | None = None, founder: str = "PA", nonce: int = 0) -> None:
        self.manifest = manifest_of(config or run_config(), founder, nonce)
        self.head = Head(self.manifest, RUN, None)
        self.entries: list[Entry] = []
        self.states = {-1: THETA0}
        self.heads = {-1: self.head}

    @property
    def state(self) -> bytes:
        """The digest after the head."""
        return self.states[self.head.round]

    def opening(self, *able: str) -> Entry:
        return self.decide(self.proposal(NOTHING, {}, able))

    def round(self, *members: str, able: Sequence[str] | None = None, gone: Sequence[str] = ()) -> Entry:
        """One round to which these contributed; `able` (default: the members) are named for the next."""
        ready = {peer: ready_of(self.head, peer, self.state) for peer in members}
        return self.decide(self.proposal(self.outcome(ready), ready, members if able is None else able, gone))

    def outcome(self, ready: dict[str, Ready]) -> Outcome:
        members = weighed([Member(peer, r.tokens, r.delta_root) for peer, r in ready.items()], self.head.warming)
        if not members:
            return NOTHING
        direct = allowed(self.head.config.outer) == DIRECT_ONLY
        collective = Collective(members, "direct", [1] * len(members)) if direct else Collective(members, "ring", [])
        transfer = transfer_id(self.head.at, collective, self.head.codec)
        return Outcome(collective, hash_of("update", transfer), UPDATE_BYTES)

    def proposal(
        self,
        outcome: Outcome,
        ready: dict[str, Ready],
        able: Sequence[str],
        gone: Sequence[str] = (),
        state: bytes | None = None,
    ) -> Proposal:
        contributed = contributions(outcome, ready)
        blob = next_blob(self.head, contributed, able, gone)
        voters = next_voters(self.head, contributed, list(gone), able)
        record = build_record(self.head, outcome, blob, voters, state or self.state)
        message = result_bytes(RUN, self.head.at, record.transfer, record.update_root)
        return Proposal(record, blob, [Vote(peer, TagCrypto(peer).sign(message)) for peer in sorted(ready)])

    def certify(self, proposal: Proposal, voters: Sequence[str] | None = None, ballot: Ballot | None = None) -> Entry:
        """The entry that these voters (default: all) signed."""
        ballot = ballot or Ballot(0, self.head.voters[0])
        message = accepted_bytes(RUN, self.head.at, ballot, record_hash(proposal.record))
        signers = self.head.voters if voters is None else voters
        votes = [Vote(voter, TagCrypto(voter).sign(message)) for voter in sorted(signers)]
        return Entry(proposal.record, proposal.blob, Certificate(ballot, votes))

    def after(self, proposal: Proposal) -> bytes:
        """The digest of the state that this would lead to."""
        root, grouped = proposal.record.update_root, proposal.record.schedule == "gossip"
        return self.state if root == NO_HASH or grouped else hash_of("state", self.state, root)

    def decide(self, proposal: Proposal) -> Entry:
        return self.decide_entry(self.certify(proposal))

    def decide_entry(self, entry: Entry) -> Entry:
        state = self.after(Proposal(entry.record, entry.blob, []))
        self.entries.append(entry)
        self.head = self.head.next(entry)
        self.heads[self.head.round], self.states[self.head.round] = self.head, state
        return entry
