"""Every interleaving of a small agreement: `python -m tests.sim.exhaustive --voters 3 --rounds 2 --crashes 1`.

Prints what was covered and whether anything broke; a shortest schedule that breaks it, and exit 1, if so.
"""

import argparse
import json
import sys
from dataclasses import asdict, fields

from intellectd.protocol import messages as m
from tests.sim.mutants import MUTANTS, in_force
from tests.sim.small import Fetch, Lead, Learn
from tests.sim.small_search import STATES_MAX, Case, Found, Search, Step, What
from tests.sim.small_steps import Steps

HELP = {
    "voters": "of the opening",
    "hosts": "if more than voters",
    "rounds": "the opening, and then rounds with an update",
    "ballots": "attempts at each decision",
    "crashes": "in all, each between any two effects",
    "ring": "members of a transfer",
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.exhaustive", description="Search all interleavings.")
    for name, what in HELP.items():
        default = getattr(Case, name)
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} ({default})")
    parser.add_argument("--refusals", action="store_true", help="deliver refusals, too")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), metavar="NAME", help="with the machines broken so")
    parser.add_argument("--states-max", type=int, default=STATES_MAX, metavar="N", help="give up after so many")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    case = Case(**{field.name: getattr(options, field.name) for field in fields(Case)})
    found, schedule = look(case, options.mutant, options.states_max)
    facts = {key: value for key, value in asdict(found).items() if key != "path"}
    print(json.dumps({"schema": 1, **facts, "trace": schedule}) if options.json else "\n".join(told(found, schedule)))
    return 1 if found.violation else 0


def look(case: Case, mutant: str | None = None, states_max: int = STATES_MAX) -> tuple[Found, list[str]]:
    """What was found, and the schedule that breaks it."""
    with in_force(MUTANTS[mutant].patches() if mutant else []):
        search = Search(case)
        found = search.run(states_max)
    return found, [f"{n}. {step_told(search.steps, step)}" for n, step in enumerate(found.path, 1)]


# ---- words


def told(found: Found, schedule: list[str]) -> list[str]:
    case = found.case
    end = "" if found.complete or found.violation else "; NOT COMPLETE"
    lines = [
        f"{case.voters} voters of {case.hosts} hosts, {case.rounds} rounds, {case.ballots} ballots each, "
        f"{case.crashes} crashes, rings of {case.ring}, {'with' if case.refusals else 'without'} refusals; "
        "messages lost, doubled and reordered without bound",
        f"{found.states} states, {found.transitions} transitions, depth {found.depth}; single hosts were in "
        f"{found.of_one_host} states and said {found.messages} messages; {found.seconds} s{end}",
    ]
    if found.violation:
        return [*lines, f"broken: {found.violation}", *schedule]
    ends = sum(count for key, count in found.decided.items() if set(key.split()) == {str(case.rounds)})
    return [*lines, f"nothing is broken; in {ends} states all hosts have all records"]


def step_told(steps: Steps, step: Step) -> str:
    name = steps.world.hosts[step.place]
    if step.what is None:
        return f"{name} crashes, and starts from its disk"
    return f"{name} {_what_told(steps, step.what)}{', and crashes on the way' if step.crashed else ''}"


def _what_told(steps: Steps, what: What) -> str:
    if isinstance(what, int):
        sender, _, message = steps.messages[what]
        attempt = "" if isinstance(message, m.Result) else f" {message.ballot.attempt}"
        return f"gets {type(message).__name__}{attempt} of round {message.at.round} from {sender}"
    if isinstance(what, Lead):
        return f"leads attempt {what.attempt}"
    if isinstance(what, Learn):
        return f"learns the record of round {what.entry.record.round}"
    return "has fetched the bytes it waits for" if isinstance(what, Fetch) else "waits for no more promises"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
