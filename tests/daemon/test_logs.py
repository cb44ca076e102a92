"""Log lines: one per event, in three forms, and no way for a hostile text to forge a second one."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from intellectd.daemon import logs
from intellectd.protocol import run_id as run_ids


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """pytest's own handlers, put back after each test."""
    root = logging.getLogger()
    handlers, level, last_resort = list(root.handlers), root.level, logging.lastResort
    yield
    logging.lastResort = last_resort
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger(logs.ROOT).setLevel(logging.NOTSET)
    logging.getLogger("intellectd.p2p").filters.clear()


def lines_of(format_name: str, level: str = "info") -> tuple[logs.Log, io.StringIO]:
    stream = io.StringIO()
    logs.configure(format_name, level, stream)
    return logs.get_log("round"), stream


def test_for_people_time_level_area_event_and_facts() -> None:
    log, stream = lines_of("human")
    log.info("record committed", round=5, loss=2.345678, reason="as it should")
    clock, rest = stream.getvalue().split(" ", 1)
    assert len(clock) == len("14:02:11")
    assert rest == 'info    round: record committed round=5 loss=2.346 reason="as it should"\n'


def test_for_journald_a_priority_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "9:123")
    log, stream = lines_of("auto")
    log.warning("peer silent", peer="12D3")
    log.info("peer back")
    assert stream.getvalue() == "<4>round: peer silent peer=12D3\n<6>round: peer back\n"


def test_for_programs_one_object_a_line() -> None:
    log, stream = lines_of("json")
    log.info("record committed", round=5, roster=["a", "b"], level="not this")
    (line,) = stream.getvalue().splitlines()
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "info",
        "area": "round",
        "event": "record committed",
        "round": 5,
        "roster": ["a", "b"],
    }


@pytest.mark.parametrize("format_name", ["human", "json"])
def test_a_hostile_text_stays_in_its_line(format_name: str) -> None:
    log, stream = lines_of(format_name)
    log.info("peer refused", version="1\n<2>round: all is lost\x1b[2J")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("format_name", ["human", "json"])
def test_a_run_id_is_cut_wherever_it_comes_from(format_name: str) -> None:
    """Knowing it admits, and paths of the state directory hold it."""
    run_id = run_ids.from_manifest_hash(bytes(range(32)))
    log, stream = lines_of(format_name)
    log.info("left a run", path=f"/var/lib/intellectd/left/{run_id}")
    log.error("halted", reason=f"/runs/{run_id}/log/records is damaged; move /runs/{run_id} away")
    logging.getLogger("library").warning("of %s", run_id)
    said = stream.getvalue()
    assert run_id not in said and said.count(f"{run_id[:3]}…{run_id[-8:]}") == 4
    assert f"/left/{run_id[:3]}" in said


def test_a_hostile_length_is_cut() -> None:
    log, stream = lines_of("human")
    log.info("peer refused", version="x" * 100_000)
    assert len(stream.getvalue()) < logs.LINE_CHARS_MAX + 40


def test_a_failure_keeps_its_traceback_in_the_one_line() -> None:
    log, stream = lines_of("human")
    try:
        raise ZeroDivisionError("of ours")
    except ZeroDivisionError as error:
        log.failure("an operation failed", error, op="status")
    (line,) = stream.getvalue().splitlines()
    assert "ZeroDivisionError: of ours" in line
    assert "test_logs.py" in line


@pytest.mark.parametrize("is_in_the_tree", [True, False])
def test_the_level_is_ours_and_libraries_are_heard_from_warnings_up(is_in_the_tree: bool) -> None:
    log, stream = lines_of("human", "debug")
    library = logging.getLogger(f"library.{is_in_the_tree}")
    library.propagate = is_in_the_tree  # libp2p takes its loggers out of the tree
    log.debug("a detail")
    library.info("chatter")
    library.warning("trouble: %s", "deaf")
    assert "a detail" in stream.getvalue()
    assert "chatter" not in stream.getvalue()
    assert f"warning {library.name}: trouble: deaf" in stream.getvalue()


def test_a_state_is_logged_when_it_changes() -> None:
    log, stream = lines_of("human")
    for reason in ("quorum", "quorum", "peers", "peers", "quorum"):
        logs.log_if_changed(log.info, "run a", "waiting", reason=reason)
        logs.log_if_changed(log.info, "run b", "waiting", reason="always")
    assert [line.split("reason=")[1] for line in stream.getvalue().splitlines()] == [
        "quorum",
        "always",
        "peers",
        "quorum",
    ]


def test_strangers_fill_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each handshake may be under another name, and each hung up on with a line."""
    _, stream = lines_of("human")
    strangers, ours = logging.getLogger("intellectd.p2p"), logs.get_log("round")
    (bound,) = strangers.filters
    now = [0.0]
    monkeypatch.setattr(bound, "_clock", lambda: now[0])
    for number in range(5000):
        strangers.warning("hung up on %s", number)
    ours.info("record committed")
    lines = stream.getvalue().splitlines()
    assert len(lines) == logs.STRANGERS_LINES_MAX + 1 and lines[-1].endswith("record committed")
    now[0] += logs.STRANGERS_S
    for number in range(2):
        strangers.warning("hung up on %s", number)
    first, second = stream.getvalue().splitlines()[-2:]
    left_out = 5000 - logs.STRANGERS_LINES_MAX
    assert first.endswith(f"hung up on 0 (before it, {left_out} lines were left out)") and second.endswith("on 1")
