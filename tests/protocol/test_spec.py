"""SPEC.md and the code say the same: every rule that is cited exists, once, and every bound has its value."""

import re
from pathlib import Path

from intellectd.protocol import limits
from intellectd.protocol.manifest import Timers

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "protocol" / "SPEC.md").read_text(encoding="utf-8")
RULES = re.findall(r"^([A-Z]\d+) ", SPEC, re.MULTILINE)
LETTERS = "ABCDEGIKLMNPQRTW"
CITED = re.compile(rf"\bSPEC ((?:[{LETTERS}](?:\d+(?:-[{LETTERS}]\d+)?|\*)(?:, )?)+)|\(([{LETTERS}]\d+)[):;,]")


def cited(text: str) -> list[str]:
    found = []
    for spelled, bare in CITED.findall(text):
        for part in re.split(r", ", spelled.strip(", ")) if spelled else [bare]:
            first, _, last = part.partition("-")
            numbers = range(int(first[1:]), int(last[1:]) + 1) if last else []
            found += [f"{first[0]}{number}" for number in numbers] or [first]
    return found


def test_rules_are_numbered_without_gaps_and_once() -> None:
    for letter in LETTERS:
        numbers = [int(rule[1:]) for rule in RULES if rule[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), f"rules {letter}"
    assert "".join(sorted({rule[0] for rule in RULES})) == LETTERS


def test_every_rule_that_is_cited_exists() -> None:
    folders = ("protocol", "daemon", "kernels", "tests")
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for rule in cited(path.read_text(encoding="utf-8")):
            known = rule in RULES or (rule[1:] == "*" and rule[0] in LETTERS)
            assert known, f"{path.relative_to(ROOT)} cites {rule}, which SPEC.md does not have"


def test_every_rule_is_cited_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py")))
    named = cited(tests)
    not_built = ("R14",)
    assert [rule for rule in RULES if rule not in named and rule not in not_built] == []


def test_every_bound_has_its_value() -> None:
    table = dict(re.findall(r"([A-Z][A-Z_]+) \| ([0-9.]+) \|", SPEC))
    values = {name: str(value) for name, value in vars(limits).items() if name.isupper()}
    assert table == values


def test_the_timers_have_the_defaults_that_it_says() -> None:
    """SPEC L3."""
    (rule,) = re.findall(r"^L3 (.*)$", SPEC, re.MULTILINE)
    timers = Timers()
    said = {name: float(value) for name, value in re.findall(r"(\w+_s) ([0-9]+)", rule)}
    (grace,) = re.findall(r"grace ([0-9.]+) of the round within ([0-9.]+) and ([0-9]+) s", rule)
    assert said == {name: getattr(timers, name) for name in said} and len(said) == 7
    assert tuple(map(float, grace)) == (timers.grace_fraction, timers.grace_min_s, timers.grace_max_s)
