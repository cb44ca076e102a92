"""The append-only file under the log and the votes: torn, damaged, swapped, full, closed."""

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon.atomic import StorageFull
from intellectd.daemon.errors import EXIT_CONFIG
from intellectd.daemon.store import frame_file
from intellectd.daemon.store.frame_file import HEADER_BYTES, Closed, CorruptFile, FrameFile, Frames
from tests.daemon.ram import ram_folder, ram_path

__all__ = ["ram_path"]
MAGIC = b"frames-1\n"
BODIES = [b"first", b"the second one", b"3" * 40]


def open_file(path: Path) -> FrameFile:
    return FrameFile(path, MAGIC, "restore it")


def bodies_of(path: Path) -> list[bytes]:
    file = open_file(path)
    try:
        return [file.read(index) for index in range(len(file))]
    finally:
        file.close()


@pytest.fixture
def path(ram_path: Path) -> Path:
    path = ram_path / "log"
    file = FrameFile.create(path, MAGIC, "restore it")
    for body in BODIES:
        file.append(body)
    file.close()
    return path


def ends() -> list[int]:
    """Where each frame ends, the magic first."""
    found = [len(MAGIC)]
    for body in BODIES:
        found.append(found[-1] + HEADER_BYTES + len(body))
    return found


def test_what_was_appended_is_read_and_goes_on(path: Path) -> None:
    assert bodies_of(path) == BODIES
    file = open_file(path)
    file.append(b"fourth")
    assert file.read(3) == b"fourth"
    file.close()
    assert bodies_of(path) == [*BODIES, b"fourth"]


def test_cut_off_anywhere_it_holds_what_was_whole_and_goes_on(path: Path) -> None:
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if cut < len(MAGIC):
            with pytest.raises(CorruptFile):
                open_file(path)
            assert path.read_bytes() == whole[:cut]
            continue
        expected = BODIES[: sum(1 for end in ends()[1:] if end <= cut)]
        reader = Frames(path, MAGIC, "")
        assert list(reader) == expected and reader.unfinished_bytes == cut - ends()[len(expected)]
        assert path.stat().st_size == cut, "it was only to be read"
        file = open_file(path)
        assert [file.read(index) for index in range(len(file))] == expected, cut
        file.append(b"after the crash")
        file.close()
        assert bodies_of(path) == [*expected, b"after the crash"], cut


@pytest.mark.parametrize("change", [1, 0x80, 0xFF])
def test_one_changed_byte_anywhere_is_noticed_and_nothing_is_touched(path: Path, change: int) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile):
            list(Frames(path, MAGIC, ""))
        with pytest.raises(CorruptFile) as raised:
            open_file(path)
        assert raised.value.exit_code == EXIT_CONFIG
        assert str(path) in raised.value.message and raised.value.hint == "restore it"
        assert path.read_bytes() == damaged, at


@given(cut=st.integers(0, 250), at=st.integers(0, 250), change=st.integers(1, 255), tail=st.binary(max_size=80))
def test_whatever_happens_to_it_it_never_says_what_was_not_written(cut: int, at: int, change: int, tail: bytes) -> None:
    with ram_folder() as folder:
        path = folder / "log"
        file = FrameFile.create(path, MAGIC, "")
        for body in BODIES:
            file.append(body)
        file.close()
        changed = bytearray(path.read_bytes()[:cut] + tail)
        if at < len(changed):
            changed[at] ^= change
        path.write_bytes(changed)
        try:
            found = bodies_of(path)
        except CorruptFile:
            assert path.read_bytes() == changed
        else:
            assert found == BODIES[: len(found)]


def test_frames_cannot_be_swapped_doubled_or_dropped(path: Path) -> None:
    whole, (zero, one, two, three) = path.read_bytes(), ends()
    frames = [whole[zero:one], whole[one:two], whole[two:three]]
    for order in ((1, 0, 2), (0, 0, 1), (1, 2), (0, 2), (2,)):
        path.write_bytes(MAGIC + b"".join(frames[i] for i in order))
        with pytest.raises(CorruptFile):
            open_file(path)


def test_a_file_of_something_else_and_one_that_is_gone_are_refused(path: Path) -> None:
    with pytest.raises(CorruptFile, match="damaged at byte 0"):
        FrameFile(path, b"another-1\n", "")
    path.unlink()
    with pytest.raises(CorruptFile, match="is missing"):
        open_file(path)
    assert not path.exists()


def test_a_disk_that_fills_up_in_a_frame_takes_nothing_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = path.read_bytes(), os.write
    room = [30]

    def little(descriptor: int, data: bytes) -> int:
        taken = min(len(data), room[0])
        room[0] -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, bytes(data[:taken]))

    file = open_file(path)
    monkeypatch.setattr(frame_file.os, "write", little)
    with pytest.raises(StorageFull, match="No space left"):
        file.append(b"x" * 100)
    assert path.read_bytes() == before
    room[0] = 10_000
    file.append(b"y" * 100)  # there is room again
    file.close()
    assert bodies_of(path) == [*BODIES, b"y" * 100]


def test_a_write_in_many_small_parts_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(frame_file.os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    file = open_file(path)
    file.append(b"z" * 100)
    file.close()
    assert bodies_of(path) == [*BODIES, b"z" * 100]


def test_rewriting_is_all_or_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_file(path)
    real = os.fdatasync

    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(frame_file.os, "fdatasync", fails)
    with pytest.raises(StorageFull):
        file.rewrite([b"only"])
    monkeypatch.setattr(frame_file.os, "fdatasync", real)
    assert [file.read(i) for i in range(len(file))] == BODIES
    assert [p.name for p in path.parent.iterdir()] == ["log"]
    file.rewrite([b"only"])
    file.append(b"and this")
    assert [file.read(i) for i in range(len(file))] == [b"only", b"and this"]
    file.close()
    assert bodies_of(path) == [b"only", b"and this"]
    assert [p.name for p in path.parent.iterdir()] == ["log"]


def test_a_reader_in_another_thread_hears_that_the_file_was_closed(path: Path) -> None:
    file = open_file(path)
    seen: list[object] = []

    def read_on() -> None:
        try:
            while True:
                seen.append(file.read(len(seen) % len(BODIES)))
                if len(seen) == 50:
                    started.set()
        except Closed as error:
            seen.append(error)

    started = threading.Event()
    thread = threading.Thread(target=read_on)
    thread.start()
    assert started.wait(10)
    for _ in range(20):
        file.append(b"meanwhile")
    file.close()
    file.close()
    thread.join(10)
    assert isinstance(seen[-1], Closed)
    assert all(body == BODIES[index % len(BODIES)] for index, body in enumerate(seen[:-1]))


@pytest.mark.parametrize("kept", range(0, 2048, 512))
def test_a_last_frame_of_which_a_disk_wrote_some_sectors_is_cut_off(path: Path, kept: int) -> None:
    """The length is there, some of the bytes are not: nobody was told that it is."""
    file = open_file(path)
    file.append(b"x" * 2048)
    file.close()
    whole, begins = path.read_bytes(), ends()[-1]
    first = begins - begins % 512 + kept
    path.write_bytes(whole[: max(begins, first)] + bytes(512) + whole[max(begins, first) + 512 :])
    assert bodies_of(path) == BODIES
    assert path.stat().st_size == begins


def test_sectors_that_vanished_before_whole_frames_are_damage_and_nothing_is_cut_off(path: Path) -> None:
    file = open_file(path)
    file.append(b"x" * 2048)
    file.append(b"last")
    file.close()
    whole, begins = path.read_bytes(), ends()[-1]
    path.write_bytes(whole[:begins] + bytes(1024) + whole[begins + 1024 :])
    damaged = path.read_bytes()
    with pytest.raises(CorruptFile):
        open_file(path)
    assert path.read_bytes() == damaged
