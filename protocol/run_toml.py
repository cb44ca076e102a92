"""What is wrong with a `run.toml`, in words: the key, what it must be, what it is, and the nearest valid one.

Owns the translation of msgspec's findings, and unknown keys. Knows the fields only as struct types that it is given.
"""

import difflib
import re
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

VALUE_CHARS_MAX = 60  # of what the file says, in a message of one line
_TYPES = {
    "int": "a whole number",
    "int | null": "a whole number",
    "float": "a number",
    "str": "a text in quotes",
    "bool": "true or false",
    "array": "a list",
}
_BOUNDS = {">=": "of at least", "<=": "of at most", ">": "above", "<": "below"}
# What a type alone does not tell.
_FORMS = {
    "name": 'a text of 1 to 64 letters, digits, ".", "_" and "-"',
    "outer.lr": "a list of [roster size, rate], such as [[1, 0.4], [4, 0.6]]",
    "inner.betas": "two numbers from 0 to below 1, such as [0.9, 0.95]",
}


class Complaint(NamedTuple):
    message: str
    hint: str


def unknown_key(data: dict[str, Any], kind: type, path: str = "", tags: tuple[str, ...] = ()) -> Complaint | None:
    types = _sections(kind)
    known = [*types, *tags]
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {path + near[0]!r}?" if near else f"valid keys: {', '.join(known)}"
            return Complaint(f"unknown key {path + key!r}", hint)
        options = types.get(key) or []
        if isinstance(value, dict) and options:
            tags_below = ("kind",) if len(options) > 1 else ()
            found = unknown_key(value, _option(options, value), f"{path}{key}.", tags_below)
            if found:
                return found
    return None


def ill_typed(found: str, data: dict[str, Any], kind: type) -> Complaint:
    """`found` is msgspec's text, such as "Expected `int` >= 1 - at `$.inner.steps`"."""
    what, _, at = found.partition(" - at ")
    path = at.strip("`").removeprefix("$").removeprefix(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    if missing:
        key = f"{path}.{missing[1]}".removeprefix(".")
        return Complaint(f"`{key}` is missing", f"it must be {_wanted(key, what, kind)}")
    key = re.sub(r"\[.*", "", path)
    given = f"{_value(data, key)!r}"[:VALUE_CHARS_MAX]
    return Complaint(f"`{key}` must be {_wanted(key, what, kind)}; it is {given}", "correct it")


def _wanted(key: str, what: str, kind: type) -> str:
    choices = _choices(key, kind)
    if choices:
        return " or ".join(f'"{choice}"' for choice in choices)
    if key in _FORMS:
        return _FORMS[key]
    if key in _sections(kind) and _sections(kind)[key]:
        return f"a table: write [{key}] on a line of its own"
    typed = re.match(r"Expected `([^`]*)`(?: ([<>]=?) (\S+))?(.*?)(?:, got .*)?$", what)
    if typed is None:
        return f"something else ({what})"
    bound = f" {_BOUNDS[typed[2]]} {float(typed[3]):.10g}" if typed[2] else typed[4]
    return _TYPES.get(typed[1], typed[1]) + bound


def _choices(key: str, kind: type) -> list[str]:
    """Of a key that takes one of a few words; of a section's `kind` too."""
    section, _, name = key.rpartition(".")
    options = [kind]
    for part in section.split(".") if section else []:
        options = [below for option in options for below in _sections(option).get(part, [])]
    if name == "kind" and len(options) > 1:
        return [str(option.__struct_config__.tag) for option in options]  # type: ignore[attr-defined]
    types = [field.type for option in options for field in msgspec.structs.fields(option) if field.name == name]
    return [str(choice) for found in types if get_origin(found) is Literal for choice in get_args(found)]


def _value(data: dict[str, Any], key: str) -> Any:
    value: Any = data
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _sections(kind: type) -> dict[str, list[type]]:
    """The fields, and the structs that each may hold."""
    types: dict[str, list[type]] = {}
    for field in msgspec.structs.fields(kind):
        options = get_args(field.type) or (field.type,)
        types[field.name] = [t for t in options if isinstance(t, type) and issubclass(t, msgspec.Struct)]
    return types


def _option(options: list[type], value: dict[str, Any]) -> type:
    """The struct that the `kind` tag chooses; the first when there is no choice or the tag is wrong."""
    for option in options:
        tag = option.__struct_config__.tag  # type: ignore[attr-defined]
        if tag == value.get("kind"):
            return option
    return options[0]
