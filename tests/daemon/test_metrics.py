"""The metrics and their endpoint: what is told, to whom, and what garbage gets."""

import contextlib
import math
import re
import socket
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from intellectd.daemon import metrics_http
from intellectd.daemon.attach_events import TrainerLog, TrainerReady
from intellectd.daemon.bulk.interface import PeerLink
from intellectd.daemon.claims import PortUnavailable
from intellectd.daemon.metrics import Metrics
from intellectd.daemon.metrics_http import MetricsServer
from intellectd.daemon.runs.journal import Journal
from intellectd.protocol.effects import Note

LABELS_ALLOWED = {"run", "outcome", "phase", "direction", "protocol", "reason", "state", "op", "stage", "stat", "le"}
INFO_LABELS = {"version", "kernels", "model", "peer_id"}


def everything_told() -> Metrics:
    """Every method once, as a round, a broken ring and a catch-up would call them."""
    metrics = Metrics()
    metrics.build_info("0.1.0", "native")
    metrics.run_info("mini", "llama", "12D3")
    metrics.trainer_attached("mini", True)
    metrics.halted("mini", False)
    metrics.trained("mini", tokens=4096, steps=20)
    metrics.round_trained("mini", steps=20, seconds=10.0)
    metrics.train_loss("mini", 2.4)
    metrics.grad_norm("mini", 1.5)
    metrics.mfu("mini", 0.4)
    metrics.heldout_loss("mini", 2.3)
    metrics.outer_step_committed("mini", members=4, duration_s=12.0)
    metrics.outer_step_aborted("mini", "silent")
    metrics.outer_step("mini", applied=5, head=6)
    metrics.phase("mini", "compute", 10.0)
    metrics.transfer_took("mini", predicted_s=2.0, actual_s=2.5)
    metrics.allreduced("mini", raw_bytes=4000, wire_bytes=1000, seconds=0.4)
    metrics.network_bytes("out", "bulk", 1000)
    metrics.peers("mini", {"alive": 3})
    metrics.peer_fault("mini", "record")
    metrics.voters("mini", reachable=1, seats=2, quorum=False)
    metrics.links([PeerLink(came_s=1.0, bytes_per_s=2e6, rtt_s=0.1)])
    metrics.dht_routing_table(7)
    metrics.dht_request("find", "ok")
    metrics.snapshot_written("mini", step=4, timestamp_s=1e9)
    metrics.checkpoint_bytes("mini", "in", 12)
    metrics.catching_up("mini", 5, 10, 2.5)
    metrics.caught_up("mini", 3.0)
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.text())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_what_was_told_is_what_is_read() -> None:
    told = samples(everything_told())
    assert told["intellectd_tokens_total", (("run", "mini"),)] == 4096
    assert told["intellectd_inner_step_duration_seconds_sum", (("run", "mini"),)] == 0.5
    assert told["intellectd_outer_step_members", (("run", "mini"),)] == 4
    assert told["intellectd_outer_steps_total", (("outcome", "aborted"), ("run", "mini"))] == 1
    assert told["intellectd_allreduce_bytes_total", (("run", "mini"), ("stage", "wire"))] == 1000
    assert told["intellectd_peers", (("run", "mini"), ("state", "silent"))] == 0
    assert told["intellectd_head_outer_step", (("run", "mini"),)] == 6
    assert told["intellectd_peer_faults_total", (("reason", "record"), ("run", "mini"))] == 1
    assert told["intellectd_peer_faults_total", (("reason", "bytes"), ("run", "mini"))] == 0
    assert told["intellectd_catchup_progress_ratio", (("run", "mini"),)] == 1


def test_how_far_a_catch_up_is_and_how_long_it_takes_yet() -> None:
    def told() -> dict[str, float]:
        return {
            name.removeprefix("intellectd_catchup_")
            + "".join(f" {value}" for label, value in labels if label == "stage"): x
            for (name, labels), x in samples(metrics).items()
            if name.startswith("intellectd_catchup_")
        }

    metrics = Metrics()
    metrics.catching_up("mini", 0, 0)
    assert math.isnan(told()["left_seconds"]), "it is not known yet"
    metrics.catching_up("mini", 5, 10, 2.5)
    expected = {"progress_ratio": 0.5, "bytes done": 5.0, "bytes total": 10.0, "left_seconds": 2.5}
    assert told() == expected
    metrics.caught_up("mini", 3.0)
    assert told() == expected | {"progress_ratio": 1.0, "left_seconds": 0.0, "duration_seconds": 3.0}
    metrics.forget_run("mini", "llama", "12D3")
    assert told() == {}
    metrics.nothing_to_catch_up("mini")
    assert told() == {"progress_ratio": 1.0, "bytes done": 0.0, "bytes total": 0.0, "left_seconds": 0.0}


def test_every_name_says_whose_it_is_and_carries_base_units_and_bounded_labels() -> None:
    metrics = everything_told()
    for name, labels in samples(metrics):
        assert re.fullmatch(r"intellectd_[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent|created)(_|$)", name)
        allowed = LABELS_ALLOWED | (INFO_LABELS if name.endswith("_info") else set())
        assert {label for label, _ in labels} <= allowed, name
        assert name in metrics.names()


def test_a_run_that_was_left_is_no_longer_told_of() -> None:
    metrics = everything_told()
    metrics.forget_run("mini", "llama", "12D3")
    families = text_string_to_metric_families(metrics.text())
    remaining = {f.type for f in families for sample in f.samples if sample.labels.get("run") == "mini"}
    assert remaining == {"counter", "histogram"}  # which would look like a restart, if they vanished


def test_a_forecast_is_told_beside_what_came_true() -> None:
    metrics = Metrics()
    journal = Journal("mini", metrics, "int8")
    for predicted in (None, 2.5):
        fields: dict[str, object] = {"schedule": "ring", "predicted_s": predicted, "actual_s": 3.0}
        journal.note(Note("transfer_took", "the ring of 4 took 3 s", fields=fields))
        told = samples(metrics)
        name = "intellectd_allreduce_planned_seconds"
        stages = {labels[1][1]: value for (found, labels), value in told.items() if found == name}
        assert stages == ({} if predicted is None else {"predicted": 2.5, "actual": 3.0})


def test_links_are_told_as_three_numbers_however_many_there_are() -> None:
    metrics = Metrics()
    metrics.links([PeerLink(reached_s=5.0, bytes_per_s=rate, rtt_s=0.1) for rate in (4e6, 1e6, 3e6, 9e6)])
    metrics.links([PeerLink(reached_s=5.0, bytes_per_s=rate, rtt_s=0.1) for rate in (4e6, 1e6, 9e6)] + [PeerLink()])
    told = samples(metrics)
    name = "intellectd_link_bytes_per_second"
    rates = {labels[0][1]: value for (found, labels), value in told.items() if found == name}
    assert rates == {"min": 1e6, "median": 4e6, "max": 9e6}
    assert told["intellectd_bulk_reached_peers", (("direction", "out"),)] == 3
    assert told["intellectd_bulk_reached_peers", (("direction", "in"),)] == 0
    metrics.links([PeerLink()])
    assert not [found for found, _ in samples(metrics) if found == name], "an unknown rate is no rate of 0"


def test_what_is_passed_on_for_others_is_counted_once() -> None:
    metrics = Metrics()
    for pairs, total in ((1, 100), (2, 250), (0, 250)):
        metrics.relayed(pairs, total)
    told = samples(metrics)
    assert told["intellectd_bulk_relayed_pairs", ()] == 0
    assert told["intellectd_bulk_relayed_bytes_total", ()] == 250


def test_training_is_told_while_it_goes_on_and_nothing_twice() -> None:
    metrics = Metrics()
    journal = Journal("mini", metrics, "int8")
    run = ("run", "mini")
    journal.training_log(TrainerLog(3, 10, 2.5, 1000, 100.0, grad_norm=1.5, mfu=0.4))
    told = samples(metrics)
    assert told["intellectd_tokens_total", (run,)] == 1000 and told["intellectd_inner_steps_total", (run,)] == 10
    assert told["intellectd_train_loss", (run,)] == 2.5
    assert told["intellectd_grad_norm", (run,)] == 1.5 and told["intellectd_mfu_ratio", (run,)] == 0.4
    journal.training(3)
    journal.phase()
    assert samples(metrics)["intellectd_phase_seconds_total", (("phase", "compute"), run)] > 0  # and it is not over
    journal.training_log(TrainerLog(3, 30, None, 3000, 100.0))
    journal.trained(TrainerReady(3, 4000, 40, 2.0, 40.0))
    journal.training_log(TrainerLog(4, 5, 1.9, 500, 100.0))
    told = samples(metrics)
    assert told["intellectd_tokens_total", (run,)] == 4500 and told["intellectd_inner_steps_total", (run,)] == 45
    assert told["intellectd_inner_step_duration_seconds_sum", (run,)] == 1.0


def test_what_stands_elsewhere_is_looked_up_for_as_long_as_its_owner_lives() -> None:
    metrics, table = Metrics(), [7]
    metrics.before_reading("network", lambda: metrics.dht_routing_table(table[0]))
    table[0] = 9
    assert samples(metrics)["intellectd_dht_routing_table_peers", ()] == 9
    metrics.end_run("network")
    table[0] = 11
    assert samples(metrics)["intellectd_dht_routing_table_peers", ()] == 9


@contextlib.asynccontextmanager
async def serving(address: str = "127.0.0.1:0", healthy: bool = True) -> AsyncIterator[MetricsServer]:
    server = MetricsServer(address, everything_told().text, lambda: (healthy, "as told"))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        yield server
        nursery.cancel_scope.cancel()


async def reply(server: MetricsServer, request: bytes) -> bytes:
    host, _, port = server.address.rpartition(":")
    with trio.socket.socket() as sock:
        await sock.connect((host, int(port)))
        with contextlib.suppress(OSError):
            await sock.send(request)
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(OSError):  # a reset, where the server had heard enough
            while part := await sock.recv(65536):
                answer += part
        return answer


async def test_prometheus_gets_text_with_its_length() -> None:
    async with serving() as server:
        answer = await reply(server, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.decode() == everything_told().text()


@pytest.mark.parametrize(("healthy", "status"), [(True, b"200 OK"), (False, b"503 Service Unavailable")])
async def test_health_is_what_the_app_says(healthy: bool, status: bytes) -> None:
    async with serving(healthy=healthy) as server:
        answer = await reply(server, b"GET /healthz HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(b"\r\n\r\nas told\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"", b"400"),
    ],
)
async def test_other_requests_get_their_status(request_bytes: bytes, status: bytes) -> None:
    async with serving() as server:
        answer = await reply(server, request_bytes)
    assert answer.split(b" ")[1] == status
    assert answer.startswith(b"HTTP/1.1") and (b"# HELP" not in answer)


async def test_a_head_without_end_is_cut_and_the_next_client_is_served() -> None:
    async with serving() as server:
        await reply(server, b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"y" * 100_000)
        assert (await reply(server, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_silent_client_is_answered_and_closed_in_time(autojump_clock: trio.abc.Clock) -> None:
    async with serving() as server:
        host, _, port = server.address.rpartition(":")
        with trio.socket.socket() as sock:
            await sock.connect((host, int(port)))
            started = trio.current_time()
            assert (await sock.recv(100)).startswith(b"HTTP/1.1 400")
            assert trio.current_time() - started == pytest.approx(metrics_http.REQUEST_S_MAX)


async def test_a_fault_while_answering_does_not_end_the_daemon() -> None:
    def broken() -> tuple[bool, str]:
        raise ZeroDivisionError

    server = MetricsServer("127.0.0.1:0", Metrics().text, broken)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        assert (await reply(server, b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 500")
        assert (await reply(server, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


async def test_a_port_in_use_is_named() -> None:
    async with serving() as server:
        port = server.address.rpartition(":")[2]
        with pytest.raises(PortUnavailable, match=f"port {port} is in use") as caught:
            await MetricsServer(server.address, Metrics().text, lambda: (True, "")).serve()
    assert "metrics.listen" in caught.value.message
    assert caught.value.exit_code == 69


@given(st.binary(max_size=300))
def test_any_head_gets_one_of_the_answers(head: bytes) -> None:
    server = MetricsServer("127.0.0.1:0", lambda: "text", lambda: (True, "ok"))
    status, body = server._answer(head)
    assert status in (200, 400, 404, 405)
    assert body
