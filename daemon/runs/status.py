"""How a run is doing, as plain data and in an operator's words: for `status`, `wait` and /healthz.

Owns the form of one run's status, its reason, and its warnings with what to do next. Refuses to change anything.
"""

from typing import Any

import trio

from intellectd.daemon.runs.service import RunService
from intellectd.kernels import ops
from intellectd.protocol.quorum import Reach

STUCK_ATTEMPTS = 6  # attempts that came to nothing are no bad luck any more; transfers that move are none
PEERS_NAMED_MAX = 3  # in a sentence; `status --json` has all of them
QUIET_S_MAX = 600.0  # of a trainer in its round: the SDK tells of each inner step, or once a second
ALIVE_S_MAX = 30.0  # a driver that has not gone round for this long hangs; it ticks every 5 s


def run_status(service: RunService) -> dict[str, Any]:
    node, journal = service.node, service.journal
    now = trio.current_time()
    head, reach = node.head, service.reach
    loss_round = max(journal.losses, default=None)
    return {
        "run_id": service.run_id,
        "name": service.config.name,
        "parameters": service.state.layout.parameters,
        "state": state_of(service, reach),
        "reason": reason_of(service, reach),
        "quorum": _quorum(reach),
        "inner": _inner(service),
        "generation": head.generation.hex(),
        "head": head.hash.hex(),
        "branches": head.branches,
        "round": max(0, node.catchup.applied),
        "head_round": max(0, head.round),
        "until": service.config.until.rounds,
        "roster": [c.peer for c in head.blob.contributions],
        "voters": list(head.voters),
        "warmup_left": head.warming.get(service.host.identity.peer_id, 0),
        "eligible": [a.peer for a in head.blob.assignments],
        "peers": sum(1 for p in node.membership.peers if node.membership.alive(p, now)),
        "loss": None if loss_round is None else journal.losses[loss_round],
        "loss_round": loss_round,
        "train_loss": journal.train_loss,
        "tokens_total": head.tokens_total,
        "tokens_per_s": journal.tokens_per_s,
        "outer_step_s": round(journal.outer_step_s, 3),
        "wire_bytes": journal.wire_bytes,
        "state_digest": _digest(service),
        "anchor_spread": journal.anchor_spread,
        "catchup": journal.catchup_plain,
        "trainer": node.progress.state,
        "warnings": warnings(service, reach, now),
    }


def state_of(service: RunService, reach: Reach | None) -> str:
    """The node's word, as an operator sees it: who waits for voters does not train in any useful sense."""
    node = service.node
    state = {"synced": "waiting", "abstaining": "waiting", "ready": "training"}.get(node.state, node.state)
    if state == "training" and node.round.reducing is not None:
        state = "reducing"
    if state == "waiting" and _applies(service):
        state = "training"
    waits = _lost(reach) or _stuck_s(service) > 0
    return "waiting" if waits and state in ("training", "reducing") else state


def reason_of(service: RunService, reach: Reach | None) -> str:
    node = service.node
    if node.halted:
        return node.halted
    words = why(service, reach) if node.catchup.pin.found else _pin_words(service)
    return ("leaving; " if node.leaving else "") + words


def why(service: RunService, reach: Reach | None) -> str:
    node, head = service.node, service.node.head
    me = service.host.identity.peer_id
    if reach is not None and not reach.quorum and me not in reach.missing:
        return _quorum_words(reach)
    if node.state == "finished":
        return ""
    if node.state == "joining" and not node.membership.alive_beacons(trio.current_time()):
        return "no other member is heard yet"
    if node.state == "synced" and not service.seat.link.attached:
        return f"synced, {_no_trainer(service)}"
    if node.state == "waiting" and head.round >= 0 and head.assignment(me) is None:
        return "synced; the next round names this host, when this one is decided"
    missing = node.lost_update(trio.current_time())
    lost = "" if missing is None else f"nobody here has the update of round {missing}"
    applies = f"round {head.round} is being applied" if _applies(service) else ""
    return lost or _stuck_words(service) or applies or node.round.told(trio.current_time())


def _pin_words(service: RunService) -> str:
    wanted, seen = service.node.catchup.pin.wanted or b"", service.node.head.round + 1
    return f"no history with the record {wanted.hex()[:16]}… is shown here, in {seen} records: nothing of it is used"


def _applies(service: RunService) -> bool:
    """Between two rounds, as after each: the newest record is here and its update not yet in the parameters."""
    node = service.node
    named = node.head.assignment(service.host.identity.peer_id) is not None
    applies = node.state == "waiting" and named and node.catchup.applied < node.head.round
    return applies and node.lost_update(trio.current_time()) is None


def _stuck_s(service: RunService) -> float:
    """For how long voters that are heard have not voted, if that is no mere delay."""
    stuck_s = service.node.round.stuck_s(trio.current_time())
    return stuck_s if stuck_s > STUCK_ATTEMPTS * service.config.timers.attempt_s else 0.0


def _stuck_words(service: RunService) -> str:
    stuck_s, node = _stuck_s(service), service.node
    if not stuck_s:
        return ""
    alive = node.membership.alive_beacons(trio.current_time())
    odd = tuple(voter for voter in node.head.voters if voter in alive and alive[voter].leaving)
    perhaps = f"; {some(odd)} may have lost the journal of its votes" if odd else ""
    return f"too few voters answer since {stuck_s:.0f} s, though they are heard{perhaps}"


def _no_trainer(service: RunService) -> str:
    config, process = service.host.config, service.trainer
    if service.awaits_program:
        return (
            "no trainer is attached: start your program, as in "
            f"`INTELLECTD_SOCKET={config.socket} python your_program.py`"
        )
    if process is not None and process.last_failure:
        return "the trainer keeps dying: see the daemon's log"
    return "the trainer is starting"


def _lost(reach: Reach | None) -> bool:
    return reach is not None and not reach.quorum


def _quorum(reach: Reach | None) -> dict[str, Any] | None:
    """None when there is nothing to judge: the run is over, or this host still reads the log."""
    if reach is None:
        return None
    here = len(reach.voters) - len(reach.missing)
    return {"reached": reach.quorum, "here": here, "of": len(reach.voters), "missing": list(reach.missing)}


def _quorum_words(reach: Reach) -> str:
    here, total = len(reach.voters) - len(reach.missing), len(reach.voters)
    return f"{here} of {total} voters reachable: waiting for {some(reach.missing)}"


def some(peers: tuple[str, ...]) -> str:
    """Some of the names, short: `intellectd peers` lists them in full."""
    named = ", ".join(f"{peer[:4]}…{peer[-8:]}" if len(peer) > 16 else peer for peer in peers[:PEERS_NAMED_MAX])
    more = len(peers) - PEERS_NAMED_MAX
    return f"{named} and {more} more" if more > 0 else named


def _inner(service: RunService) -> dict[str, Any] | None:
    """How far this host's trainer is in its round, as it last said."""
    node = service.node
    if node.progress.state != "training":
        return None
    round_, steps = node.progress.training
    seen, step = service.journal.inner
    return {"round": round_, "step": step if seen == round_ else 0, "steps": steps}


def _digest(service: RunService) -> str | None:
    """Of the state that this host has, if it has one."""
    node = service.node
    if not node.catchup.has_state:
        return None
    if node.round.state_digest is not None:
        return node.round.state_digest.hex()
    seen = service.journal.rounds.get(max(0, node.catchup.applied))
    return seen.state_digest if seen is not None else None


def warnings(service: RunService, reach: Reach | None, now: float) -> list[str]:
    node, name = service.node, service.config.name
    has_trainer = service.seat.link.attached or node.state == "finished"
    found = service.journal.warnings(over=("trainer_gone",) if has_trainer else ()) + _refused(service)
    if reach is not None and not reach.quorum and service.host.identity.peer_id in reach.missing:
        found.append(
            "this host forgot what it voted, and without its vote too few are left: restore the run's folder as it "
            f'was, or let those that are here go on by the owner\'s key: `intellectd recover "{name}"`; '
            f'`intellectd checkpoint export "{name}" DIR` saves what was learned'
        )
    elif _lost(reach):
        found.append(_way_out(service))
    if (missing := node.lost_update(now)) is not None:
        found.append(
            f"nobody here has the update of round {missing}. If whoever had it never comes back, the owner's key gives "
            f'up what came after round {missing - 1}: `intellectd recover "{name}"`'
        )
    alone = [b for b in node.membership.alive_beacons(now).values() if b.applied >= -1]
    if not alone and service.host.identity.peer_id in service.manifest.first_voters and node.head.round <= 0:
        found.append("no second peer has synced yet: losing this host loses the run")
    if ops.implementation() != "native":
        found.append(f"slow kernels in use: {ops.reason()}")
    quiet_s = now - service.journal.trainer_at
    if node.progress.state == "training" and quiet_s > QUIET_S_MAX:
        found.append(
            f"the trainer has said nothing for {quiet_s / 60:.0f} minutes in the midst of its round; if it hangs, end "
            "it: the others go on without this host's work"
        )
    if service.trainer is not None and service.trainer.last_failure and not service.seat.link.attached:
        found.append(f"the trainer keeps dying: {service.trainer.last_failure}; see the daemon's log")
    return found


def _refused(service: RunService) -> list[str]:
    """Members of another wire version: nothing that they say is heard, and one of the two hosts wants an upgrade."""
    peers: dict[str, list[str]] = {}
    for peer in dict.fromkeys([*service.node.head.voters, *service.node.membership.peers]):
        if words := service.host.network.contact(peer).refused:
            peers.setdefault(words, []).append(peer)
    return [f"{some(tuple(those))} cannot be heard: {words}" for words, those in peers.items()]


def _way_out(service: RunService) -> str:
    """Of a lost quorum: who is awaited, and what ends the wait if they never come."""
    swarm, timers, name = service.config.swarm, service.config.timers, service.config.name
    forks = f"After {timers.fork_s:g} s without them those who are left go on by themselves (on_quorum_loss)"
    waits = (
        f'Should they be lost for good: `intellectd recover "{name}"` goes on without them, by the owner\'s key; '
        f'`intellectd checkpoint export "{name}" DIR` saves what was learned'
    )
    return (
        "no round is decided without the missing voters: start their daemons again, or see why they cannot be "
        "reached (`intellectd peers`; for a new address: `intellectd join RUN-ID --peer MULTIADDR`). The run then "
        f"goes on by itself. {forks if swarm.on_quorum_loss == 'fork' else waits}"
    )


def hangs(service: RunService) -> str:
    """Why this run wants a restart of the daemon, or nothing."""
    stuck_s = service.stuck_s
    return f"run {service.config.name} has not moved for {stuck_s:.0f} s" if stuck_s > ALIVE_S_MAX else ""


def ails(service: RunService) -> str:
    """Why this run does not go on, or nothing. Not all of it is mended by a restart."""
    node, name = service.node, service.config.name
    if node.halted:
        return f"run {name} is halted: {node.halted.replace(service.run_id, '…')}"  # any user may read /healthz
    reach = service.reach
    lost = _quorum_words(reach) if reach is not None and not reach.quorum else _stuck_words(service)
    return hangs(service) or (f"run {name} waits: {lost}" if lost else "")
