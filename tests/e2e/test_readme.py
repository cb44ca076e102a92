"""What the README shows works as shown: its run.toml, its commands, its code; and any command that any text names."""

import argparse
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import torch

from intellectd.daemon.cli.parser import build_parser
from intellectd.protocol.manifest import config_from_toml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for named, text in fenced if named == language]


def test_the_run_toml_is_valid() -> None:
    (text,) = blocks("toml")
    config = config_from_toml(tomllib.loads(text))
    assert config.until.rounds and config.swarm.start_peers > 1


def test_the_code_trains(tmp_path: Path) -> None:
    """As it stands there, but alone: with a model, an optimizer and data around it."""
    (text,) = blocks("python")
    assert text.count('run=""') == 1
    model = torch.nn.Linear(2, 1)
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "my_loss": torch.nn.functional.mse_loss,
        "data": torch.randn(100, 2),
        "labels": torch.zeros(100, 1),
    }
    before = model.weight.detach().norm()
    program = tmp_path / "program.py"
    program.write_text(text.replace('run=""', "run=None, rounds=3, sync_every=4"))
    assert runpy.run_path(str(program), names)["swarm"].state_round == 3 and model.weight.detach().norm() < before


def test_every_command_is_one_that_the_parser_takes() -> None:
    lines = [line.partition("#")[0] for block in blocks("") for line in block.splitlines()]
    commands = [line.strip() for line in lines if line.startswith("intellectd ")]
    assert len(commands) > 6
    for command in commands:
        for one in spelled_out(command):
            assert build_parser().parse_args(shlex.split(one)[1:]).verb, one


def test_a_command_that_a_text_names_is_there() -> None:
    """In documents, hints and messages. What follows the verb is for the tests of that verb."""
    tops = ("daemon", "protocol", "kernels", "deploy", "tests")
    texts = [ROOT / "README.md", *(path for top in tops for path in (ROOT / top).rglob("*.*"))]
    kinds = (".py", ".md", ".toml", ".service", ".conf", ".json")
    named = {
        (verb, path.relative_to(ROOT).as_posix())
        for path in texts
        if path.suffix in kinds
        for verb in re.findall(r"`intellectd ([a-z]+)", path.read_text(encoding="utf-8"))
    }
    (verbs,) = [a.choices for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert len(named) > 30 and [(verb, where) for verb, where in sorted(named) if verb not in verbs] == []


def spelled_out(command: str) -> list[str]:
    """Optional parts given, placeholders filled, `a | b` as two."""
    filled = re.sub(r"\[(.*?)\]", r"\1", command)
    filled = re.sub(r"<.*?>", "x", filled)
    first, *others = [part.strip() for part in filled.split(" | ")]
    return [first, *(f"intellectd {other}" for other in others)]
