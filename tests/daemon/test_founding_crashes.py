"""A host whose program dies, or whose power goes, while a run is founded: it has the run whole, or there is none.

SPEC C4. The last step is a folder that gets its name; who has that has all of it, and the owner's key.
"""

import shutil
from pathlib import Path

import pytest
import trio
import trio.testing

from intellectd.daemon.identity import Identity, OwnerKey
from intellectd.daemon.runs.opening import open_run
from tests.daemon.crash_images import Content, Watched, watching
from tests.daemon.shell_world import Host, shell

Clock = trio.testing.MockClock
MODES: tuple[tuple[bool, Content], ...] = ((True, "now"), (False, "synced"), (True, "zeros"), (False, "half"))


def founded_in(state: Path, identity: Identity) -> list[str]:
    """Runs that a daemon would find there, each of which opens, with its first state and its owner's key."""
    found = [path for path in sorted((state / "runs").iterdir()) if not path.name.startswith(".")]
    for path in found:
        opened = open_run(path, identity)
        opened.store.close()
        assert opened.digest == opened.manifest.state_digest and opened.vote is not None
        assert OwnerKey.load(state / "owner-keys" / f"{path.name}.pem").peer_id == opened.manifest.owner
    return [path.name for path in found]


async def test_before_every_write_of_a_founding_there_is_all_of_the_run_or_none_of_it(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shell() as world:
        host = await world.host("a")
        identity = Identity.load_or_create(host.config.identity_path)
        image, seen = world.folder / "image", list[tuple[str, list[list[str]]]]()

        def look(operation: str, path: Path) -> None:
            runs = list[list[str]]()
            for names_now, content in MODES:
                watched.between(image, names_now, content)
                try:
                    runs.append(founded_in(image, identity))
                except Exception as error:
                    error.add_note(f"before {operation} of {path}, names now {names_now}, bytes {content}")
                    raise
                finally:
                    shutil.rmtree(image)
            seen.append((operation, runs))

        watched = Watched(host.state, look)
        with watching(watched, monkeypatch):
            run_id = await host.init(1, 2)
        assert founded_in(host.state, identity) == [run_id]
    there, none = [run_id], list[str]()
    ways = [runs for _operation, runs in seen]
    assert ways[0] == [none] * len(MODES)
    assert [there, none, there, none] in ways, "it has its name, and a disk may not have written that yet"
    assert all(runs in ([none] * 4, [there, none, there, none], [there] * 4) for runs in ways), seen
    assert "replace" in [operation for operation, runs in seen if not any(runs)]


async def image_at_the_rename(host: Host, image: Path, power: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a crash just after the folder got its name leaves."""

    def look(operation: str, path: Path) -> None:
        named = [run for run in (host.state / "runs").iterdir() if not run.name.startswith(".")]
        if operation == "fsync" and path == host.state / "runs" and named:
            (watched.cut_off if power else watched.killed)(image)

    watched = Watched(host.state, look)
    with watching(watched, monkeypatch):
        return await host.init(1, 2)


@pytest.mark.parametrize("power", [False, True], ids=["killed", "cut off"])
async def test_a_daemon_starts_from_what_a_crash_at_the_last_step_leaves(
    power: bool, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shell() as world:
        host = await world.host("a")
        image = world.folder / "image"
        run_id = await image_at_the_rename(host, image, power, monkeypatch)
        await host.kill()
        shutil.rmtree(host.state)
        image.rename(host.state)
        await host.start()
        assert list(host.services) == ([] if power else [run_id])
        assert not list((host.state / "runs").glob(".*")), "what was half made is gone"
        if power:
            await host.init(1, 2)
        await host.wait("finished")
