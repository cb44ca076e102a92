"""The live table of the demo: redrawn in place on a terminal, a line per event elsewhere. Draws, nothing else."""

from typing import TextIO

from intellectd.daemon.demo.peer import Peer
from intellectd.daemon.demo.verdict import Seen

HEADER = f"{'':2} {'PEER':<14} {'STATE':<12} {'ROUND':>7} {'TOKENS/S':>9} {'STEP':>7} {'SENT':>9}  NOTE"


class Table:
    def __init__(self, stream: TextIO, live: bool) -> None:
        self._stream, self._live = stream, live
        self._drawn = 0
        self._told_round = 0

    def say(self, text: str) -> None:
        """One line that stays."""
        self._erase()
        print(text, file=self._stream, flush=True)

    def draw(self, peers: list[Peer], seen: Seen, seconds: float) -> None:
        if not self._live:
            self._tell_rounds(seen, seconds)
            return
        lines = self._lines(peers, seen, seconds)
        self._erase()
        print("\n".join(lines), file=self._stream, flush=True)
        self._drawn = len(lines)

    def close(self) -> None:
        """Leave the last table standing."""
        self._drawn = 0

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _tell_rounds(self, seen: Seen, seconds: float) -> None:
        for number, row in sorted(seen.rounds.items()):
            if number > self._told_round and row["loss"] is not None:
                self._told_round = number
                print(f"{seconds:5.0f} s  {_round_line(row)}", file=self._stream, flush=True)

    def _lines(self, peers: list[Peer], seen: Seen, seconds: float) -> list[str]:
        lines = ["", HEADER]
        lines += [_peer_line(peer, seen) for peer in peers]
        recent = [row for _, row in sorted(seen.rounds.items())][-5:]
        first = f", held-out loss of the first parameters {seen.first_loss:.3f}" if seen.first_loss else ""
        lines += ["", f"{seconds:.0f} s{first}", *(_round_line(row) for row in recent)]
        return lines


def _peer_line(peer: Peer, seen: Seen) -> str:
    status = peer.status
    state = "killed" if peer.killed else str(status.get("state", "starting"))
    note = "founder" if peer.number == 1 else ("late" if peer.peer_id and peer.peer_id == seen.late_peer else "")
    catchup = status.get("catchup")
    if catchup and not catchup["done"]:
        note = f"catching up: {catchup['bytes'] / 1e6:.1f} of {catchup['total_bytes'] / 1e6:.1f} MB"
    rate, step = status.get("tokens_per_s") or 0.0, status.get("outer_step_s") or 0.0
    sent = (status.get("wire_bytes") or 0) / 1e6
    return (
        f"{peer.number:>2} {'…' + peer.peer_id[-12:]:<14} {state:<12} {status.get('round', 0):>7} "
        f"{rate:>9.0f} {step:>6.1f}s {sent:>6.1f} MB  {note}"
    )


def _round_line(row: dict[str, object]) -> str:
    loss = row["loss"]
    shown = f"{loss:.3f}" if isinstance(loss, float) else "  …  "
    roster = row["roster"]
    members = len(roster) if isinstance(roster, list) else 0
    wire = row["wire_bytes"] if isinstance(row["wire_bytes"], int) else 0
    return (
        f"round {row['round']:>3}   {members} contributed   held-out loss {shown}   "
        f"{row['duration_s']:>5} s   {wire / 1e6:5.1f} MB"
    )
