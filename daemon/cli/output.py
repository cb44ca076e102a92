"""Where the command line's words go: answers to stdout, prose about them to stderr, colour only to terminals.

Owns NO_COLOR, JSON on stdout, and keeping hostile text (a peer's version, a reason) from driving a terminal.
"""

import codecs
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from intellectd.daemon.errors import OperatorError

SCHEMA_VERSION = 1  # of what --json prints; fields are added, never changed
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in colour, when the stream is a terminal and NO_COLOR is not set."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def printable(text: object) -> str:
    """One line without control characters."""
    return "".join(char if char.isprintable() else "�" for char in str(text))


class CannotWrite(OperatorError):
    """The answer cannot be written where stdout goes."""


def write(text: str, end: str = "\n") -> None:
    """What the terminal's encoding lacks is told by a question mark."""
    try:
        encoding = _encoding()
        sys.stdout.write((text + end).encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(f"cannot write the answer: {error.strerror}", "see where stdout goes") from error


def write_error(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write_json(answer: Mapping[str, Any]) -> None:
    """One line, so that a watched answer is JSON Lines."""
    facts = {"schema": SCHEMA_VERSION} | {key: value for key, value in answer.items() if key not in ("ok", "schema")}
    write(json.dumps(facts, ensure_ascii=_encoding() != "utf-8"))


def _encoding() -> str:
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name


def complain(message: str, hint: str = "") -> None:
    """What was wrong, then what to do next."""
    write_error(f"{paint('intellectd:', 'red', sys.stderr)} {_lines(message)}")
    if hint:
        write_error(f"  {_lines(hint)}")


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class ProgressLine:
    """A line on stderr that is redrawn in place on a terminal, and printed when it changes elsewhere."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, text: str) -> None:
        text = printable(text)
        if text == self._last:
            return
        if sys.stderr.isatty():
            sys.stderr.write("\r" + text.ljust(len(self._last)))
            sys.stderr.flush()
        else:
            write_error(text)
        self._last = text

    def end(self) -> None:
        if self._last and sys.stderr.isatty():
            write_error("")
