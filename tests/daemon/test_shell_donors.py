"""Donors and members that serve what they should not, and plans and messages that no honest peer sends."""

import contextlib
import inspect
from typing import get_args

import msgspec
import pytest
import trio
import trio.testing

from intellectd.daemon.memory_bulk import Tamper
from intellectd.daemon.net import NetworkError
from intellectd.daemon.runs.driver import MESSAGES_PER_PEER_MAX
from intellectd.daemon.runs.service import RunService
from intellectd.kernels.digest import update_root
from intellectd.protocol import effects as ef
from intellectd.protocol import messages as m
from intellectd.protocol.context import leader_of
from intellectd.protocol.events import MessageReceived
from intellectd.protocol.ids import Ballot, encode
from tests.daemon.shell_world import Host, Shell, shell
from tests.daemon.test_shell_status import samples
from tests.daemon.test_shell_swarm import finish_alike, swarm

Clock = trio.testing.MockClock


def flips(kind: str, served: list[str], part: str = "") -> Tamper:
    """One bit of every object of this kind, or of this part of it, on its way to whoever asks."""

    def tamper(reader: str, name: str, data: bytes) -> bytes:
        if not name.startswith(kind) or not name.endswith(part):
            return data
        served.append(name)
        at = min(5000, len(data) - 1)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return tamper


async def joined_late(world: Shell, hosts: list[Host], run_id: str) -> Host:
    late = await world.host("late", hosts[0])
    await late.ask("join", run_id=run_id, peers=[hosts[0].address])
    return late


async def asked(world: Shell, late: Host, honest: Host, served: list[str]) -> None:
    """Until the liar was asked: the honest one is out of reach that long, and then it is not."""
    world.bulk.stall(honest.peer)
    await late.until(lambda run: bool(served))
    world.bulk.stall(honest.peer, False)


@pytest.mark.parametrize("part", ["leaves", "state"])
async def test_a_donor_of_wrong_states_is_passed_over(part: str, autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=9)
        await hosts[0].wait("round=6")
        served: list[str] = []
        world.bulk.tamper[hosts[0].peer] = flips("snapshot", served, part)
        late = await joined_late(world, hosts, run_id)
        await asked(world, late, hosts[1], served)
        await late.wait("synced")
        await finish_alike([*hosts, late], 9)


async def test_with_only_wrong_donors_nothing_is_installed_until_an_honest_one_comes(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=11)
        await hosts[0].wait("round=6")
        served: list[str] = []
        for host in hosts:
            world.bulk.tamper[host.peer] = flips("snapshot", served)
        late = await joined_late(world, hosts, run_id)
        await hosts[0].wait("round=9")
        status = await late.status()
        assert served and status["state_digest"] is None and status["state"] == "joining"
        assert any("the state is not the one that the log proves" in warning for warning in status["warnings"])
        assert list((late.state / "runs" / run_id / "snapshots").iterdir()) == []
        world.bulk.tamper.clear()
        await late.wait("synced")
        await finish_alike([*hosts, late], 11)


async def test_wrong_updates_are_dropped_and_fetched_elsewhere(autojump_clock: Clock) -> None:
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=10)
        await hosts[0].wait("round=7")  # a snapshot of round 4, and updates behind it
        served: list[str] = []
        world.bulk.tamper[hosts[0].peer] = flips("update", served)
        late = await joined_late(world, hosts, run_id)
        await asked(world, late, hosts[1], served)
        await late.wait("synced")
        await finish_alike([*hosts, late], 10)
        store = world.service(late).store
        assert store.updates.held() and not list(store.updates.path.glob(".*"))
        for root in store.updates.held():
            assert update_root(store.updates.read(root)) == root


async def test_a_late_update_is_asked_of_another_donor(autojump_clock: Clock) -> None:
    """SPEC K13: at once, not when the first one's silence has been waited out."""
    async with shell() as world:
        _, (host, slow, quick) = await swarm(world, "abc", rounds=2)
        await finish_alike([host, slow, quick], 2)
        service, given = world.service(host), list[str]()
        record = service.store.entry(2).record

        def note(_reader: str, name: str, data: bytes) -> bytes:
            given.append(name)
            return data

        world.bulk.tamper[quick.peer] = note
        world.bulk.stall(slow.peer)
        began = trio.current_time()
        for donor in (slow, slow, quick):
            await service.performer(ef.FetchUpdate(record.update_root, record.update_bytes, donor.peer))
        assert not given
        await host.until(lambda _run: bool(given) and not list(service.store.updates.path.glob(".*")))
        assert trio.current_time() - began < service.config.timers.stall_s
        assert given == [f"update/{service.run.hex()}/{record.update_root.hex()}"]
        assert service.store.updates.holds(record.update_root)


async def test_a_plan_that_cannot_be_is_refused_and_the_daemon_lives(autojump_clock: Clock) -> None:
    """What a lying leader may plan: members twice, no weights, too many at once. None of it may end a daemon."""
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=5)
        await hosts[0].until(lambda run: run["trainer"] == "frozen" or run["round"] >= 1)
        service = world.service(hosts[0])
        me, other = hosts[0].peer, hosts[1].peer
        plans = [((me, me), (1, 1)), ((me, other), (0, 0)), ((other,), (5,)), ((me, other), (1,))]
        for number, (members, weights) in enumerate(plans):
            plan = ef.StartTransfer(bytes([number]) * 32, members, weights, "int8", 4.0, 60.0)
            await service.performer(plan)
        for number in range(100):  # and more rings than the engine runs at once
            plan = ef.StartTransfer(bytes([50 + number]) * 32, (me, other), (1, 1), "int8", 4.0, 60.0)
            await service.performer(plan)
        await service.performer(ef.FetchUpdate(bytes([9]) * 32, 17, other))
        await finish_alike(hosts, 5)
        assert list(service.store.updates.path.glob(".*")) == []


async def test_whoever_breaks_the_protocol_is_banned_once_and_heard_again_later(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=12)
        await hosts[0].wait("round=2")
        one, two = (world.service(host) for host in hosts)
        garbage = encode([one.run, hosts[1].peer, b"not a message", bytes(64)])
        for _ in range(50):
            world.net.hosts[hosts[1].peer].post(hosts[0].peer, garbage)
        status = await hosts[0].until(lambda run: bool(run["warnings"]))
        assert len([w for w in status["warnings"] if "broke the protocol" in w]) == 1
        assert one.host.banned(hosts[1].peer) and not two.host.banned(hosts[0].peer)
        await finish_alike(hosts, 12)  # it is forgiven
        assert not one.host.banned(hosts[1].peer)


def offences(liar: RunService, victim: RunService) -> dict[str, tuple[bytes, str]]:
    """(What a member would send that has turned, how the reason for which it is dropped begins), by kind."""
    node, me, crypto = victim.node, liar.host.identity.peer_id, liar.node.context.crypto
    head, run = node.head, liar.run
    turn = next(n for n in range(len(head.voters)) if leader_of(head.voters, head.hash, n) == me)
    twice = [m.Member(me, 1, bytes(32))] * 2
    assert head.entry is not None
    record = msgspec.structs.replace(head.entry.record, parent=head.hash, round=head.round + 1)
    body = b"not a message"
    signature = crypto.sign(m.signed_bytes(crypto.secret, body))
    not_its_turn = m.Prepare(head.at, Ballot(turn + 1, me))
    plan = m.Plan(head.at, Ballot(turn, me), m.Collective(twice, "ring", []), head.codec)
    forged = m.Commit(msgspec.structs.replace(head.entry, record=record))
    return {
        "bytes": (encode(m.Envelope(run, me, body, signature)), "not a valid "),
        "envelope": (encode(m.Envelope(run, me, body, bytes(64))), "the signature is not "),
        "sender": (m.seal(run, me, not_its_turn, crypto), f"Prepare: attempt {turn + 1} is not "),
        "content": (m.seal(run, me, plan, crypto), "Plan: a member is planned twice"),
        "record": (m.seal(run, me, forged, crypto), f"record {head.round + 1}: "),
    }


def test_no_kind_of_fault_is_forgotten() -> None:
    """A piece is no message: it comes from a donor, see below."""
    told = inspect.getsource(offences)
    assert [kind for kind in get_args(m.FaultKind) if f'"{kind}": ' not in told] == ["piece"]


async def test_a_donor_of_a_wrong_piece_is_banned_counted_and_named_and_its_pieces_come_from_elsewhere(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC K11, W6."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=11)
        await hosts[0].wait("round=6")
        served: list[str] = []
        world.bulk.tamper[hosts[0].peer] = flips("snapshot", served, "state")
        late = await joined_late(world, hosts, run_id)
        await asked(world, late, hosts[1], served)
        await late.until(lambda run: world.service(late).host.banned(hosts[0].peer))
        assert await faults(late, "piece") == 1
        line = f"peer {hosts[0].peer} broke the protocol: piece "
        assert [text for text in caplog.messages if text.startswith(line) and "is not the one that is proven" in text]
        await late.wait("synced")
        await finish_alike([*hosts, late], 11)


async def test_a_donor_of_a_stale_chain_brings_nobody_back_to_it(autojump_clock: Clock) -> None:
    """SPEC K1, K5: its log ends early, and what it serves as the newest state is one of long ago."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=16)
        await hosts[0].wait("round=5")
        old = world.service(hosts[0]).store
        early, state = old.entries(), old.snapshot_path(4).read_bytes()
        await hosts[0].wait("round=10")
        answered, served = list[str](), list[str]()

        async def stale(peer: str, body: bytes) -> bytes:
            answered.append(peer)
            return encode(m.EntriesAnswer([entry for entry in early if entry.record.round >= asked_from(body)]))

        def older(reader: str, name: str, data: bytes) -> bytes:
            if not name.startswith("snapshot") or not name.endswith("state"):
                return data
            served.append(name)
            return state[-len(data) :]

        async def after(peer: str, body: bytes) -> bytes:
            while not answered:
                await trio.sleep(0.5)
            return await honest(peer, body)

        world.net.hosts[hosts[0].peer]._rpc._handlers.calls["entries"] = stale
        calls = world.net.hosts[hosts[1].peer]._rpc._handlers.calls
        honest, calls["entries"] = calls["entries"], after
        world.bulk.tamper[hosts[0].peer] = older
        late = await joined_late(world, hosts, run_id)
        await asked(world, late, hosts[1], served)
        await late.wait("synced")
        assert late.peer in answered
        assert (await late.status())["round"] >= 9
        await finish_alike([*hosts, late], 16)


def asked_from(body: bytes) -> int:
    return m.decode(body, m.EntriesRequest).from_round


async def test_each_kind_of_fault_is_counted_and_its_reason_logged_and_rounds_go_on(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC W6."""
    async with shell() as world:
        _, hosts = await swarm(world, "abc", rounds=40)
        await hosts[0].wait("round=2")
        victim, liar = world.service(hosts[0]), world.service(hosts[1])
        for kind in offences(liar, victim):
            before, told = await faults(hosts[0], kind), len(caplog.messages)
            while victim.host.banned(hosts[1].peer):
                await victim.changed.wait()
            head, reason = None, ""
            while await faults(hosts[0], kind) == before:
                if head is not victim.node.head:  # what is an offence at one head is a word of the past at the next
                    head, (data, reason) = victim.node.head, offences(liar, victim)[kind]
                    world.net.hosts[hosts[1].peer].post(hosts[0].peer, data)
                await victim.changed.wait()
            line = f"peer {hosts[1].peer} broke the protocol: {reason}"
            assert [text for text in caplog.messages[told:] if text.startswith(line)] and before == 0
        await hosts[0].wait("round=25")  # some ten rounds after all that, or more: one wait is for so many
        await finish_alike(hosts, 40)


async def faults(host: Host, kind: str) -> float:
    return (await samples(host))[f'intellectd_peer_faults_total{{reason="{kind}",run="shell"}}']


async def test_a_request_that_is_none_is_a_fault(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """SPEC W10: of whichever run, so it counts for none."""
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=5)
        await hosts[0].wait("round=2")
        for call in ("manifest", "members", "entries"):
            liar = world.net.hosts[hosts[1].peer]
            with contextlib.suppress(NetworkError):  # it may be hung up before it is answered
                await liar.call(hosts[0].peer, call, b"\x91\xc0", 10.0)
            host = world.service(hosts[0]).host
            assert host.banned(hosts[1].peer)
            await trio.sleep_until(host._banned[hosts[1].peer])
        counted = (await samples(hosts[0]))['intellectd_peer_faults_total{reason="bytes",run=""}']
        told = [line for line in caplog.records if "broke the protocol" in line.getMessage()]
        assert (counted, told) == (3, []), "a stranger must not fill the log"
        await finish_alike(hosts, 5)


async def test_an_answer_that_is_none_is_a_fault(autojump_clock: Clock) -> None:
    """SPEC W10: not a failed call, which may happen to anybody."""
    async with shell() as world:
        run_id, hosts = await swarm(world, "ab", rounds=12)
        await hosts[0].wait("round=2")

        async def garbage(peer: str, body: bytes) -> bytes:
            return b"\x93not an answer"

        for call in ("entries", "members"):
            world.net.hosts[hosts[0].peer]._rpc._handlers.calls[call] = garbage
        late = await joined_late(world, hosts, run_id)
        while not await faults(late, "bytes"):
            await world.service(late).changed.wait()


async def test_a_flood_of_messages_crowds_out_only_the_one_who_floods(autojump_clock: Clock) -> None:
    async with shell() as world:
        _, hosts = await swarm(world, "ab", rounds=4)
        driver = world.service(hosts[0]).driver
        heard: list[str] = []
        driver.ignores = lambda peer: heard.append(peer) or True  # type: ignore[func-returns-value]
        for number in range(2000):
            driver.post(MessageReceived("flooder", b"x"))
            if number % 1000 == 999:
                driver.post(MessageReceived("honest", b"x"))
        await trio.sleep(1)
        assert heard.count("flooder") == MESSAGES_PER_PEER_MAX
        assert heard.count("honest") == 2
        assert not driver._unread
