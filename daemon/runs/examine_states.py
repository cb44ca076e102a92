"""The snapshots of a run, examined where they lie: what each is, whether the log proves it and its bytes are whole.

Nothing is changed, and no daemon is needed. Refuses to judge the log itself: examine.py does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.errors import OperatorError
from intellectd.daemon.runs.examine import Examined, Finding, unreadable
from intellectd.daemon.store.run_store import snapshot_in, snapshots_in
from intellectd.daemon.store.snapshot import check_snapshot, damaged, header_of
from intellectd.protocol.manifest import Manifest, elements_of

# What the log, as it is here, says of a state.
PROVEN, UNPROVEN, CONTRADICTED = "proven", "not proven yet", "not the log's"


@dataclass(frozen=True)
class StateSeen:
    round: int  # 0: the first parameters
    path: Path
    size: int  # bytes of the file
    written_at: float  # seconds since 1970
    digest: bytes  # as its header names it
    standing: str


class NoSuchState(OperatorError):
    """None of this round lies here: a question, and nothing that is wrong with the files."""

    def __init__(self, folder: Path, round_: int, rounds: Sequence[int]) -> None:
        have = f"there are: {', '.join(map(str, rounds))}" if rounds else "there is none yet"
        super().__init__(f"there is no state of round {round_} in {folder / 'snapshots'}; {have}", "name one of those")


def states_of(folder: Path, manifest: Manifest, seen: Examined) -> list[StateSeen]:
    """Oldest first; a daemon at work may delete the oldest meanwhile. Raises Finding for one whose header is none."""
    found = []
    for round_ in snapshots_in(folder):
        path = snapshot_in(folder, round_)
        try:
            status, digest = path.stat(), header_of(path, elements_of(manifest), round_)
        except (OperatorError, OSError) as error:
            if not path.exists():
                continue
            raise _bad(path, error) from error
        proven = manifest.state_digest if round_ == 0 else seen.states.get(round_ + 1)
        standing = UNPROVEN if proven is None else PROVEN if proven == digest else CONTRADICTED
        found.append(StateSeen(round_, path, status.st_size, status.st_mtime, digest, standing))
    return found


def check_state(state: StateSeen, manifest: Manifest) -> bool:
    """Every byte; False if it was deleted meanwhile. Raises Finding."""
    try:
        check_snapshot(state.path, elements_of(manifest), state.round)
    except OperatorError as error:
        if not state.path.exists():
            return False
        raise _bad(state.path, error) from error
    if state.standing == CONTRADICTED:
        reason = "it is whole, but not the state that the log proves"
        raise Finding(state.path, None, reason, damaged(state.path, reason).hint)
    return True


def _bad(path: Path, error: OperatorError | OSError) -> Finding:
    cause = error.__cause__ if isinstance(error, StorageError) else error  # its own words are those of who writes
    if isinstance(cause, OSError):
        return unreadable(path, None, cause)
    assert isinstance(error, OperatorError)
    return Finding(path, None, error.message, error.hint)
