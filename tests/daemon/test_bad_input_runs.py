"""Bad input to a daemon that runs: each refused by name, with a next step, and nothing is left behind."""

import functools
from typing import Any

import pytest
import trio
import trio.testing

from intellectd.daemon.memory_net import open_memory_network
from intellectd.daemon.net import WIRE_VERSION
from intellectd.daemon.p2p.wire import Preamble
from intellectd.daemon.runs import operations
from intellectd.kernels.layout import TensorSpec
from intellectd.protocol.run_id import from_manifest_hash, run_key, run_secret
from tests.daemon.shell_trainer import LAYOUT, FakeTrainer
from tests.daemon.shell_world import Host, Refused, shell
from tests.daemon.test_shell_swarm import finish_alike, refusal, swarm

Clock = trio.testing.MockClock
UNKNOWN = from_manifest_hash(bytes(range(32)))
NOBODY = "12D3KooWGRUrbUcLyGE9xKdMmKjDsHmKDqUvDcBkGQBz9rm8vFrE"


def nothing_is_kept(host: Host) -> None:
    assert [path.name for path in (host.state / "runs").iterdir()] == []


# ---- joining


async def test_a_mistyped_run_id(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a")
        typo = UNKNOWN[:10] + ("a" if UNKNOWN[10] != "a" else "b") + UNKNOWN[11:]
        for text, what in (
            (typo, "one of its characters was mistyped"),
            ("xyz", "no run id"),
            (UNKNOWN[:-3], "missing"),
        ):
            error = await refusal(host, "join", run_id=text, peers=[])
            assert error.code == "bad_run_id" and what in error.message and "copy the whole id" in error.hint
        nothing_is_kept(host)


async def test_a_run_that_nobody_knows(autojump_clock: Clock) -> None:
    async with shell() as world:
        one = await world.host("a")
        two = await world.host("b", one)
        error = await refusal(two, "join", run_id=UNKNOWN, peers=[one.address])
        assert error.code == "unknown_run"
        assert "the 1 peers that were reached do not know this run" in error.message and "run id" in error.hint
        nothing_is_kept(two)


async def test_a_peer_that_cannot_be_reached(autojump_clock: Clock) -> None:
    async with shell() as world:
        host = await world.host("a")
        address = f"/ip4/127.0.0.1/tcp/9/p2p/{NOBODY}"
        began = trio.current_time()
        error = await refusal(host, "join", run_id=UNKNOWN, peers=[address])
        assert error.code == "unreachable"
        assert address in error.message and "Connection refused" in error.message and "firewall" in error.hint
        assert trio.current_time() - began < 20  # a typo does not cost the whole patience of the search
        error = await refusal(host, "join", run_id=UNKNOWN, peers=[])
        assert error.code == "no_peers" and "--peer" in error.hint
        assert trio.current_time() - began < 20  # nor does a forgotten --peer
        for junk in ("hello", "/ip4/1.2.3.4/tcp/4001", "/ip4/1.2.3.4/udp/1/p2p/" + NOBODY, host.address):
            error = await refusal(host, "join", run_id=UNKNOWN, peers=[junk])
            assert error.code == "bad_address" and junk in error.message
        nothing_is_kept(host)


async def test_one_dead_address_among_good_ones_keeps_nobody_out(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "a", rounds=30)
        late = await world.host("late", hosts[0])
        dead = f"/ip4/127.0.0.1/tcp/9/p2p/{NOBODY}"
        await late.ask("join", run_id=run_id, peers=[dead, hosts[0].address])
        await late.wait("synced")


async def test_a_peer_of_another_wire_version(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "a", rounds=6)
        newer = functools.partial(
            open_memory_network, preamble=Preamble(wire=WIRE_VERSION + 1, software="intellectd 9.9")
        )
        world.open_network = newer
        other = await world.host("newer", hosts[0])
        error = await refusal(other, "join", run_id=run_id, peers=[hosts[0].address])
        assert error.code == "version"
        assert f"speaks wire version {WIRE_VERSION}" in error.message
        assert f"this host (intellectd 9.9) speaks {WIRE_VERSION + 1}" in error.message
        assert f"upgrade {hosts[0].peer}" in error.message and "same version" in error.hint
        nothing_is_kept(other)
        await finish_alike(hosts, 6)  # and the run does not mind


async def test_a_manifest_of_another_run_is_not_taken(autojump_clock: Clock) -> None:
    """A peer that answers for any run, with what it has."""
    async with shell() as world:
        _run_id, hosts = await swarm(world, "a", rounds=6)
        liar = world.service(hosts[0])
        liar.run, liar.secret = run_key(UNKNOWN), run_secret(UNKNOWN)
        other = await world.host("b", hosts[0])
        error = await refusal(other, "join", run_id=UNKNOWN, peers=[hosts[0].address])
        assert error.code == "false_manifest" and hosts[0].peer in error.message
        nothing_is_kept(other)


# ---- trainers


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        (
            (TensorSpec("embed", (300, 201)), TensorSpec("bias", (40,))),
            "'embed' [300, 201], of the run 'embed' [300, 200]",
        ),
        ((TensorSpec("embed", (300, 200)),), "missing, of the run 'bias' [40]"),
        (
            (*[TensorSpec(s.name, s.shape) for s in LAYOUT.slots], TensorSpec("more", (1,))),
            "'more' [1], of the run missing",
        ),
        ((TensorSpec("bias", (40,)), TensorSpec("embed", (300, 200))), "tensor 1 of the trainer is 'bias'"),
    ],
    ids=["shape", "too-few", "too-many", "order"],
)
async def test_a_trainer_whose_tensors_do_not_match(
    tensors: tuple[TensorSpec, ...], what: str, autojump_clock: Clock
) -> None:
    async with shell() as world:
        _, (host,) = await swarm(world, "a", rounds=4)
        other = FakeTrainer("other", tensors=tensors)
        other.serve(world.nursery, host.config.socket)
        await host.until(lambda run: bool(other.refused))
        error = other.refused[0]
        assert error["code"] == "tensor_mismatch" and what in error["message"]
        assert "`intellectd runs --json` shows its `config`" in error["hint"]
        assert (await host.ask("runs"))["runs"][0]["config"]["model"] == {"kind": "external"}
        await other.end()
        await host.wait("finished")


# ---- questions


async def test_questions_that_make_no_sense(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=3)
        cases: list[tuple[str, dict[str, Any], str]] = [
            ("wait", {"run_id": run_id, "for": "tea"}, "cannot wait for 'tea'"),
            ("wait", {"run_id": run_id, "for": "round=x"}, "names no round"),
            ("wait", {"run_id": run_id, "for": 5}, "for is missing or no text"),
            ("wait", {"run_id": run_id, "for": "synced", "timeout_s": "soon"}, "timeout_s is 'soon', not a number"),
            ("wait", {"run_id": run_id, "for": "synced", "timeout_s": float("nan")}, "not a number"),
            ("rounds", {"run_id": run_id, "since": "all"}, "since is 'all', not a number"),
            ("rounds", {"run_id": run_id, "last": "all"}, "last is 'all', not a number"),
            ("rounds", {"run_id": ["x"]}, "run_id is missing or no text"),
            ("join", {"run_id": run_id, "peers": "me"}, "peers is no list of texts"),
            ("export", {"run_id": run_id, "path": "here"}, "no absolute path"),
            ("export", {"run_id": run_id, "path": "/tmp/x", "format": "pickle"}, "unknown format"),
        ]
        for op, fields, what in cases:
            error = await refusal(host, op, **fields)
            assert error.code == "usage" and what in error.message, (op, fields, error)
        for fields in ({"run_id": UNKNOWN}, {"run_id": "nobody's"}):
            error = await refusal(host, "wait", **{"for": "synced", **fields})
            assert error.code == "no_such_run" and "intellectd runs" in error.hint


async def test_a_wait_of_no_time_answers_at_once(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=30)
        began = trio.current_time()
        answer = await host.ask("wait", **{"run_id": run_id, "for": "finished", "timeout_s": 0})
        assert answer["reached"] is False and trio.current_time() - began < 1


async def test_who_waits_for_a_run_that_is_left_hears_of_it(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=300)
        told: list[Refused] = []

        async def wait() -> None:
            told.append(await refusal(host, "wait", **{"run_id": run_id, "for": "finished", "timeout_s": 80_000}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await host.wait("round=2")
            await host.ask("leave", run_id=run_id)
        assert told[0].code == "no_such_run" and "was left meanwhile" in told[0].message


async def test_the_history_comes_in_answers_that_fit(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=9)
        await host.wait("finished")
        monkeypatch.setattr(operations, "ROUNDS_BYTES_MAX", 3 * (operations.ROUND_BYTES + operations.MEMBER_BYTES))
        seen: list[int] = []
        while answer := (await host.ask("rounds", run_id=run_id, since=len(seen) + 1))["rounds"]:
            assert 0 < len(answer) <= 3
            seen += [r["round"] for r in answer]
        assert seen == list(range(1, 10))
        newest = (await host.ask("rounds", run_id=run_id, last=2))["rounds"]
        assert [r["round"] for r in newest] == [8, 9]
        first_of_many = (await host.ask("rounds", run_id=run_id, last=4))["rounds"]  # the rest is asked for since 9
        assert [r["round"] for r in first_of_many] == [6, 7, 8]
        assert len((await host.ask("rounds", run_id=run_id, last=0))["rounds"]) == 1


async def test_questions_about_one_run(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=2)
        for name in (run_id, "shell", ""):
            (run,) = (await host.ask("status", run_id=name))["runs"]
            assert run["run_id"] == run_id and (await host.ask("peers", run_id=name))["peers"] == []
        for op in ("status", "peers", "netcheck"):
            error = await refusal(host, op, run_id="nine")
            assert error.code == "no_such_run" and "not in run 'nine'" in error.message
            assert (await refusal(host, op, run_id=9)).code == "usage"


async def test_leaving_twice_at_once_leaves_once(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, (host,) = await swarm(world, "a", rounds=300)
        outcomes: list[str] = []

        async def leave() -> None:
            try:
                await host.ask("leave", run_id=run_id)
                outcomes.append("left")
            except Refused as error:
                outcomes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(leave)
        assert outcomes == ["left"] * 3
        assert (await host.ask("leave", run_id=run_id))["left"]  # who missed the answer asks again
        error = await refusal(host, "leave", run_id="shell")
        assert error.code == "no_such_run"
