"""A run's log as a sequence of entries, each read and decoded when it is asked for: months of it take no memory.

Owns nothing but the looking up. It is as long as the log was when this was made; who rewrites that makes another.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from intellectd.protocol.records import Entry

if TYPE_CHECKING:
    from intellectd.daemon.store.run_store import RunStore


class Entries(Sequence[Entry]):
    """Reading raises CorruptFile, StorageError or Closed."""

    def __init__(self, store: "RunStore") -> None:
        self._store, self._rounds = store, range(store.length)

    def __len__(self) -> int:
        return len(self._rounds)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        found = self._rounds[index]
        return self._store.entry(found) if isinstance(found, int) else [self._store.entry(round_) for round_ in found]
