"""The one line that `systemctl status` shows: where each run of this host stands. Owns its words."""

from collections.abc import Iterable

from intellectd.daemon.runs.service import RunService
from intellectd.daemon.runs.status import reason_of
from intellectd.protocol.node import Node


def headline(services: Iterable[RunService]) -> str:
    return "; ".join(f"{service.config.name}: {_stand(service)}" for service in services) or "in no run"


def _stand(service: RunService) -> str:
    node, head, reach = service.node, service.node.head, service.reach
    if node.halted:
        return "halted, `intellectd status` says why"  # in words that may hold the run's id; this line is public
    if node.state == "finished":
        return f"finished with round {node.catchup.applied}"
    if node.state in ("joining", "catching-up"):
        return f"{node.state}, round {max(0, node.catchup.applied)} of {max(0, head.round)}"
    if reach is not None and not reach.quorum:
        return f"waiting: {reason_of(service, reach)}"
    if head.round < 0:
        return node.round.reason
    assigned = [a.peer for a in head.blob.assignments]
    return f"round {head.round + 1}, {sum(_is_ready(node, peer) for peer in assigned)} of {len(assigned)} ready"


def _is_ready(node: Node, peer: str) -> bool:
    beacon = node.membership.beacon(peer)
    ready = node.progress.ready if peer == node.context.peer else beacon and beacon.ready
    return bool(ready and ready.at == node.head.at)
