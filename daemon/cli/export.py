"""`checkpoint export`: the model of a run as files that other programs load."""

from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.membership import named_run
from intellectd.daemon.cli.output import printable, write, write_json
from intellectd.daemon.errors import EXIT_OK

EXPORT_S_MAX = 3600.0  # 14 GB of a 7B model in bf16 at the 5 MB/s of a poor network disk, and some


def export(arguments: Any) -> int:
    # The daemon writes the files, and its working directory is not this one.
    target = str(Path(arguments.path).absolute())
    run_id = named_run(arguments.run_id)
    request = {"run_id": run_id, "path": target, "format": arguments.format}
    answer = ask(socket_of(arguments), "export", EXPORT_S_MAX, **request)
    if arguments.json:
        write_json(answer)
        return EXIT_OK
    write(f"the anchor after round {answer.get('round', '-')} is in {printable(answer.get('path', target))}:")
    for name in answer.get("files") or []:
        write(f"  {printable(name)}")
    return EXIT_OK
