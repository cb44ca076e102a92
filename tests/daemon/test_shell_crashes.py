"""A daemon dies before any of its writes, from a ring's result to the round's state: it starts again as its peers are.

SPEC N2, A4, A7, C4, K3, over the real stores. Each image of its disk is opened as a start would open it: nothing in
it is damaged, all that was said is in it, and its log and states are the others'. Some are started for real.
"""

import itertools
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from intellectd.daemon.identity import Identity
from intellectd.daemon.runs.opening import Opened, open_run
from intellectd.daemon.runs.service import RunService
from intellectd.kernels.digest import update_root
from intellectd.kernels.outer import step_of
from intellectd.protocol import messages as m
from intellectd.protocol.ids import NO_HASH
from intellectd.protocol.manifest import from_float32_hex
from intellectd.protocol.records import record_hash
from tests.daemon.crash_images import Watched, watching
from tests.daemon.shell_world import shell
from tests.daemon.test_shell_swarm import finish_alike, rosters, swarm

Clock = trio.testing.MockClock
FIRST = 7  # a snapshot is written after the next round, and an older one goes
# Where a round touches the disk, in its order: promise, result, vote, record, then the snapshot.
PLACES = (
    ("write", "votes"),
    ("fdatasync", "votes"),
    ("fsync", "update.tmp"),
    ("replace", "update.tmp"),
    ("fsync", "updates"),
    ("write", "records"),
    ("fdatasync", "records"),
    ("fsync", "snapshot.tmp"),
    ("replace", "snapshot.tmp"),
    ("fsync", "snapshots"),
    ("unlink", "snapshot"),
    ("unlink", "update"),
    ("replace", "history.json.tmp"),
)
IMAGES_MAX = 1  # of a place where the host leads, and where it does not
QUICK = (("fdatasync", "votes"),)


def kind_of(path: Path) -> str:
    """Of a file or folder of a run: its name, or what there are many of."""
    end = ".tmp" if path.name.endswith(".tmp") else ""
    many = {"updates": "update", "snapshots": "snapshot"}.get(path.parent.name)
    return f"{many}{end}" if many else f"history.json{end}" if "history" in path.name else path.name


@dataclass
class Said:
    """The newest of what a host has told the others."""

    promise: m.Promise | None = None
    accepted: m.Accepted | None = None
    results: list[m.Result] = field(default_factory=list)
    led: bool = False
    head_round: int = -1

    def take(self, message: m.AnyMessage) -> None:
        if isinstance(message, m.Promise):
            self.promise = message
        elif isinstance(message, m.Accepted):
            self.accepted = message
        elif isinstance(message, m.Result):
            self.results.append(message)
        elif isinstance(message, m.Beacon):
            self.head_round = max(self.head_round, message.head_round)
        elif isinstance(message, m.Commit):
            self.head_round = max(self.head_round, message.entry.record.round)
        elif isinstance(message, m.Accept):
            self.led = True


def overhear(service: RunService, said: Said) -> None:
    """Everything that leaves this daemon."""
    network = service.host.network
    post = network.post

    def listening(peer: str, data: bytes) -> None:
        said.take(m.open_message(m.open_envelope(data), service.node.context.crypto))
        post(peer, data)

    network.post = listening  # type: ignore[method-assign]


@dataclass
class Seen:
    """What an image was found to hold."""

    where: str
    records: list[bytes]
    states: dict[int, bytes]  # digests, by round: of the state that was loaded, and of what follows from it here


def examine(where: str, folder: Path, identity: Identity, said: Said) -> Seen:
    """Open it as a start does. Whatever was said must be in it."""
    opened = open_run(folder, identity)
    try:
        assert len(opened.entries) > said.head_round, f"{where}: it told of a record that is not there"
        votes_are_there(where, opened, said)
        results_are_there(where, opened, said)
        return Seen(where, [record_hash(entry.record) for entry in opened.entries], states_of(opened))
    finally:
        opened.store.close()


def votes_are_there(where: str, opened: Opened, said: Said) -> None:
    """SPEC A4, A7."""
    journal = {vote.at.generation: vote for vote in opened.votes}
    if said.promise is not None:
        vote, at = journal[said.promise.at.generation], said.promise.at
        assert vote.at.round > at.round or (vote.at == at and vote.promised >= said.promise.ballot), where
    if said.accepted is not None:
        vote, at = journal[said.accepted.at.generation], said.accepted.at
        if vote.at.round > at.round:
            return
        assert vote.accepted is not None and vote.accepted_ballot is not None, where
        assert (vote.at, vote.accepted_ballot) >= (at, said.accepted.ballot) or vote.at != at, where
        assert record_hash(vote.accepted.record) == said.accepted.record, where
        root = vote.accepted.record.update_root
        assert root == NO_HASH or update_root(opened.store.updates.read_verified(root)) == root, where


def results_are_there(where: str, opened: Opened, said: Said) -> None:
    """SPEC C4: for as long as their round may be decided by them."""
    for result in said.results:
        if result.at.round >= len(opened.entries):
            assert update_root(opened.store.updates.read_verified(result.root)) == result.root, where


def states_of(opened: Opened) -> dict[int, bytes]:
    """SPEC K3: the state on the disk, and each that the log and the updates on the disk lead to."""
    assert opened.digest is not None
    found = {opened.applied: opened.digest}
    for entry in opened.entries[opened.applied + 1 :]:
        record, update = entry.record, None
        if record.update_root != NO_HASH:
            if not opened.store.updates.holds(record.update_root):
                break
            update = opened.store.updates.read_verified(record.update_root)
        step = step_of(record.optimizer, from_float32_hex(record.lr), from_float32_hex(record.momentum))
        found[record.round] = opened.state.apply(record.codec, update, step, "none")
    return found


async def test_before_every_write_of_a_round_the_disk_holds_what_was_said_and_what_the_peers_have(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=100)
        await hosts[0].wait(f"round={FIRST}")
        victim = hosts[1]
        service, said = world.service(victim), Said()
        seen, places = list[Seen](), Counter[tuple[str, str, bool]]()
        folder, number = victim.state / "runs" / run_id, itertools.count()
        overhear(service, said)

        def look(operation: str, path: Path) -> None:
            place = (operation, kind_of(path), service.node.round.leading.attempt is not None)
            places[place] += 1
            if places[place] > IMAGES_MAX:
                return
            for kind, image in (("killed", watched.killed), ("cut off", watched.cut_off)):
                target = world.folder / "images" / run_id
                where = f"{kind} before {operation} {next(number)} of {path.name}, round {service.node.head.round}"
                image(target)
                seen.append(examine(where, target, service.host.identity, said))
                shutil.rmtree(target)

        watched = Watched(folder, look)
        with watching(watched, monkeypatch):
            # Until it has led a round and followed another: who does is drawn by lot.
            with trio.fail_after(600):
                while not (said.led and said.results and all((*place, False) in places for place in PLACES)):
                    await service.changed.wait()
        await hosts[0].wait(f"round={service.node.head.round + 1}")
        store = world.service(hosts[0]).store
        log, rounds = store.entries(), world.service(hosts[0]).journal.rounds
        for image in seen:
            assert image.records == [record_hash(entry.record) for entry in log[: len(image.records)]], image.where
            for round_, digest in image.states.items():
                agreed = store.manifest().manifest.state_digest.hex() if round_ <= 0 else rounds[round_].state_digest
                assert digest.hex() == agreed, f"{image.where}: state {round_}"


class Dead(BaseException):
    """The process is no more."""


@pytest.mark.parametrize("power", [False, True], ids=["killed", "cut off"])
@pytest.mark.parametrize(
    "place", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow, id="-".join(p)) for p in PLACES]
)
async def test_whoever_dies_before_a_write_starts_again_as_its_peers_are(
    place: tuple[str, str], power: bool, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon ends there, its disk is as it was then, and it is started again while the others go on."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=9)
        victim = hosts[1]
        await victim.wait("round=3")
        folder, image = victim.state / "runs" / run_id, world.folder / "image"

        def die(operation: str, path: Path) -> None:
            if (operation, kind_of(path)) == place and not image.exists():
                (watched.cut_off if power else watched.killed)(image)
                raise Dead

        watched = Watched(folder, die)
        with watching(watched, monkeypatch):
            assert isinstance(await victim.died(), Dead)
        shutil.rmtree(folder)  # with what a dying program still tidied up
        image.rename(folder)
        await victim.start()
        await finish_alike(hosts, 9)
        assert victim.peer in (await rosters(hosts[0], run_id))[9]
