"""What Prometheus sees of this host: every metric by name, and one method for each thing that happens.

Owns a registry of its own (libraries fill the default one with names and peer ids without bound). Labels are
the run's name and small enums; never a peer id but this host's own, never a run id, which is a secret.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client import generate_latest as _generate_latest

from intellectd.daemon.bulk.interface import PeerLink
from intellectd.protocol.messages import FaultKind

Outcome = Literal["committed", "aborted"]
Phase = Literal["compute", "match", "allreduce", "apply", "idle"]
Direction = Literal["in", "out"]
Plane = Literal["control", "bulk"]
AllReduceFailure = Literal["silent", "reset", "aborted"]
PeerState = Literal["alive", "leaving", "suspect", "silent", "left"]
DhtOp = Literal["provide", "find"]
DhtOutcome = Literal["ok", "failed"]

# From a demo's steps of milliseconds to minutes: H = 100 inner steps of a large model.
_OUTER_STEP_BUCKETS_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_INNER_STEP_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ALLREDUCE_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

# A `_created` series beside every counter doubles the series and tells nobody anything.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """One object per daemon. All methods are cheap and may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._refreshers: dict[str, Callable[[], None]] = {}
        self._training()
        self._rounds()
        self._network()
        self._checkpoints()
        self._info()

    def before_reading(self, owner: str, refresh: Callable[[], None]) -> None:
        """What stands somewhere else is looked up when it is read, from the thread that reads."""
        self._refreshers[owner] = refresh

    def text(self) -> str:
        for refresh in list(self._refreshers.values()):
            refresh()
        return _generate_latest(self.registry).decode("utf-8")

    def names(self) -> list[str]:
        """Every sample name that may appear, for the test that holds the dashboards to them."""
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
        return [
            family.name + suffix for family in self.registry.collect() for suffix in suffixes.get(family.type, ("",))
        ]

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"intellectd_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"intellectd_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"intellectd_{name}", what, ["run"], buckets=buckets, registry=self.registry)

    # -- the trainer

    def _training(self) -> None:
        self._tokens = self._counter("tokens_total", "Tokens this host trained on.", "run")
        self._train_loss = self._gauge("train_loss", "Loss of this host's latest inner steps.", "run")
        self._grad_norm = self._gauge("grad_norm", "Norm of the latest gradient, if the trainer tells.", "run")
        self._mfu = self._gauge(
            "mfu_ratio", "Share of the device's peak that the model's FLOPs take, if the trainer knows both.", "run"
        )
        self._heldout_loss = self._gauge("heldout_loss", "Held-out loss of the newest anchor evaluated here.", "run")
        self._inner_steps = self._counter("inner_steps_total", "Inner steps of this host.", "run")
        self._inner_step_s = self._histogram(
            "inner_step_duration_seconds", "One inner step, averaged over a round.", _INNER_STEP_BUCKETS_S
        )

    def trained(self, run: str, tokens: int, steps: int) -> None:
        """So much more since the last time."""
        self._tokens.labels(run).inc(tokens)
        self._inner_steps.labels(run).inc(steps)

    def round_trained(self, run: str, steps: int, seconds: float) -> None:
        if steps > 0:
            self._inner_step_s.labels(run).observe(seconds / steps)

    def train_loss(self, run: str, loss: float) -> None:
        self._train_loss.labels(run).set(loss)

    def grad_norm(self, run: str, norm: float) -> None:
        self._grad_norm.labels(run).set(norm)

    def mfu(self, run: str, share: float) -> None:
        self._mfu.labels(run).set(share)

    def trainer_gone(self, run: str) -> None:
        """Nothing computes: what it made of the device must not stand there as if something did."""
        for gauge in (self._grad_norm, self._mfu):
            gauge.remove(run)

    def heldout_loss(self, run: str, loss: float) -> None:
        self._heldout_loss.labels(run).set(loss)

    # -- rounds and their collectives

    def _rounds(self) -> None:
        self._outer_step = self._gauge("outer_step", "The last outer step applied here.", "run")
        self._head = self._gauge("head_outer_step", "The last outer step this host knows to be committed.", "run")
        self._outer_steps = self._counter("outer_steps_total", "Attempts at an outer step.", "run", "outcome")
        self._outer_step_s = self._histogram(
            "outer_step_duration_seconds", "From one committed outer step to the next.", _OUTER_STEP_BUCKETS_S
        )
        self._phase_s = self._counter("phase_seconds_total", "Where this host's time went.", "run", "phase")
        self._outer_step_members = self._gauge("outer_step_members", "Members of the last committed outer step.", "run")
        self._allreduce_failures = self._counter(
            "allreduce_failures_total", "All-reduces that broke, by reason.", "run", "reason"
        )
        self._allreduce_bytes = self._counter(
            "allreduce_bytes_total", "Bytes averaged: as fp32 (raw), and as sent by this host (wire).", "run", "stage"
        )
        self._allreduce_s = self._histogram(
            "allreduce_duration_seconds", "One all-reduce, start to end.", _ALLREDUCE_BUCKETS_S
        )
        self._anchor_spread = self._gauge(
            "anchor_spread", "How far the groups' anchors are apart, over how far they are from the state.", "run"
        )
        self._planned_s = self._gauge(
            "allreduce_planned_seconds",
            "The last all-reduce that this host led and had a forecast for: predicted, and from plan to result.",
            "run",
            "stage",
        )

    def outer_step_committed(self, run: str, members: int, duration_s: float) -> None:
        self._outer_step_members.labels(run).set(members)
        self._outer_steps.labels(run, "committed").inc()
        if duration_s > 0:  # not known of the first, and of those that are read in a catch-up
            self._outer_step_s.labels(run).observe(duration_s)

    def outer_step_aborted(self, run: str, reason: AllReduceFailure) -> None:
        self._outer_steps.labels(run, "aborted").inc()
        self._allreduce_failures.labels(run, reason).inc()

    def outer_step(self, run: str, applied: int, head: int) -> None:
        self._outer_step.labels(run).set(applied)
        self._head.labels(run).set(head)

    def phase(self, run: str, phase: Phase, seconds: float) -> None:
        self._phase_s.labels(run, phase).inc(seconds)

    def allreduced(self, run: str, raw_bytes: int, wire_bytes: int, seconds: float) -> None:
        self._allreduce_bytes.labels(run, "raw").inc(raw_bytes)
        self._allreduce_bytes.labels(run, "wire").inc(wire_bytes)
        self._allreduce_s.labels(run).observe(seconds)

    def anchor_spread(self, run: str, spread: float) -> None:
        """SPEC E8; 0 after an exact round."""
        self._anchor_spread.labels(run).set(spread)

    def transfer_took(self, run: str, predicted_s: float, actual_s: float) -> None:
        self._planned_s.labels(run, "predicted").set(predicted_s)
        self._planned_s.labels(run, "actual").set(actual_s)

    # -- peers, the DHT and the wire

    def _network(self) -> None:
        self._bytes = self._counter("network_bytes_total", "Bytes by direction and plane.", "direction", "protocol")
        self._peers = self._gauge("peers", "Other members of the run, by how they are heard.", "run", "state")
        self._faults = self._counter(
            "peer_faults_total", "What peers did against the protocol, by kind.", "run", "reason"
        )
        self._versions = self._counter(
            "wire_version_mismatches_total", "Meetings with peers of another wire version, which were refused."
        )
        self._voters = self._gauge("voters", "Voters of the next outer step: are they heard?", "run", "state")
        self._quorum = self._gauge("quorum", "1 unless too few voters are heard to decide an outer step.", "run")
        stats = "over the peers whose links are known"
        self._link_rate = self._gauge("link_bytes_per_second", f"Measured to peers, while sending: {stats}.", "stat")
        self._link_rtt = self._gauge("link_round_trip_seconds", f"Round trips on the bulk plane: {stats}.", "stat")
        self._bulk_reached = self._gauge(
            "bulk_reached_peers",
            "Peers that connected to this host for tensors (in), and it to them (out).",
            "direction",
        )
        self._relayed_pairs = self._gauge("bulk_relayed_pairs", "Pairs of peers that this host joins now.")
        self._relayed_bytes = self._counter("bulk_relayed_bytes_total", "Bytes passed on between such peers.")
        self._relayed_told = 0
        self._routing = self._gauge("dht_routing_table_peers", "Peers in the DHT routing table.")
        self._dht = self._counter("dht_requests_total", "Requests to the DHT, by outcome.", "op", "outcome")

    def network_bytes(self, direction: Direction, protocol: Plane, count: int) -> None:
        self._bytes.labels(direction, protocol).inc(count)

    def peers(self, run: str, by_state: Mapping[str, int]) -> None:
        for state in get_args(PeerState):
            self._peers.labels(run, state).set(by_state.get(state, 0))

    def peer_fault(self, run: str, kind: FaultKind) -> None:
        self._faults.labels(run, kind).inc()

    def version_refused(self) -> None:
        self._versions.inc()

    def voters(self, run: str, *, reachable: int, seats: int, quorum: bool) -> None:
        self._voters.labels(run, "reachable").set(reachable)
        self._voters.labels(run, "missing").set(seats - reachable)
        self._quorum.labels(run).set(int(quorum))

    def links(self, links: Iterable[PeerLink]) -> None:
        """Aggregates alone: a series for each peer would grow without bound."""
        found = list(links)
        _tell_stats(self._link_rate, [link.bytes_per_s for link in found if link.bytes_per_s is not None])
        _tell_stats(self._link_rtt, [link.rtt_s for link in found if link.rtt_s is not None])
        self._bulk_reached.labels("in").set(sum(link.came_s is not None for link in found))
        self._bulk_reached.labels("out").set(sum(link.reached_s is not None for link in found))

    def relayed(self, pairs: int, total_bytes: int) -> None:
        self._relayed_pairs.set(pairs)
        self._relayed_bytes.inc(total_bytes - self._relayed_told)
        self._relayed_told = total_bytes

    def dht_routing_table(self, peers: int) -> None:
        self._routing.set(peers)

    def dht_request(self, op: DhtOp, outcome: DhtOutcome) -> None:
        self._dht.labels(op, outcome).inc()

    # -- snapshots and catching up

    def _checkpoints(self) -> None:
        self._snapshot_step = self._gauge("checkpoint_outer_step", "The outer step of the newest snapshot.", "run")
        self._snapshot_at = self._gauge(
            "checkpoint_last_success_timestamp_seconds", "When the newest snapshot was complete.", "run"
        )
        self._snapshot_bytes = self._counter(
            "checkpoint_bytes_total", "State moved between hosts: fetched (in) and served (out).", "run", "direction"
        )
        self._catchup_s = self._gauge("catchup_duration_seconds", "How long the last catch-up took.", "run")
        self._catchup_ratio = self._gauge("catchup_progress_ratio", "0 to 1 while catching up, 1 when synced.", "run")
        self._catchup_bytes = self._gauge(
            "catchup_bytes",
            "Of the last catch-up: what is here (done), and all that is known to be fetched.",
            "run",
            "stage",
        )
        self._catchup_left_s = self._gauge(
            "catchup_left_seconds", "Until it is at the head, by its plan; 0 when it is, NaN while unknown.", "run"
        )

    def snapshot_written(self, run: str, step: int, timestamp_s: float) -> None:
        self._snapshot_step.labels(run).set(step)
        self._snapshot_at.labels(run).set(timestamp_s)

    def checkpoint_bytes(self, run: str, direction: Direction, count: int) -> None:
        self._snapshot_bytes.labels(run, direction).inc(count)

    def catching_up(self, run: str, done_bytes: int, total_bytes: int, left_s: float | None = None) -> None:
        """`left_s`: None while there is no rate to tell it by."""
        self._catchup_ratio.labels(run).set(done_bytes / total_bytes if total_bytes else 0.0)
        self._catchup_bytes.labels(run, "done").set(done_bytes)
        self._catchup_bytes.labels(run, "total").set(total_bytes)
        self._catchup_left_s.labels(run).set(math.nan if left_s is None else left_s)

    def caught_up(self, run: str, seconds: float) -> None:
        self._catchup_s.labels(run).set(seconds)
        self._catchup_ratio.labels(run).set(1.0)
        self._catchup_left_s.labels(run).set(0.0)

    def nothing_to_catch_up(self, run: str) -> None:
        self.catching_up(run, 0, 0, 0.0)
        self._catchup_ratio.labels(run).set(1.0)

    # -- who this is

    def _info(self) -> None:
        self._build = self._gauge("build_info", "1, with what is running.", "version", "kernels")
        self._kernels_slow = self._gauge("kernels_slow", "1 while torch stands in for the C kernels; status says why.")
        self._run = self._gauge("run_info", "1, for each run this host is in.", "run", "model", "peer_id")
        self._halted = self._gauge("run_halted", "1 when the run has stopped here until a person helps.", "run")
        self._trainer = self._gauge("trainer_attached", "1 while a trainer is attached.", "run")

    def build_info(self, version: str, kernels: str) -> None:
        """`kernels`: "native" or "torch"; the second is ten times slower or more."""
        self._build.labels(version, kernels).set(1)
        self._kernels_slow.set(int(kernels != "native"))

    def run_info(self, run: str, model: str, peer_id: str) -> None:
        """The run begins here: its counters are there before they count, for `rate` to see their first step."""
        self._run.labels(run, model, peer_id).set(1)
        for counter, kinds in (
            (self._outer_steps, get_args(Outcome)),
            (self._allreduce_failures, get_args(AllReduceFailure)),
            (self._faults, get_args(FaultKind)),
            (self._phase_s, get_args(Phase)),
            (self._snapshot_bytes, get_args(Direction)),
            (self._allreduce_bytes, ("raw", "wire")),
        ):
            for kind in kinds:
                counter.labels(run, kind)
        for counter in (self._tokens, self._inner_steps):
            counter.labels(run)

    def halted(self, run: str, halted: bool) -> None:
        self._halted.labels(run).set(int(halted))

    def trainer_attached(self, run: str, attached: bool) -> None:
        self._trainer.labels(run).set(int(attached))

    def forget_run(self, run: str, model: str, peer_id: str) -> None:
        """After `leave`: gauges would otherwise tell of the run for ever. A counter that vanished would look like a
        restart."""
        self._run.remove(run, model, peer_id)
        for gauge in (
            self._outer_step,
            self._head,
            self._outer_step_members,
            self._planned_s,
            self._anchor_spread,
            self._trainer,
            self._halted,
            self._train_loss,
            self._heldout_loss,
            self._grad_norm,
            self._mfu,
            self._snapshot_step,
            self._snapshot_at,
            self._catchup_s,
            self._catchup_ratio,
            self._catchup_bytes,
            self._catchup_left_s,
            self._peers,
            self._voters,
            self._quorum,
        ):
            gauge.remove_by_labels({"run": run})

    def end_run(self, owner: str) -> None:
        self._refreshers.pop(owner, None)


def _tell_stats(gauge: Gauge, values: list[float]) -> None:
    """Least, middle and largest; nothing at all while there are no values."""
    gauge.clear()
    if values:
        for stat, value in (("min", min(values)), ("median", median(values)), ("max", max(values))):
            gauge.labels(stat).set(value)
