"""What must hold of newcomers that warm up, in a form of its own: looked up in the whole line, again for each record.

Owns the rule of SPEC R15 as an observer sees it. Refuses to know how weights are planned.
"""

from intellectd.protocol.manifest import RunConfig
from intellectd.protocol.records import Entry
from tests.sim.groups import members_by_root
from tests.sim.violation import Violation


class Warmth:
    def __init__(self, config: RunConfig) -> None:
        self.rounds = config.swarm.warmup
        self.idle = 0  # contributions that counted nothing

    def decided(self, entry: Entry, line: list[Entry]) -> None:
        """`line` is what it follows, newest last."""
        tokens = {c.peer: c.tokens for c in entry.blob.contributions}
        grouped = entry.record.schedule == "gossip"
        for members in members_by_root(entry).values() if grouped else [list(tokens)]:
            warming = [peer for peer in members if self._warms(peer, line)]
            idle = [peer for peer in members if not tokens[peer]]
            self.idle += len(idle)
            if idle != (warming if len(warming) < len(members) else []):
                raise Violation(f"in round {entry.record.round} {idle} count nothing, and {warming} warm up")

    def _warms(self, peer: str, line: list[Entry]) -> bool:
        """Were there fewer rounds with it than that since it was named anew?"""
        done = 0
        for entry in reversed(line):
            if peer not in [a.peer for a in entry.blob.assignments]:
                return done < self.rounds
            if entry.record.round == 0:
                return False
            done += peer in [c.peer for c in entry.blob.contributions]
        return False
