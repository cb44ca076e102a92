"""The files of a run's log: where they lie, how they begin, what they say, and what to do when one is damaged.

Owns names and decoding alone, for the daemon that writes them and for whoever only examines them. Light: no torch.
"""

from pathlib import Path

import msgspec

from intellectd.protocol.effects import PersistVote

LOG_MAGIC, VOTES_MAGIC = b"intellectd-log-2\n", b"intellectd-votes-2\n"
MANIFEST_NAME = "manifest"
UPDATES_NAME = "updates"


def records_path(run_folder: Path) -> Path:
    return run_folder / "log" / "records"


def votes_path(run_folder: Path) -> Path:
    return run_folder / "log" / "votes"


def decode_vote(body: bytes) -> PersistVote:
    """Raises msgspec.MsgspecError."""
    return msgspec.msgpack.decode(body, type=PersistVote)


def remedy_for(run_folder: Path) -> str:
    return (
        f"restore {run_folder} from a backup, or move it away and `intellectd join` again: "
        "the state is then fetched from the peers"
    )
