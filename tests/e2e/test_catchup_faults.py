"""Catching up while donors die, a disk fills up, and bytes change on disks: real daemons, real kills."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.host import Host, light_trainer
from tests.e2e.swarm import Swarm
from tests.e2e.test_catchup import MIB, SLOW, proven
from tests.e2e.test_swarm import agree

pytestmark = pytest.mark.slow

PIECE = 2**20
BALLAST = 2 * MIB  # pieces of the whole state, but for the few hundred parameters that are trained
ENDS_S = 10.0  # a daemon that is ready, and finds no room for what it goes on with, is gone by then
ROUNDS = 5  # the state after the fourth is proven by the fifth


def founded(swarm: Swarm, hosts: int) -> list[Host]:
    trainer = light_trainer(swarm.gate.path, str(MIB))
    first = [swarm.host(trainer, forked=True, network=SLOW) for _ in range(hosts)]
    swarm.begin(first, 'outer = { codec = "int8" }')
    swarm.advance(first, ROUNDS)
    return first


def joining(swarm: Swarm, through: Host, pieces: int) -> Host:
    """A host that has so many pieces on its disk."""
    late = swarm.host(light_trainer(swarm.gate.path, str(MIB)), forked=True)
    late.wait_ready()
    swarm.join(late, through=through)
    late.wait_until(swarm.run_id, lambda _run: proven(late, swarm.run_id) >= pieces)
    return late


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        (byte,) = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


def test_all_donors_but_one_are_killed_and_the_rest_comes_from_that_one(swarm: Swarm) -> None:
    first = founded(swarm, 3)
    late = joining(swarm, first[0], 20)
    for host in first[1:]:
        host.kill()
    assert proven(late, swarm.run_id) < BALLAST
    late.wait(swarm.run_id, "synced")
    for host in first[1:]:
        host.start()
        host.wait_ready()
    everybody = [*first, late]
    swarm.until_contributed(late, seen_by=everybody)
    agree(everybody)


def test_bytes_that_changed_on_a_donors_and_on_the_joiners_disk_are_found_out(swarm: Swarm) -> None:
    first = founded(swarm, 2)
    for file in (first[0].state / "runs" / swarm.run_id / "snapshots").iterdir():
        flip(file, file.stat().st_size // 2)
    late = joining(swarm, first[0], 30)
    late.kill()
    (file,) = (late.state / "runs" / swarm.run_id / "incoming").glob("*.state")
    words = next((late.state / "runs" / swarm.run_id / "incoming").glob("*.proven")).read_bytes()
    piece = words[-BALLAST - 2 :].index(1)
    flip(file, file.stat().st_size - 2 * MIB * PIECE + piece * PIECE + 4711 if piece else 4711)
    late.start()
    late.wait_ready()
    late.wait(swarm.run_id, "synced")
    everybody = [*first, late]
    swarm.until_contributed(late, seen_by=everybody)
    agree(everybody)


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[None]:
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no small disk can be made here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_disk_that_fills_up_on_the_way_keeps_what_came_before_and_what_comes_after(
    swarm: Swarm, tmp_path: Path
) -> None:
    """The state has its room, and so have the words about it. For want of any other it ends, and says so."""
    first = founded(swarm, 2)
    with small_disk(tmp_path / "host-3", 2 * MIB + 64 + 20):
        late = joining(swarm, first[0], BALLAST // 4)
        early = proven(late, swarm.run_id)
        filler = late.state / "filler"
        with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(PIECE))
                file.flush()
        late.wait_until(swarm.run_id, lambda _run: proven(late, swarm.run_id) > early or arrived(late, swarm.run_id))
        late.kill()
        kept = BALLAST if arrived(late, swarm.run_id) else proven(late, swarm.run_id)
        said = len(late.log.read_bytes())
        late.start()
        goes_on = late.ready_or_ended() and not ends(late)  # all that it has to write has room, taken before
        filler.unlink()
        if not goes_on:
            assert b"No space left on device" in late.log.read_bytes()[said:], late.told("it ended")
            late.start()
            late.wait_ready()
        late.wait(swarm.run_id, "synced")
        seen = late.run_status()["catchup"]
        assert kept == BALLAST or seen["kept_bytes"] > (kept - 2) * PIECE, late.told(str(seen))
        everybody = [*first, late]
        swarm.until_contributed(late, seen_by=everybody)
        agree(everybody)
        late.process.terminate()
        late.ended()


def ends(host: Host) -> bool:
    try:
        assert host.process.wait(ENDS_S), "it has not been told to end"
    except subprocess.TimeoutExpired:
        return False
    return True


def arrived(host: Host, run_id: str) -> bool:
    return (host.state / "runs" / run_id / "snapshots" / "00000004.safetensors").exists()
