"""The built-in trainer's text: bytes as tokens, split by file into training and held-out parts.

Owns where the text comes from and which bytes a sample is. Refuses to know of models, rounds and peers: a
sample's place is asked of the public API, so no crash repeats or skips any of it.
"""

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from intellectd.daemon.sdk.errors import IntellectdError

TOKENS = 256  # the values of a byte
STDLIB_SOURCE = "python-stdlib"
DATA_ENV = "INTELLECTD_DATA"  # JSON map of source name to directory: the [data] table of the host's config

# The standard library's own code is some 11 MB. 8 MB keep the start of a trainer under a second of reading, and
# no byte-level demo trains through them.
TEXT_BYTES_MAX = 8 * 1024 * 1024
# A directory of real data is mapped as it is; beyond this a pretokenized loader of one's own is the better tool.
DIRECTORY_BYTES_MAX = 4 * 1024**3
HELD_OUT_ONE_IN = 20  # files, by the hash of their path: the same split on every host with the same files

# Not the library itself: tests, whose tables of data are no text, and what a distribution may leave out.
_STDLIB_SKIP = frozenset(
    {"__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}
)


class DataError(IntellectdError):
    """The text is missing, empty or too short for one sample."""


@dataclass(frozen=True)
class Text:
    """Two runs of bytes; a sample of n tokens is any n + 1 neighbouring bytes (the last one only a target)."""

    train: torch.Tensor  # uint8
    held_out: torch.Tensor  # uint8

    def batch(self, positions: list[int], context: int) -> torch.Tensor:
        return torch.stack([self.train[at : at + context + 1] for at in positions]).long()

    def positions(self, context: int) -> int:
        """How many different training samples of this length there are."""
        return len(self.train) - context


def load_text(source: str, context: int, environ: Mapping[str, str] = os.environ) -> Text:
    """`python-stdlib`, or a directory that this host's configuration names."""
    root, pattern, limit = _place_of(source, environ)
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    total = 0
    try:
        for path, name in _files(root, pattern):
            with path.open("rb") as file:  # one file may be larger than all that is wanted, and than memory
                body = file.read(min(limit - total, os.fstat(file.fileno()).st_size))
            parts[_is_held_out(name)].append(body)
            total += len(body)
            if total >= limit:
                break
    except OSError as error:
        raise DataError(
            f"data source {source!r} ({root}): {error}", "the daemon's user must be able to read it"
        ) from error
    text = Text(_tensor(parts[False]), _tensor(parts[True]))
    for part, which in ((text.train, "training"), (text.held_out, "held-out")):
        if len(part) <= context:
            raise DataError(
                f"data source {source!r} ({root}) has {len(part)} bytes of {which} text, a sample is {context + 1}",
                f"put more files there: one in {HELD_OUT_ONE_IN}, chosen by name, is held out",
            )
    return text


def _place_of(source: str, environ: Mapping[str, str]) -> tuple[Path, str, int]:
    if source == STDLIB_SOURCE:
        return Path(sysconfig.get_path("stdlib")), ".py", TEXT_BYTES_MAX
    known = _configured(environ)
    if source not in known:
        raise DataError(
            f"the run's data source {source!r} has no directory on this host (known: {sorted(known) or 'none'})",
            f'add `{source} = "/path/to/text"` under [data] in the daemon\'s config file and restart it',
        )
    root = Path(known[source])
    if not root.is_dir():
        raise DataError(f"data source {source!r}: {root} is no directory", "correct it under [data] in the config file")
    return root, "", DIRECTORY_BYTES_MAX


def _configured(environ: Mapping[str, str]) -> dict[str, str]:
    try:
        known = json.loads(environ.get(DATA_ENV) or "{}")
    except ValueError as error:
        raise DataError(f"{DATA_ENV} is no JSON ({error})", 'it looks like {"name": "/directory"}') from error
    if not isinstance(known, dict) or not all(isinstance(path, str) for path in known.values()):
        raise DataError(f"{DATA_ENV} is no map of names to directories", 'it looks like {"name": "/directory"}')
    return known


def _files(root: Path, suffix: str) -> Iterator[tuple[Path, str]]:
    """In the order of their hashes, so that a cap cuts a fair sample and not the end of the alphabet."""
    found: list[tuple[bytes, str, Path]] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not (suffix and name in _STDLIB_SKIP))
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if name.endswith(suffix) and path.is_file():
                found.append((_digest(relative), relative, path))
    for _, relative, path in sorted(found):
        yield path, relative


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _is_held_out(name: str) -> bool:
    return int.from_bytes(_digest(name), "little") % HELD_OUT_ONE_IN == 0


def _tensor(parts: list[bytes]) -> torch.Tensor:
    joined = bytearray(b"\n".join(parts))
    # frombuffer refuses an empty buffer; the caller reports the missing text itself.
    return torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)
