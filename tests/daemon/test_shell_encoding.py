"""Whole daemons whose trainers encode their deltas themselves, as an SDK does whose model is on a GPU."""

import trio.testing

from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import shell
from tests.daemon.test_shell_swarm import finish_alike, rosters

Clock = trio.testing.MockClock


async def digest_alone(encodes: bool) -> object:
    async with shell() as world:
        trainer = FakeTrainer("a")
        trainer.encodes = encodes
        host = await world.host("a", trainer=trainer)
        await host.init(1, 5)
        status = await finish_alike([host], 5)
        first_two = [1, 2]  # the first parameters, and with them the run, came before anything was asked for
        assert trainer.encoded[:2] == (first_two if encodes else [])
        return status["state_digest"]


async def test_a_run_has_the_same_bits_whoever_encodes(autojump_clock: Clock) -> None:
    """Of a host alone, for then the order of a ring is no matter of chance."""
    assert await digest_alone(encodes=True) == await digest_alone(encodes=False)


async def test_stragglers_carry_their_own_work_over(autojump_clock: Clock) -> None:
    """b's round 2 ends with a NaN; c is late for round 4. Both encode, a does not."""
    async with shell() as world:
        trainers = {name: FakeTrainer(name) for name in "abc"}
        trainers["b"].encodes = trainers["c"].encodes = True
        trainers["b"].nan_rounds = [2]
        trainers["c"].slow_rounds = {4: 11.1}  # it is ready while the others, after 10 s and 1 s more, agree without it
        hosts = [await world.host("a", trainer=trainers["a"])]
        run_id = await hosts[0].init(3, 8)
        for name in "bc":
            hosts.append(await world.host(name, hosts[0], trainers[name]))
            await hosts[-1].ask("join", run_id=run_id, peers=[hosts[0].address])
        status = await hosts[1].until(lambda run: run["round"] >= 3)
        assert any("tensor 'bias' holds a NaN" in warning for warning in status["warnings"])
        await finish_alike(hosts, 8)
        seen = await rosters(hosts[0], run_id)
        peer_b, peer_c = hosts[1].peer, hosts[2].peer
        assert peer_b not in seen[2] and peer_c not in seen[4]
        assert peer_c in seen[5] or peer_c in seen[6]
        weights = {r["round"]: r["weights"] for r in (await hosts[0].ask("rounds", run_id=run_id))["rounds"]}
        late = next(round_ for round_ in (5, 6) if peer_c in seen[round_])
        assert weights[late][peer_c] >= 1000
        assert trainers["c"].encoded == trainers["c"].delivered != []
        carried = [frame for frame in trainers["c"].frames if frame.get("carry")]
        assert [frame["carried_over"] for frame in carried] == [True] * len(carried) != []
        assert not any(frame.get("carry") for frame in trainers["a"].frames)
