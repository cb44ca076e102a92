"""`intellectd rounds`: what was decided lately, a line a round. The newest last, as in a log."""

from collections.abc import Mapping
from typing import Any

from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.membership import BadArgument, named_run
from intellectd.daemon.cli.output import complain, paint, printable, write, write_json
from intellectd.daemon.cli.tables import in_bytes, in_count, in_time, number, table
from intellectd.daemon.errors import EXIT_OK

LAST_MAX = 4096  # the daemon remembers no more (daemon/runs/journal.py); `log verify` reads them all
HEADERS = ("ROUND", "SCHEDULE", "MEMBERS", "TOKENS", "TOOK", "SENT", "LOSS", "RECORD")


def rounds(arguments: Any) -> int:
    last = arguments.last
    if not 1 <= last <= LAST_MAX:
        raise BadArgument(
            f"--last {last} is not between 1 and {LAST_MAX}", "older ones are in the log on the disk alone"
        )
    path, run = socket_of(arguments), named_run(arguments.run_id)
    answer = ask(path, "rounds", run_id=run, last=last)
    rows = list(answer.get("rounds") or [])
    while rows and len(rows) < last:  # of many members few rounds fit in an answer
        more = ask(path, "rounds", run_id=run, since=rows[-1]["round"] + 1).get("rounds")
        if not more:
            break
        rows += more
    rows = rows[-last:]
    if arguments.json:
        write_json({**answer, "rounds": rows})
    elif rows:
        header, *lines = rounds_lines(rows)
        write("\n".join([paint(header, "bold"), *(printable(line) for line in lines)]))
    else:
        complain("no round was decided yet", "`intellectd status` shows what the run waits for")
    return EXIT_OK


def rounds_lines(rows: list[Mapping[str, Any]]) -> list[str]:
    """The whole hash, since `join --head` takes no less. A round that was read from the log has no times."""
    return table(
        HEADERS,
        [
            (
                str(row.get("round", "-")),
                str(row.get("schedule") or "-"),
                str(len(row.get("roster") or [])),
                in_count(row.get("tokens") or 0),
                in_time(row["duration_s"]) if row.get("duration_s") else "-",
                in_bytes(row["wire_bytes"]) if row.get("wire_bytes") else "-",
                number(row.get("loss")),
                str(row.get("record", "-")),
            )
            for row in rows
        ],
    )
