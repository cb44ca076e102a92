"""The files of a run's log: where they lie, how they begin, what they say, and what to do when one is damaged.

Owns names and decoding alone, for the daemon that writes them and for whoever only examines them. Light: no torch.
"""

from pathlib import Path

import msgspec

from intellectd.protocol.effects import PersistVote

LOG_MAGIC, VOTES_MAGIC = b"intellectd-log-3\n", b"intellectd-votes-3\n"
MANIFEST_NAME = "manifest"
UPDATES_NAME = "updates"
LEFT_NAME = "left"  # what was left for another line of history


def records_path(run_folder: Path) -> Path:
    return run_folder / "log" / "records"


def votes_path(run_folder: Path) -> Path:
    return run_folder / "log" / "votes"


def may_stand_behind_its_votes(run_folder: Path) -> bool:
    """A log that is shorter than what was voted on has lost records; but who left a line for another may come back to
    an older point of it, and votes again from where it had voted (SPEC G9)."""
    return (run_folder / LEFT_NAME).is_dir()


def decode_vote(body: bytes) -> PersistVote:
    """Raises msgspec.MsgspecError."""
    return msgspec.msgpack.decode(body, type=PersistVote)


def remedy_for(run_folder: Path) -> str:
    """Not first a backup: it has forgotten what was voted since."""
    return (
        f"move {run_folder} away and `intellectd join` again: the state is then fetched from the peers; "
        "restore it from a backup only if no other host has the run"
    )
