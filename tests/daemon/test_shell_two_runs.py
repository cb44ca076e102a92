"""Two runs of one host share a bulk plane: what one of them knows of a peer must not spoil the other."""

from trio.testing import MockClock

from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.limits import TRUSTED_MAX
from intellectd.daemon.runs.serving import snapshot_name, update_name
from tests.daemon.shell_trainer import FakeTrainer
from tests.daemon.shell_world import Host, Shell, shell

OTHER = 'name = "other"\n[model]\nkind = "external"\n[swarm]\nstart_peers = 2\n'


async def in_two_runs(world: Shell) -> tuple[str, str, Host, Host]:
    """Two hosts, and both decide rounds in both of the runs."""
    one = await world.host("a", trainer=FakeTrainer("a1", run="shell"))
    two = await world.host("b", one, trainer=FakeTrainer("b1", run="shell"))
    for host in (one, two):
        FakeTrainer(host.name + "2", run="other").serve(world.nursery, host.config.socket)
    first, other = await one.init(2, 400), await one.init(toml=OTHER)
    for run_id in (first, other):
        await two.ask("join", run_id=run_id, peers=[one.address])
        await two.wait("round=2", run_id)
    return first, other, one, two


async def test_a_run_that_a_peer_has_left_does_not_spoil_its_next_life_in_the_other(autojump_clock: MockClock) -> None:
    """Its certificate is of its process: in the run that it is not in any more, that of its former life stands, for as
    long as it has a seat there."""
    async with shell() as world:
        first, other, one, two = await in_two_runs(world)
        await two.ask("leave", run_id=other, now=True)
        await two.kill()
        await two.start()
        assert two.peer in one.services[other].node.membership.peers
        seen = (await one.ask("status", run_id=first))["runs"][0]["round"]
        await one.wait(f"round={seen + 3}", first)
        assert world.bulk.engines[one.peer]._trusted[two.peer] == world.bulk.engines[two.peer].endpoint


async def test_a_run_full_of_names_leaves_the_other_its_peers(autojump_clock: MockClock) -> None:
    """Whoever knows its id can fill it, and the two together are more than the bulk plane takes."""
    async with shell() as world:
        first, other, one, two = await in_two_runs(world)
        assert one.registry is not None
        made_up = {f"made up {number}": Endpoint("10.0.0.1:1", b"") for number in range(TRUSTED_MAX)}
        for run_id, kept in ((first, other), (other, first)):
            one.registry.host.trust(one.services[run_id].run, made_up)
            trusted = world.bulk.engines[one.peer]._trusted
            assert two.peer in trusted and len(trusted) == TRUSTED_MAX, kept
            one.registry.host.trust(one.services[run_id].run, {two.peer: world.bulk.engines[two.peer].endpoint})


async def test_who_is_in_one_run_gets_nothing_of_the_other(autojump_clock: MockClock) -> None:
    """SPEC K9, I6: the bulk plane trusts whom any of the runs trusts, and the names of their objects are public."""
    async with shell() as world:
        first, other, one, two = await in_two_runs(world)
        three = await world.host("c", one, trainer=FakeTrainer("c", run="shell"))
        await three.ask("join", run_id=first, peers=[one.address])
        await one.until(lambda _run: three.peer in world.bulk.engines[one.peer]._trusted)

        def given(reader: Host, run_id: str) -> list[bool]:
            service, engine = one.services[run_id], world.bulk.engines[reader.peer]
            update, state = min(service.store.updates.held()), max(service.store.snapshots())
            names = update_name(service.run, update), snapshot_name(service.run, state, "state")
            return [engine._object_of(one.peer, name) is not None for name in names]

        assert given(two, first) == given(two, other) == given(three, first) == [True, True]
        assert given(three, other) == [False, False]
