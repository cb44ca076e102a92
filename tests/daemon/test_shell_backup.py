"""A run's folder that comes back from a backup: what was voted since is not in it. SPEC A13."""

import shutil

import trio.testing

from tests.daemon.shell_world import Host, shell
from tests.daemon.test_shell_swarm import swarm

Clock = trio.testing.MockClock
ROUNDS = 400  # more than come about


async def test_a_voter_from_a_backup_gives_its_seat_up_and_gets_a_new_one(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "abc", rounds=ROUNDS)
        old = hosts[2]
        folder, backup = old.state / "runs" / run_id, world.folder / "backup"
        await old.until(lambda run: old.peer in run["voters"])
        await old.end()
        shutil.copytree(folder, backup)
        await old.start()
        since = (await old.status())["head_round"]

        def has_voted(host: Host) -> bool:
            signers = [[v.voter for v in entry.certificate.votes] for entry in world.service(host).store.entries()]
            return any(old.peer in names for names in signers[since + 2 :])

        await old.until(lambda run: has_voted(hosts[0]) and has_voted(hosts[1]))
        await old.end()
        shutil.rmtree(folder)
        shutil.copytree(backup, folder)
        await old.start()
        await old.until(lambda run: any("as from a backup" in warning for warning in run["warnings"]))
        await old.until(lambda run: old.peer not in run["voters"])
        seated = (await old.until(lambda run: old.peer in run["voters"]))["head_round"]
        await old.until(lambda run: run["round"] > seated + 2 and old.peer in run["roster"])
