"""`checkpoint export`: the model of a run as files that other programs load.

The daemon writes them. Where it may not, it says where else they are, and they are fetched from there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intellectd.daemon.cli.client import ask, socket_of
from intellectd.daemon.cli.log import folder_of, tell_of
from intellectd.daemon.cli.membership import named_run
from intellectd.daemon.cli.output import printable, write, write_error, write_json
from intellectd.daemon.errors import EXIT_FAILURE, EXIT_OK
from intellectd.daemon.export_files import ExportError, foothold, refuse_occupied, write_directory

EXPORT_S_MAX = 3600.0  # 14 GB of a 7B model in bf16 at the 5 MB/s of a poor network disk, and some
PIECE_BYTES = 4 * 1024 * 1024


def export(arguments: Any) -> int:
    # The daemon's working directory is not this one.
    target = Path(arguments.path).absolute()
    refuse_occupied(target)  # before the daemon writes gigabytes
    if arguments.round is not None:
        return _from_disk(arguments, target)
    run_id, path = named_run(arguments.run_id), socket_of(arguments)
    seen = list(foothold(target))
    request = {
        "run_id": run_id,
        "path": str(target),
        "format": arguments.format,
        "dtype": arguments.dtype,
        "seen": seen,
    }
    answer = ask(path, "export", EXPORT_S_MAX, **request)
    place = Path(str(answer.get("path", target)))
    if place != target:
        _fetch(place, target, [str(name) for name in answer.get("files") or []])
        ask(path, "export_fetched", run_id=run_id)
    return _told(arguments, target, answer)


def _from_disk(arguments: Any, target: Path) -> int:
    """A state as it lies here, checked and then read in parts: it may be larger than memory."""
    from intellectd.daemon.runs.examine import Finding
    from intellectd.daemon.runs.export_state import export_state

    folder = folder_of(arguments)
    try:
        answer = export_state(folder, arguments.round, arguments.format, arguments.dtype, target)
    except Finding as finding:
        tell_of(finding, arguments.json)
        return EXIT_FAILURE
    return _told(arguments, target, answer)


def _told(arguments: Any, target: Path, answer: dict[str, Any]) -> int:
    if arguments.json:
        write_json({**answer, "path": str(target)})
        return EXIT_OK
    write(f"the anchor after round {answer.get('round', '-')} is in {printable(target)}:")
    for name in answer.get("files") or []:
        write(f"  {printable(name)}")
    for note in answer.get("notes") or []:
        write_error(f"note: {printable(note)}")
    return EXIT_OK


def _fetch(place: Path, target: Path, names: list[str]) -> None:
    """From the daemon's state directory, by whoever runs this command. Raises ExportError."""
    try:
        for name in names:
            (place / Path(name).name).open("rb").close()
    except OSError as error:
        raise ExportError(
            f"the daemon may not write to {target.parent}; it wrote to {place}, which cannot be read: {error.strerror}",
            f"copy it as root: `sudo cp -r {place} {target}`",
        ) from error
    write_directory(target, {name: _pieces(place / Path(name).name) for name in names})


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
