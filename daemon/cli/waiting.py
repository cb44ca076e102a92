"""The verbs that may take long, wait and leave: short questions one after another, with a line of progress.

Owns when to stop asking and what is said then. What was asked for goes on in the daemon without this command.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.membership import BadArgument, named_run
from intellectd.daemon.cli.output import ProgressLine, complain, printable, write, write_error, write_json
from intellectd.daemon.cli.views import state_of
from intellectd.daemon.errors import EXIT_DEGRADED, EXIT_OK, EXIT_TIMEOUT, OperatorError

SLICE_S = 2.0  # a long wait is many short ones, so that progress shows and a daemon's restart is noticed
SLICE_S_MIN = 0.05  # the first one: what is so already, or never, is told at once
SLICE_GRACE_S = 10.0
GOALS = re.compile(r"joined|synced|finished|round=[0-9]{1,9}")

Answer = dict[str, Any]


class Never(OperatorError):
    """What was waited for cannot come."""

    code = "never"


def wait(arguments: Any) -> int:
    if not GOALS.fullmatch(arguments.goal):
        raise BadArgument(f"cannot wait for {arguments.goal!r}", "wait for joined, synced, round=N or finished")
    run_id = named_run(arguments.run_id)
    answer = wait_for(arguments, run_id, arguments.goal)
    if arguments.json:
        write_json(answer)
    return verdict(answer, run_id, arguments.goal, arguments.timeout)


def wait_for(arguments: Any, run_id: str, goal: str) -> Answer:
    """The last answer. Raises Never."""

    def is_over(answer: Answer) -> bool:
        run = answer.get("run") or {}
        if not answer.get("reached"):
            _refuse_never(run, goal)
        return bool(answer.get("reached")) or run.get("state") == "halted"

    def progress(answer: Answer) -> str:
        run = answer.get("run") or {}
        return f"round {run.get('round', '-')}  {state_of(run)}"

    return _ask_until(arguments, "wait", is_over, progress, {"run_id": run_id, "for": goal})


def verdict(answer: Answer, run_id: str, goal: str, timeout_s: float) -> int:
    run = answer.get("run") or {}
    if answer.get("reached"):
        return EXIT_OK
    if run.get("state") == "halted":
        complain(f"the run is halted: {printable(run.get('reason', ''))}", "`intellectd status` tells more")
        return EXIT_DEGRADED
    name = run.get("run_id") or run_id
    complain(
        f"not {goal} after {timeout_s:g} s: {printable(state_of(run))}",
        f"it goes on: `intellectd wait {printable(name)} --for {goal}` waits again, `intellectd status` tells more",
    )
    return EXIT_TIMEOUT


def _refuse_never(run: Mapping[str, Any], goal: str) -> None:
    until, target = run.get("until"), int(goal.removeprefix("round=")) if goal.startswith("round=") else None
    if goal == "finished" and until is None and run:
        raise Never("this run has no last round: it is never finished", "wait for --for round=N instead")
    if target is None or until is None or target <= until:
        return
    ends = "ended" if run.get("state") == "finished" else "ends"
    raise Never(
        f"nothing to wait for: the run {ends} with round {until}, before round {target}", "--for finished is its end"
    )


def leave(arguments: Any) -> int:
    request = {"run_id": named_run(arguments.run_id), "now": arguments.now}

    def is_over(answer: Answer) -> bool:
        request["run_id"] = answer.get("run_id", request["run_id"])  # a name means nothing when the run is left
        return bool(answer.get("left", True))  # older daemons answer when it is

    def progress(answer: Answer) -> str:
        return f"leaving; it goes on by itself if you stop this command. It waits for {answer.get('waits_for')}"

    answer = _ask_until(arguments, "leave", is_over, progress, request)
    if arguments.json:
        write_json(answer)
    if not is_over(answer):
        now = "" if arguments.now else f"; `intellectd leave {printable(request['run_id'])} --now` does not wait"
        complain(
            f"not left after {arguments.timeout:g} s: it waits for {printable(answer.get('waits_for'))}",
            f"it goes on by itself, also after a restart: `intellectd runs` shows when it is over{now}",
        )
        return EXIT_TIMEOUT
    if not arguments.json:
        folder = printable(answer.get("path") or "the state directory")
        write(f"left the run; its files stay in {folder}, and joining again takes them up")
    for warning in answer.get("warnings") or []:
        write_error(f"warning: {printable(warning)}")
    return EXIT_OK


def _ask_until(
    arguments: Any,
    op: str,
    is_over: Callable[[Answer], bool],
    words: Callable[[Answer], str],
    request: dict[str, Any],
) -> Answer:
    path, progress = socket_of(arguments), ProgressLine()
    deadline, slice_s = time.monotonic() + arguments.timeout, SLICE_S_MIN
    try:
        while True:
            answer = ask(path, op, slice_s + SLICE_GRACE_S, **request, timeout_s=slice_s)
            over = is_over(answer)
            if not arguments.json and not (over and op == "leave"):
                progress.show(words(answer))
            if over or time.monotonic() >= deadline:
                return answer
            slice_s = max(SLICE_S_MIN, min(SLICE_S, deadline - time.monotonic()))
    finally:
        progress.end()
