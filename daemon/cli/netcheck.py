"""What netcheck looks like to a person. Pure: the daemon's answer in, lines out."""

from collections.abc import Mapping
from typing import Any

from intellectd.daemon.cli.tables import in_bytes, in_time, table

# What held a link back, in words that do not need the source.
LIMITS = {
    "bbr": "the path",
    "loss": "losses",
    "sndbuf": "window (here)",
    "rwnd": "window (there)",
    "host": "cpu (one host)",
    "pace": "rate limit",
    "app": "cpu or app",
}
REACH = {"both": "both ways", "out": "from here", "in": "from there", "failed": "no", "untried": "untried"}


def netcheck_lines(answer: Mapping[str, Any]) -> list[str]:
    control, tensors = answer.get("control") or {}, answer.get("tensors") or {}
    peers = answer.get("peers") or []
    addresses = control.get("addresses") or ["none: this host dials the others"]
    told = " (as configured)" if tensors.get("announced") else ""
    facts = [
        ("up", in_time(float(answer.get("uptime_s") or 0))),
        *[("control" if index == 0 else "", str(address)) for index, address in enumerate(addresses)],
        ("", _came(control, peers)),
        ("tensors", f"{tensors.get('address') or 'none: this host dials the others'}{told}"),
        ("", _came(tensors, peers)),
    ]
    limits = [f"{tensors[key]} Mbit/s {word}" for key, word in _DIRECTIONS if tensors.get(key)]
    facts += [("limits", ", ".join(limits))] if limits else []
    lines = [f"{name:<10}{value}" for name, value in facts]
    if peers:
        headers = ("PEER", "STATE", "TENSORS", "ADDRESS", "RTT", "OUT", "HELD BACK BY", "WIRES")
        lines += ["", *table(headers, [_row(peer) for peer in peers])]
    advice = [f"problem   {text}" for text in answer.get("problems") or []]
    advice += [f"note      {text}" for text in answer.get("notes") or []]
    return [*lines, "", *advice] if advice else lines


_DIRECTIONS = (("upload_mbit", "up"), ("download_mbit", "down"))


def _came(plane: Mapping[str, Any], peers: list[Any]) -> str:
    came = len(plane.get("came") or [])
    return f"{came} of {len(peers)} peers have connected to it" if peers else "there are no peers to connect to it"


def _row(peer: Mapping[str, Any]) -> tuple[str, ...]:
    control, tensors = peer.get("control") or {}, peer.get("tensors") or {}
    round_trip_s = tensors.get("round_trip_s")
    if round_trip_s is None:
        round_trip_s = control.get("round_trip_s")
    rate, address = tensors.get("bytes_per_s"), tensors.get("address")
    return (
        str(peer.get("peer", "-")),
        str(peer.get("state", "-")),
        REACH.get(str(tensors.get("reach")), "-"),
        "-" if address is None else str(address) or "none",
        "-" if round_trip_s is None else "<1 ms" if round_trip_s < 1e-3 else in_time(round_trip_s),
        "-" if rate is None else f"{in_bytes(rate)}/s",
        LIMITS.get(str(tensors.get("limit")), "-"),
        str(tensors.get("wires", "-")),
    )
