"""Completion scripts for bash, zsh and fish, made by walking the parser: no list of verbs to keep twice."""

import argparse
from typing import Any

from intellectd.daemon.cli.output import write, write_json
from intellectd.daemon.cli.parser import build_parser
from intellectd.daemon.errors import EXIT_OK

# What may follow each sequence of verbs: ("config", "show") -> [("--config", "config file (TOML)"), ...]
Words = dict[tuple[str, ...], list[tuple[str, str]]]


def completion(arguments: Any) -> int:
    words = collect(build_parser())
    script = {"bash": bash, "zsh": zsh, "fish": fish}[arguments.shell](words)
    if arguments.json:
        write_json({"shell": arguments.shell, "script": script})
    else:
        write(script)
    return EXIT_OK


def collect(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Words:
    here: list[tuple[str, str]] = []
    words: Words = {path: here}
    for action in parser._actions:
        here += [(option, action.help or "") for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, subparser in action.choices.items():
                here.append((name, helps.get(name, "")))
                words |= collect(subparser, (*path, name))
        elif not action.option_strings:
            here += [(str(choice), "") for choice in action.choices or ()]
    return words


def bash(words: Words) -> str:
    steps = "\n".join(f'      "{" ".join(path)}") path="{" ".join(path)}" ;;' for path in words if path)
    lists = "\n".join(
        f'    "{" ".join(path)}") words="{" ".join(word for word, _ in here)}" ;;' for path, here in words.items()
    )
    return f"""\
_intellectd() {{
  local path="" words="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "${{path:+$path }}$word" in
{steps}
    esac
  done
  case "$path" in
{lists}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _intellectd intellectd"""


def zsh(words: Words) -> str:
    return "#compdef intellectd\nautoload -U +X bashcompinit && bashcompinit\n" + bash(words)


def fish(words: Words) -> str:
    lines = ["complete -c intellectd -f"]
    for path, here in words.items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in path) or "__fish_use_subcommand"
        for word, what in here:
            argument = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            described = what.replace("'", "’").replace("%%", "%")
            lines.append(f"complete -c intellectd -n '{seen}' {argument} -d '{described}'")
    return "\n".join(lines)
