"""Log lines on stderr: one for each event an operator cares about, with its facts as fields.

Owns the three forms (a terminal's, journald's, JSON) and how foreign libraries are heard. Refuses to know
where the lines go after that; rotation is journald's business. Run ids, which admit whoever knows them, stand in paths
and in what libraries and trainers say: here they lose their middle: more people read a log than command a daemon.
"""

import json
import logging
import os
import re
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from intellectd.protocol.run_id import BODY_CHARS, CHECK_CHARS, PREFIX

ROOT = "intellectd"
LINE_CHARS_MAX = 8192  # journald splits at 48 KiB; a hostile peer's text must not fill a disk
# Of strangers: whoever connects can cause a line with each handshake, under a new name each time. 30 MB a day at most.
STRANGERS = "p2p"
STRANGERS_LINES_MAX, STRANGERS_S = 100, 60.0
CHANGES_KEPT = 1024  # subjects of log_if_changed; peers × a few
# sd-daemon(3): what journald makes of a leading <N>
_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}

# As RFC 4648's base32 has it. What is left tells one of a host's runs from another, and no more.
_RUN_ID = re.compile(rf"({PREFIX})[a-z2-7]{{{BODY_CHARS - 4}}}([a-z2-7]{{{CHECK_CHARS + 4}}})")

_last_said: OrderedDict[str, str] = OrderedDict()


class Log:
    """`log.info("record committed", round=5)`: an event in the past tense, and its facts."""

    def __init__(self, area: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{area}")

    def debug(self, event: str, /, **fields: object) -> None:
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._say(logging.ERROR, event, fields)

    def failure(self, event: str, error: BaseException, /, **fields: object) -> None:
        """An error that is ours to mend: with its traceback, folded into the one line."""
        where = "".join(traceback.format_exception(error))
        self._say(logging.ERROR, event, {**fields, "error": f"{type(error).__name__}: {error}", "where": where})

    def _say(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"fields": fields})


def get_log(area: str) -> Log:
    return Log(area)


def log_if_changed(say: Callable[..., None], subject: str, event: str, /, **fields: object) -> None:
    """Says it only when `subject` was last said to be otherwise, so that a state is logged once, not per tick."""
    now_said = event + repr(sorted(fields.items(), key=lambda item: item[0]))
    if _last_said.get(subject) != now_said:
        _last_said[subject] = now_said
        say(event, **fields)
    _last_said.move_to_end(subject)
    if len(_last_said) > CHANGES_KEPT:
        _last_said.popitem(last=False)


class Bounded(logging.Filter):
    """So many lines in so much time; the first after that tells how many were left out."""

    def __init__(self, lines_max: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines_max, self._seconds, self._clock = lines_max, seconds, clock
        self._ends_at = self._came = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now >= self._ends_at:
            left_out, self._came, self._ends_at = self._came - self._lines_max, 0, now + self._seconds
            if left_out > 0:
                record.msg, record.args = f"{record.getMessage()} (before it, {left_out:.0f} lines were left out)", ()
        self._came += 1
        return self._came <= self._lines_max


def configure(format_name: str, level: str, stream: TextIO | None = None) -> None:
    """Called once, by the process that owns stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_formatter(format_name))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # libp2p takes its loggers out of the tree when it is imported; what it has to say then ends up here.
    orphans = logging.StreamHandler(handler.stream)
    orphans.setLevel(logging.WARNING)
    orphans.setFormatter(handler.formatter)
    logging.lastResort = orphans
    logging.getLogger(ROOT).setLevel(level.upper())
    strangers = logging.getLogger(f"{ROOT}.{STRANGERS}")
    strangers.filters[:] = [] if level.upper() == "DEBUG" else [Bounded(STRANGERS_LINES_MAX, STRANGERS_S)]


def _formatter(format_name: str) -> logging.Formatter:
    if format_name == "json":
        return JsonFormatter()
    # JOURNAL_STREAM names the journal's socket; journald adds the time itself.
    return HumanFormatter(for_journal=format_name == "auto" and "JOURNAL_STREAM" in os.environ)


class HumanFormatter(logging.Formatter):
    """`14:02:11 info  round: record committed round=5 roster=4`."""

    def __init__(self, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        area = record.name.removeprefix(ROOT + ".")
        facts = "".join(f" {key}={_fact(value)}" for key, value in _fields(record).items())
        body = without_run_ids(_one_line(f"{area}: {record.getMessage()}{facts}"))
        if self._for_journal:
            return f"<{_PRIORITY.get(record.levelname, 6)}>{body}"
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock} {record.levelname.lower():<7} {body}"


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, area, event, and the fields beside them."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "area": record.name.removeprefix(ROOT + "."),
            "event": record.getMessage()[:LINE_CHARS_MAX],
        }
        facts = {key: value for key, value in _fields(record).items() if key not in line}
        return without_run_ids(json.dumps({**line, **facts}, default=str, ensure_ascii=False))


def without_run_ids(text: str) -> str:
    return _RUN_ID.sub(r"\1…\2", text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:  # from a foreign library's logger
        fields["where"] = "".join(traceback.format_exception(record.exc_info[1]))
    return fields


def _fact(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text else text


def _one_line(text: str) -> str:
    """Control characters of a hostile text neither forge a second line nor reach a terminal."""
    printable = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return "".join(printable)[:LINE_CHARS_MAX]
