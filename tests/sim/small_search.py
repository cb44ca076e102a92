"""All states that a small agreement can come to, breadth first, and what must hold in each.

A state is every host's, the messages that were ever sent and may still matter, and the crashes left. No message leaves
that set by arriving: one that never arrives is lost, one that arrives again a duplicate, and they come in any order,
all without bound. small_steps.py says what can happen to one host. Refuses to know words.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from intellectd.protocol import messages as m
from intellectd.protocol.ids import At
from tests.sim.small import Disk, Event, Learn, Small
from tests.sim.small_steps import Outcome, Steps, bits
from tests.sim.truth import enough
from tests.sim.violation import Violation

STATES_MAX = 4_000_000  # about 500 bytes each
What = Event | int | None  # a choice of the host or a record that comes, the number of a message, or a crash
State = tuple[tuple[int, ...], int, int]  # of the hosts, messages, crashes left


@dataclass(frozen=True)
class Case:
    """What is searched."""

    voters: int = 3
    hosts: int = 0  # if more than voters: one without a vote gets it when a record names it
    rounds: int = 2  # the opening, then rounds with an update
    ballots: int = 2  # of each decision
    crashes: int = 1  # in all; each with a restart from the disk
    ring: int = 1  # members of a transfer
    refusals: bool = False  # they cut attempts short, which may happen anyway: they only add messages


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to the host in that place of the state."""

    state: State
    place: int
    what: What
    crashed: bool = False  # before it had done everything


@dataclass
class Found:
    case: Case
    states: int = 0
    transitions: int = 0
    depth: int = 0
    of_one_host: int = 0  # states, of any
    messages: int = 0
    complete: bool = False
    decided: dict[str, int] = field(default_factory=dict)  # states, by how many records each host has
    violation: str | None = None
    path: list[Step] = field(default_factory=list)
    seconds: float = 0.0


class Search:
    def __init__(self, case: Case) -> None:
        self.case = replace(case, hosts=max(case.hosts, case.voters))
        self.world = Small(case.voters, self.case.hosts, case.ring, case.refusals)
        self.steps = Steps(self.world, case.rounds, case.ballots, case.crashes > 0)
        self._from: dict[State, Step | None] = {}
        self._latest: Step | None = None

    def run(self, states_max: int = STATES_MAX) -> Found:
        began, found = time.perf_counter(), Found(self.case)
        try:
            self._search(found, states_max)
        except Violation as violation:
            found.violation, found.path = str(violation), self._path()
        found.states, found.seconds = len(self._from), round(time.perf_counter() - began, 2)
        found.of_one_host, found.messages = len(self.steps.locals), len(self.steps.messages)
        for lids, _, _ in self._from:
            key = " ".join(str(len(self.steps.locals[lid].log)) for lid in lids)
            found.decided[key] = found.decided.get(key, 0) + 1
        return found

    def _search(self, found: Found, states_max: int) -> None:
        start: State = (tuple(self.steps.start(name, Disk()) for name in self.world.hosts), 0, self.case.crashes)
        self._from[start] = None
        level = [start]
        while level and len(self._from) < states_max:
            new = []
            for state in level:
                for after in self._successors(state):
                    found.transitions += 1
                    if after not in self._from:
                        self._from[after] = self._latest
                        new.append(after)
            found.depth += bool(new)
            level = new
        found.complete = not level

    def _path(self) -> list[Step]:
        """From the start to what happened last."""
        path, step = [], self._latest
        while step is not None:
            path.append(step)
            step = self._from[step.state]
        return path[::-1]

    # ---- one state

    def _successors(self, state: State) -> Iterator[State]:
        lids, soup, crashes = state
        for place, lid in enumerate(lids):
            for what, outcomes in self._moves(state, place):
                for outcome in outcomes:
                    nothing = outcome.local == lid and not outcome.said & ~soup
                    if not nothing and (crashes or not outcome.crashed):
                        self._latest = Step(state, place, what, outcome.crashed)
                        yield self._after(state, place, outcome)

    def _moves(self, state: State, place: int) -> Iterator[tuple[What, list[Outcome]]]:
        """Everything that can happen to one host."""
        (lids, soup, crashes), steps = state, self.steps
        lid = lids[place]
        here = steps.look(lid, soup)
        for event in here.choices:
            self._latest = Step(state, place, event)  # should the machines themselves cry out
            yield event, steps.choose(lid, event)
        for number in bits(soup & steps.addressed[here.name] & ~here.idle):
            yield number, steps.take(lid, number)
        for other in dict.fromkeys(lids):
            there = steps.locals[other]
            if len(there.log) > len(here.log):
                learn = Learn(there.now.entries[len(here.log)])
                self._latest = Step(state, place, learn)
                yield learn, steps.learn(lid, learn)
        if crashes:
            yield None, [Outcome(steps.restart(lid), 0, True)]

    def _after(self, state: State, place: int, outcome: Outcome) -> State:
        (lids, soup, crashes), steps = state, self.steps
        moved = (*lids[:place], outcome.local, *lids[place + 1 :])
        soup |= outcome.said
        if outcome.said & steps.votes:
            self._one_value(soup)
        if len(steps.locals[outcome.local].log) > len(steps.locals[lids[place]].log):
            self._one_history(moved, place, soup)
        return moved, self._that_matter(moved, soup), crashes - outcome.crashed

    def _that_matter(self, lids: tuple[int, ...], soup: int) -> int:
        """Messages that no host will do anything with from here on are forgotten. Votes on a decision that is still
        open somewhere are kept, to be counted."""
        steps, over, votes = self.steps, 0, 0
        for lid in lids:
            over |= steps.look(lid, soup).over
        for round_ in range(min(len(steps.locals[lid].log) for lid in lids), self.case.rounds):
            votes |= steps.votes_on[round_]
        return soup & (~(over | steps.votes) | votes)

    # ---- what must hold

    def _one_value(self, soup: int) -> None:
        """No voter votes for two records in one ballot, and no two records of one decision get a quorum."""
        first: dict[object, bytes] = {}
        for sender, vote in self._votes(soup):
            if first.setdefault((vote.at, vote.ballot, sender), vote.record) != vote.record:
                raise Violation(f"{sender} votes for two records in ballot {vote.ballot.attempt} of {vote.at.round}")
        chosen: dict[At, bytes] = {}
        for at, record in self._chosen(soup):
            if chosen.setdefault(at, record) != record:
                raise Violation(f"two records are chosen for round {at.round}")

    def _one_history(self, lids: tuple[int, ...], place: int, soup: int) -> None:
        """What a host has logged was chosen, and nobody logged another."""
        here, steps = self.steps.locals[lids[place]], self.steps
        round_, record = len(here.log) - 1, here.log[-1]
        logs = [steps.locals[lid].log for lid in (*lids[:place], *lids[place + 1 :])]
        others = [log for log in logs if len(log) > round_]
        if any(log[: round_ + 1] != here.log for log in others):
            raise Violation(f"two records for round {round_}")
        at = self.world.head(here.now.entries[:-1]).at
        if not others and (at, record) not in self._chosen(soup):
            raise Violation(f"{here.name} logs a record of round {round_} that no quorum has voted for")

    def _chosen(self, soup: int) -> list[tuple[At, bytes]]:
        """The records that a quorum voted for in one ballot."""
        cast: dict[tuple[At, object, bytes], list[str]] = {}
        for sender, vote in self._votes(soup):
            cast.setdefault((vote.at, vote.ballot, vote.record), []).append(sender)
        return [(at, record) for (at, _, record), who in cast.items() if enough(self.world.voters[at], who)]

    def _votes(self, soup: int) -> Iterator[tuple[str, m.Accepted]]:
        for number in bits(soup & self.steps.votes):
            sender, _, message = self.steps.messages[number]
            yield sender, message
