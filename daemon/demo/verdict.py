"""Did the demo show what it claims? Judged from the peers' answers and, offline, from the logs on their disks.

Owns the checks and the form of `--json`. Refuses to know how the story went.
"""

from typing import Any

from intellectd.daemon.demo.peer import Peer

LATE_ROUNDS_MIN = 2


class Seen:
    """What the peers said about each round, merged."""

    def __init__(self, rounds: int) -> None:
        self.total = rounds
        self.killed = ""
        self.late_peer = ""
        self.joined_round = 0
        self.rounds: dict[int, dict[str, Any]] = {}
        self.digests: dict[int, dict[str, str]] = {}
        self.first_loss: float | None = None
        self._wire: dict[int, dict[str, int]] = {}

    def heard(self, peer: str, answer: dict[str, Any]) -> None:
        if answer.get("loss_first") is not None:
            self.first_loss = answer["loss_first"]
        for row in answer["rounds"]:
            number = row["round"]
            known = self.rounds.setdefault(number, dict(row))
            if row["loss"] is not None:
                known["loss"] = row["loss"]
            known["duration_s"] = max(known["duration_s"], row["duration_s"])
            known["certificate_valid"] = known["certificate_valid"] and row["certificate_valid"]
            self._wire.setdefault(number, {})[peer] = row["wire_bytes"]
            known["wire_bytes"] = sum(self._wire[number].values())
            if row["state_digest"]:
                known["state_digest"] = row["state_digest"]
                self.digests.setdefault(number, {})[peer] = row["state_digest"]

    def loss_of(self, round_: int) -> float | None:
        row = self.rounds.get(round_)
        return row["loss"] if row else None

    def contributed(self, peer: str) -> list[int]:
        return [number for number, row in sorted(self.rounds.items()) if peer in row["roster"]]


def judge(run_id: str, seen: Seen, survivors: list[Peer], solo: dict[str, Any]) -> dict[str, Any]:
    late = next(peer for peer in survivors if peer.peer_id == seen.late_peer)
    contributed = seen.contributed(seen.late_peer)
    catchup = late.status.get("catchup") or {}
    finals = [peer.status.get("state_digest") for peer in survivors]
    equal = None not in finals and len(dict.fromkeys(finals)) == 1
    equal = equal and all(len(dict.fromkeys(by_peer.values())) == 1 for by_peer in seen.digests.values())
    last = seen.loss_of(seen.total)
    certified = [certified_rounds(peer, run_id) for peer in survivors]
    checks = {
        "every round has a valid certificate": all(count >= seen.total for count in certified),
        "all survivors end with the same state digest": equal,
        "the founder was killed": bool(seen.killed),
        f"the late joiner contributed to at least {LATE_ROUNDS_MIN} rounds": len(contributed) >= LATE_ROUNDS_MIN,
        "the held-out loss is below what one peer alone reached": last is not None and last < solo["last"],
    }
    keys = ("round", "roster", "loss", "tokens", "duration_s", "wire_bytes", "state_digest")
    return {
        "schema": 1,
        "run_id": run_id,
        "rounds": [{key: row[key] for key in keys} for _, row in sorted(seen.rounds.items())],
        "killed": seen.killed,
        "late_joiner": {
            "peer": seen.late_peer,
            "joined_round": seen.joined_round,
            "first_contributed_round": contributed[0] if contributed else None,
            "catchup_s": catchup.get("seconds"),
            "catchup_bytes": catchup.get("bytes"),
        },
        "digests_equal": equal,
        "loss": {"first": seen.first_loss, "last": last, "solo": solo["last"]},
        "ok": all(checks.values()),
        "checks": checks,
    }


def certified_rounds(peer: Peer, run_id: str) -> int:
    """Rounds in the log on this peer's disk whose chain and certificates hold; 0 if anything in it is wrong."""
    from intellectd.daemon.errors import OperatorError
    from intellectd.daemon.identity import verify
    from intellectd.daemon.runs.verify_log import verify_log
    from intellectd.daemon.store.run_store import RunStore
    from intellectd.protocol import run_id as run_ids

    class Reader:
        secret = b""  # no message is read

        def sign(self, message: bytes) -> bytes:
            raise AssertionError("a reader signs nothing")

        def verify(self, author: str, message: bytes, signature: bytes) -> bool:
            return verify(author, message, signature)

    try:
        store = RunStore(peer.folder / "runs" / run_id)
        entries = verify_log(store, store.manifest().manifest, run_ids.run_key(run_id), Reader())
        store.close()
    except OperatorError:
        return 0
    return sum(1 for entry in entries if entry.record.round > 0 and entry.blob.contributions)


def summary(outcome: dict[str, Any]) -> str:
    """For a person, after the table."""
    loss, late = outcome["loss"], outcome["late_joiner"]
    wire = sum(row["wire_bytes"] for row in outcome["rounds"]) / 1e6
    tokens = sum(row["tokens"] for row in outcome["rounds"])
    lines = [
        f"{len(outcome['rounds'])} rounds, {tokens / 1e3:.0f}k tokens, {wire:.1f} MB on the wire",
        f"held-out loss {_loss(loss['first'])} → {_loss(loss['last'])} in the swarm, "
        f"{_loss(loss['solo'])} for one peer alone",
        f"the late joiner came at round {late['joined_round']}, caught up in {late['catchup_s'] or 0:.1f} s "
        f"({(late['catchup_bytes'] or 0) / 1e6:.1f} MB), first contributed to round {late['first_contributed_round']}",
        "",
        *(f"{'ok  ' if good else 'FAIL'}  {what}" for what, good in outcome["checks"].items()),
    ]
    return "\n".join(lines)


def _loss(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
