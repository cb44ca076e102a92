"""What status, runs and peers look like to a person. Pure: the daemon's answer in, lines out.

Tolerates what an older or newer daemon leaves out. Refuses to know sockets and terminals.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from intellectd.daemon.cli.tables import in_bytes, in_count, in_time, number, short_id, table
from intellectd.protocol.words import counted

HEALTHY_STATES = ("training", "reducing", "catching-up", "finished")
RunStatus = Mapping[str, Any]


def is_healthy(run: RunStatus) -> bool:
    has_quorum = (run.get("quorum") or {}).get("reached", True)
    return run.get("state") in HEALTHY_STATES and bool(has_quorum)


def status_lines(answer: Mapping[str, Any]) -> list[str]:
    kernels = answer.get("kernels") or {}
    why = kernels.get("reason") or kernels.get("instructions")
    addresses = answer.get("addresses") or ["-"]
    facts = [
        ("peer", str(answer.get("peer", "-"))),
        ("version", f"{answer.get('version', '-')}, pid {answer.get('pid', '-')}"),
        ("up", in_time(float(answer.get("uptime_s") or 0))),
        *[("address" if index == 0 else "", str(address)) for index, address in enumerate(addresses)],
        ("bulk", str(answer.get("bulk", "-") or "none: this host dials the others")),
        ("state", str(answer.get("state_dir", "-"))),
        ("kernels", f"{kernels.get('implementation', '-')}{f' ({why})' if why else ''}"),
    ]
    founding = answer.get("founding")
    if founding:
        awaited = waits_for(founding, str(answer.get("socket", "-")))
        facts.append(("creating", f"{founding.get('name', '-')}: {awaited}"))
    lines = [f"{name:<10}{value}" for name, value in facts]
    for run in answer.get("runs") or []:
        lines += ["", *run_lines(run)]
    return lines


def waits_for(founding: Mapping[str, Any], socket: str) -> str:
    """Of an `init` or an import that is not done."""
    if "import_bytes" in founding:
        total = founding["import_bytes"]
        percent = 100 * founding.get("imported_bytes", 0) // (total or 1)
        return f"{percent} % of {in_bytes(total)} are read" if total else "the checkpoint is looked at"
    if founding.get("last_failure"):
        return f"the trainer failed and is started once more: {founding['last_failure']}"
    if founding.get("delivered"):
        return "the first parameters are there; writing the run"
    if founding.get("attached"):
        return "a program is attached; waiting for its parameters"
    if founding.get("trainer") == "external":
        return f"start your program now: INTELLECTD_SOCKET={shlex.quote(socket)} python your_program.py"
    return "the trainer builds the first parameters: this may take a minute"


def run_lines(run: RunStatus) -> list[str]:
    facts = [
        ("run", f"{run.get('name', '-')}  {short_id(str(run.get('run_id', '-')))}"),
        ("state", state_of(run)),
        ("round", _rounds(run)),
        ("model", f"{in_count(run['parameters'])} parameters" if run.get("parameters") else "-"),
        (
            "roster",
            f"{len(run.get('roster') or [])} in the last round, {counted(run.get('peers', 0), 'other peer')} known",
        ),
        ("loss", f"{number(run.get('loss'))} held-out{_evaluated(run)}, {number(run.get('train_loss'))} training"),
        ("speed", _speed(run)),
        ("wire", in_bytes(run.get("wire_bytes") or 0)),
        ("digest", str(run.get("state_digest") or "-")[:16]),
    ]
    spread = run.get("anchor_spread")
    facts += [] if spread is None else [("groups", f"{number(spread)} of their way since the last exact round apart")]
    lines = [f"{name:<10}{value}" for name, value in facts]
    return lines + [f"warning   {warning}" for warning in run.get("warnings") or []]


def state_of(run: RunStatus) -> str:
    """The state, with what stands behind it."""
    state = str(run.get("state", "-"))
    catchup = run.get("catchup")
    total = (catchup or {}).get("total_bytes") or 0
    if state == "catching-up" and catchup and not total:
        return f"{state}: reading the records"
    if state in ("joining", "catching-up") and catchup and total and not catchup.get("done"):
        share = 100 * (catchup.get("bytes") or 0) / total
        left_s = catchup.get("seconds_left")
        left = "time left unknown" if left_s is None else f"{in_time(left_s)} left"
        return f"{state}: {share:.0f} % of {in_bytes(total)} at {in_bytes(catchup.get('rate') or 0)}/s, {left}"
    behind = [text for text in (_inner_steps(run), run.get("reason")) if text]
    return f"{state}: {'; '.join(behind)}" if behind else state


def _inner_steps(run: RunStatus) -> str:
    inner = run.get("inner")
    if not inner or run.get("state") != "training":
        return ""
    return f"step {inner.get('step', 0)} of {inner.get('steps', '-')} of round {inner.get('round', '-')}"


def _evaluated(run: RunStatus) -> str:
    """Of which anchor the loss is, where it is not the newest one's."""
    at = run.get("loss_round")
    return "" if at is None or at == run.get("round") else f" (after round {at})"


def _rounds(run: RunStatus) -> str:
    applied, head, until = run.get("round", "-"), run.get("head_round"), run.get("until")
    behind = f", the head is {head}" if head is not None and head != applied else ""
    return f"{applied}{f' of {until}' if until else ''}{behind}"


def _speed(run: RunStatus) -> str:
    rate, step_s = run.get("tokens_per_s") or 0, run.get("outer_step_s") or 0
    # The rate is the last one that was told, which a restart keeps, too.
    here = "here while it had a trainer" if rate and _has_no_trainer(run) else "here"
    return f"{in_count(rate)} tokens/s {here}, {in_count(run.get('tokens_total') or 0)} tokens in all, " + (
        f"{in_time(step_s) if step_s else '-'} an outer step"
    )


def _has_no_trainer(run: RunStatus) -> bool:
    return run.get("trainer") == "absent"


def runs_lines(answer: Mapping[str, Any]) -> list[str]:
    headers = ("NAME", "STATE", "ROUND", "ROSTER", "LOSS", "TOKENS/S", "RUN-ID")
    rows = [
        (
            str(run.get("name", "-")),
            str(run.get("state", "-")),
            _rounds(run),
            str(len(run.get("roster") or [])),
            number(run.get("loss")),
            "-" if _has_no_trainer(run) else in_count(run.get("tokens_per_s") or 0),
            str(run.get("run_id", "-")),
        )
        for run in answer.get("runs") or []
    ]
    lines = [str(run["join_line"]) for run in answer.get("runs") or [] if run.get("join_line")]
    return table(headers, rows) + (["", "to join from another host, which this admits:", *lines] if lines else [])


def peers_lines(answer: Mapping[str, Any]) -> list[str]:
    headers = ("PEER", "STATE", "ROLE", "DOING", "ROUND", "HEARD", "PING", "VERSION", "ADDRESS")
    peers = answer.get("peers") or []
    rows = [
        (
            _or_dash(peer, "peer"),
            _or_dash(peer, "state"),
            _or_dash(peer, "role"),
            _or_dash(peer, "doing"),
            _or_dash(peer, "head_round"),
            f"{in_time(peer['heard_s'])} ago" if peer.get("heard_s") is not None else "-",
            in_time(peer["round_trip_s"]) if peer.get("round_trip_s") is not None else "-",
            _or_dash(peer, "version"),
            _first_address(peer),
        )
        for peer in peers
    ]
    runs = [_or_dash(peer, "run") for peer in peers]
    if len(dict.fromkeys(runs)) > 1:  # a peer stands in the table once for each run
        return table(("RUN", *headers), [(run, *row) for run, row in zip(runs, rows, strict=True)])
    return table(headers, rows)


def _or_dash(facts: Mapping[str, Any], key: str) -> str:
    return "-" if facts.get(key) is None else str(facts[key])


def _first_address(peer: Mapping[str, Any]) -> str:
    addresses = peer.get("addresses") or ["-"]
    return str(addresses[0]).partition("/p2p/")[0]
