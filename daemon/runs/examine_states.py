"""The snapshots of a run, examined where they lie: what each is, whether the log proves it and its bytes are whole.

Nothing is changed, and no daemon is needed. Refuses to judge the log itself: examine.py does.
"""

from dataclasses import dataclass
from pathlib import Path

from intellectd.daemon.runs.examine import Examined, Finding
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.run_store import snapshot_in, snapshots_in
from intellectd.daemon.store.snapshot import check_snapshot, header_of
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


def states_of(folder: Path, manifest: Manifest, seen: Examined) -> list[StateSeen]:
    """Oldest first. Raises Finding for one whose header is none."""
    found = []
    for round_ in snapshots_in(folder):
        path = snapshot_in(folder, round_)
        try:
            status, digest = path.stat(), header_of(path, elements_of(manifest), round_)
        except (CorruptFile, OSError) as error:
            raise Finding(path, None, str(error)) from error
        proven = manifest.state_digest if round_ == 0 else seen.states.get(round_ + 1)
        standing = UNPROVEN if proven is None else PROVEN if proven == digest else CONTRADICTED
        found.append(StateSeen(round_, path, status.st_size, status.st_mtime, digest, standing))
    return found


def check_state(state: StateSeen, manifest: Manifest) -> None:
    """Every byte. Raises Finding."""
    try:
        check_snapshot(state.path, elements_of(manifest), state.round)
    except (CorruptFile, OSError) as error:
        raise Finding(state.path, None, str(error)) from error
    if state.standing == CONTRADICTED:
        raise Finding(state.path, None, "it is whole, but not the state that the log proves")
