"""What is known of the links between peers: how many bytes a second each carries one way, and its round trip. SPEC B13.

Owns this host's own measurements, smoothed, the steps in which they are told to others, and the table of all that is
known when a transfer is planned. Refuses to know what is planned with it. A link is measured by whoever sends on it,
so a peer can lie of its own links alone: the worst that comes of it is a plan that is slow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp2, isfinite, log2

from intellectd.protocol import limits
from intellectd.protocol.messages import Link

STEPS_PER_OCTAVE = 4  # 19 % a step: transfers over the internet differ by more from one to the next
RATE_UNIT, RTT_UNIT_S = 1024.0, 1e-4  # step 0: a KiB/s; a tenth of a millisecond, which is a switch away
SLACK_STEPS = 0.75  # so far may an estimate be from what is told of it: half a step, and a quarter against flutter
SHARE_OLD = 0.5  # of an estimate, however new: a measurement is the mean of a transfer, but weather changes


@dataclass(frozen=True)
class Estimate:
    """Of one link, one way."""

    rate: float  # bytes a second while there was something to send
    rtt_s: float
    age_s: float  # since it was measured last; of another host's since its beacon came
    source: str  # who says so


@dataclass
class _Own:
    rate: float  # log2 of bytes a second over RATE_UNIT: what is averaged are factors
    rtt: float  # likewise over RTT_UNIT_S
    at: float
    told: Link


class Links:
    def __init__(self, me: str) -> None:
        self._me = me
        self._own: dict[str, _Own] = {}  # the newest measured last
        self._told: list[Link] = []
        self._expires_at = float("inf")

    def measured(self, peer: str, bytes_per_s: float, rtt_s: float, now: float) -> None:
        """A transfer to this peer, or a probe, has shown so much. An estimate loses half its weight with each
        measurement, and half of the rest with each LINK_HALF_LIFE_S that it is old."""
        if peer == self._me or not (isfinite(bytes_per_s) and isfinite(rtt_s) and bytes_per_s > 0.0 and rtt_s >= 0.0):
            return
        rate, rtt = log2(bytes_per_s / RATE_UNIT), log2(max(rtt_s, RTT_UNIT_S) / RTT_UNIT_S)
        old = self._own.pop(peer, None)
        told = None
        if old is not None and now - old.at <= limits.LINK_KEPT_S:
            keep = SHARE_OLD * exp2(-max(0.0, now - old.at) / limits.LINK_HALF_LIFE_S)
            rate, rtt, told = keep * old.rate + (1 - keep) * rate, keep * old.rtt + (1 - keep) * rtt, old.told
        link = _told(peer, rate, rtt, told)
        self._own[peer] = _Own(rate, rtt, now, link)
        if len(self._own) > limits.PEERS_MAX:
            del self._own[next(iter(self._own))]
        if link != told:
            self._tell(now)
        self._expires_at = min(self._expires_at, now + limits.LINK_KEPT_S)

    def told(self, now: float) -> list[Link]:
        """For the beacon: of more than fit there the fastest two thirds, which plans are made of, and the slowest
        third, which they are to avoid."""
        if now >= self._expires_at:
            self._own = {peer: own for peer, own in self._own.items() if now - own.at < limits.LINK_KEPT_S}
            self._tell(now)
        return self._told

    def knows(self, peer: str, now: float) -> bool:
        own = self._own.get(peer)
        return own is not None and now - own.at < limits.LINK_KEPT_S

    def known(
        self, members: Sequence[str], said: Mapping[str, Sequence[Link]], now: float
    ) -> dict[tuple[int, int], Estimate]:
        """All directed links among these members of which something is known, by their places in `members`. `said`:
        the links in the members' newest beacons. This host's own are as others read them, so that the next leader
        comes to the same plan."""
        places = {peer: place for place, peer in enumerate(members)}
        found: dict[tuple[int, int], Estimate] = {}
        for source, links in said.items():
            here = places.get(source)
            for link in links if here is not None and source != self._me else ():
                to = places.get(link.to)
                if here is not None and to is not None and to != here:
                    found[here, to] = Estimate(rate_of(link.rate), rtt_of(link.rtt), 0.0, source)
        me = places.get(self._me)
        for peer, own in self._own.items() if me is not None else ():
            to, age_s = places.get(peer), now - own.at
            if me is not None and to is not None and age_s < limits.LINK_KEPT_S:
                found[me, to] = Estimate(rate_of(own.told.rate), rtt_of(own.told.rtt), age_s, self._me)
        return found

    # ---- inside

    def _tell(self, now: float) -> None:
        ends = [own.at + limits.LINK_KEPT_S for own in self._own.values()]
        self._expires_at = min(ends, default=float("inf"))
        links = sorted((own.told for own in self._own.values()), key=lambda link: (-link.rate, link.to))
        fast = 2 * limits.LINKS_TOLD_MAX // 3
        few = links if len(links) <= limits.LINKS_TOLD_MAX else [*links[:fast], *links[fast - limits.LINKS_TOLD_MAX :]]
        self._told = sorted(few, key=lambda link: link.to)


def rate_of(step: int) -> float:
    """Bytes a second."""
    return RATE_UNIT * exp2(step / STEPS_PER_OCTAVE)


def rtt_of(step: int) -> float:
    """Seconds."""
    return RTT_UNIT_S * exp2(step / STEPS_PER_OCTAVE)


def _told(peer: str, rate: float, rtt: float, before: Link | None) -> Link:
    rate_step = _step(rate, limits.RATE_STEP_MAX, before.rate if before else -1)
    rtt_step = _step(rtt, limits.RTT_STEP_MAX, before.rtt if before else -1)
    return Link(peer, rate_step, rtt_step)


def _step(octaves: float, most: int, before: int) -> int:
    exact = octaves * STEPS_PER_OCTAVE
    if before >= 0 and abs(exact - before) < SLACK_STEPS:
        return before
    return min(max(round(exact), 0), most)
