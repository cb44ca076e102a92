"""What this host gives to its peers on request: members, records, and objects of the bulk plane.

Owns the answers' forms. Reads only; nothing here decides. Object names are SPEC K9.
"""

from collections.abc import Callable

from intellectd.daemon.bulk.interface import MemoryObject, ServedObject
from intellectd.daemon.store.arriving import Arriving, all_held
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.daemon.store.hot_pieces import FileObject, HotPieces
from intellectd.daemon.store.run_store import RunStore
from intellectd.daemon.store.snapshot import extent_of
from intellectd.protocol.ids import encode
from intellectd.protocol.messages import EntriesAnswer, EntriesRequest, MembersAnswer

MEMBERS_BYTES_MAX = 384 * 1024  # below the control plane's message cap; about 300 beacons
OBJECT_NAME_CHARS_MAX = 200  # an update's has 136
ROUND_DIGITS_MAX = 12
NO_ENTRIES = encode(EntriesAnswer([]))


def entries_answer(store: RunStore, request: EntriesRequest, generation: bytes) -> bytes:
    if request.generation != generation:
        return NO_ENTRIES
    return encode(EntriesAnswer(store.entries_from(request.from_round)))


def members_answer(envelopes: list[bytes]) -> bytes:
    chosen: list[bytes] = []
    size = 0
    for envelope in envelopes:
        size += len(envelope) + 8
        if size > MEMBERS_BYTES_MAX:
            break
        chosen.append(envelope)
    return encode(MembersAnswer(chosen))


def update_name(run: bytes, root: bytes) -> str:
    return f"update/{run.hex()}/{root.hex()}"


def snapshot_name(run: bytes, round_: int, part: str) -> str:
    return f"snapshot/{run.hex()}/{max(0, round_)}/{part}"


def open_object(name: str, store_of: Callable[[str], RunStore | None], hot: HotPieces) -> ServedObject | None:
    """The bytes behind a name, or None. Runs in a worker thread; the name is a peer's and hostile."""
    parts = name.split("/")
    if len(parts) < 3 or len(name) > OBJECT_NAME_CHARS_MAX or not name.isascii():
        return None
    store = store_of(parts[1])
    if store is None:
        return None
    try:
        if parts[0] == "update" and len(parts) == 3:
            path = store.updates.path_of(bytes.fromhex(parts[2]))
            return FileObject(path, 0, path.stat().st_size, hot)
        if parts[0] == "snapshot" and len(parts) == 4 and _is_round(parts[2]):
            return _snapshot_part(store, int(parts[2]), parts[3], hot)
    except (OSError, ValueError, CorruptFile):
        return None  # not here, or not any more, or not in a state to be given to anybody
    return None


def _snapshot_part(store: RunStore, round_: int, part: str, hot: HotPieces) -> ServedObject | None:
    path, arriving = store.snapshot_path(round_), store.arriving
    if arriving is not None and arriving.round == round_ and not path.exists():
        return _arriving_part(arriving, part)
    store.asked.note(round_)
    match part:
        case "state":
            return FileObject(path, *extent_of(path, part), hot)
        case "held":
            _start, length = extent_of(path, "state")
            return MemoryObject(memoryview(all_held(length)))
        case "leaves":
            return MemoryObject(memoryview(store.leaves(round_)))
    return None


def _arriving_part(arriving: Arriving, part: str) -> ServedObject | None:
    match part:
        case "state":
            return arriving.state
        case "held":
            return MemoryObject(memoryview(arriving.held))
    return None


def _is_round(text: str) -> bool:
    return text.isdecimal() and len(text) <= ROUND_DIGITS_MAX
