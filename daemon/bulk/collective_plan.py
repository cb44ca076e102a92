"""A job as every member of it computes it alike, seen from this host: the program, and what moves between whom.

Owns the checks of a job. Refuses to know sockets, threads and memory.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from intellectd.daemon.bulk.interface import CollectiveJob
from intellectd.daemon.bulk.schedules.chunks import Chunk, cut_chunks, cut_slices, equal_shares
from intellectd.daemon.bulk.schedules.direct import Direct
from intellectd.daemon.bulk.schedules.program import Program, size_of
from intellectd.daemon.bulk.schedules.ring import Ring
from intellectd.daemon.bulk.schedules.torus import Torus
from intellectd.kernels.codec import Codec, codec_by_name, ring_codec, update_codec

KEY_BYTES = 8  # of a transfer's id are in each frame: a hash of which two under way do not share so much


def key_of(transfer_id: bytes) -> int:
    return int.from_bytes(transfer_id[:KEY_BYTES], "big")


@dataclass(frozen=True)
class CollectivePlan:
    transfer_id: bytes
    schedule: str
    key: int
    members: tuple[str, ...]
    me: int
    weights: tuple[float, ...]
    divisor: float
    codec: Codec  # of the deltas
    result: Codec  # of their mean
    program: Program
    arrivals: dict[int, int]  # chunks that come, by the number of the neighbour that sends them
    departures: dict[int, int]  # that go
    arriving_bytes: int
    departing_bytes: int

    @property
    def alone(self) -> bool:
        return len(self.members) == 1

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return self.program.chunks

    @property
    def neighbours(self) -> tuple[int, ...]:
        return tuple(sorted(dict.fromkeys((*self.arrivals, *self.departures))))

    @property
    def payload_bytes(self) -> int:
        """Both ways through this host, headers left out; what it works through, where it is alone."""
        if self.alone:
            return sum(chunk.size for chunk in self.chunks)
        return self.arriving_bytes + self.departing_bytes


def plan_of(job: CollectiveJob, peer_id: str) -> CollectivePlan:
    """The plan of a job, or ValueError saying which of its parts do not fit together."""
    members, weights = job.members, job.weights
    if len(set(members)) != len(members) or peer_id not in members:
        raise ValueError(f"a collective's members are distinct and include this host; got {', '.join(members)}")
    if len(weights) != len(members) or not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights) > 0:
        raise ValueError(f"{len(members)} members need as many weights, finite and not all 0; got {weights}")
    codec = codec_by_name(job.codec) if job.schedule == "direct" else ring_codec(job.codec)
    result = update_codec(codec)
    size, result_size = codec.encoded_bytes(job.elements), result.encoded_bytes(job.elements)
    if job.elements <= 0 or job.own.nbytes != size or job.out.nbytes != result_size or job.out.readonly:
        raise ValueError(
            f"{job.elements} elements of {codec.name} are {size} bytes, of {result.name} {result_size}; own has "
            f"{job.own.nbytes}, out has {job.out.nbytes} and is {'read-only' if job.out.readonly else 'writable'}"
        )
    me, shares = members.index(peer_id), _shares(job)
    chunks = cut_chunks(codec, job.elements, shares)
    slices = _program(job, me, cut_slices(codec, job.elements, shares))
    arrivals, departures, came, went = _traffic(slices, Counter(chunk.owner for chunk in chunks))
    return CollectivePlan(
        transfer_id=job.transfer_id,
        schedule=job.schedule,
        key=key_of(job.transfer_id),
        members=members,
        me=me,
        weights=weights,
        divisor=sum(weights),
        codec=codec,
        result=result,
        program=_program(job, me, chunks),
        arrivals=arrivals,
        departures=departures,
        arriving_bytes=came,
        departing_bytes=went,
    )


def _shares(job: CollectiveJob) -> tuple[int, ...]:
    """Who owns how much. Raises ValueError."""
    count, shares = len(job.members), job.shape
    if job.schedule != "direct" or not shares:
        return equal_shares(count)
    if len(shares) != count or min(shares) < 0 or max(shares) <= 0:
        raise ValueError(f"a direct of {count} members has no shape {shares}")
    return shares


def _program(job: CollectiveJob, me: int, chunks: tuple[Chunk, ...]) -> Program:
    count = len(job.members)
    match job.schedule, job.shape:
        case "ring", ():
            return Ring(me, count, chunks)
        case "torus", (rows,):
            return Torus(me, count, rows, chunks)
        case "direct", _:
            return Direct(me, count, chunks)
        case (("ring" | "torus"), shape):
            raise ValueError(f"a {job.schedule} of {count} members has no shape {shape}")
    raise ValueError(f"unknown schedule {job.schedule!r}; there are ring, direct and torus")


def _traffic(slices: Program, chunks: Mapping[int, int]) -> tuple[dict[int, int], dict[int, int], int, int]:
    """(arrivals by neighbour, departures by neighbour, bytes that come, bytes that go), of a program in which each
    slice is one chunk. `chunks`: how many the slice of each owner has."""
    arrivals: Counter[int] = Counter()
    departures: Counter[int] = Counter()
    came = went = 0
    sends = list(slices.begin())
    for slice_ in slices.chunks:
        for step in slices.steps_here(slice_.index):
            arrival = slices.arrival(slice_.index, step)
            assert arrival is not None, "a schedule contradicts itself"
            arrivals[arrival.source] += chunks[slice_.owner]
            came += size_of(slices, slice_.index, step)
            sends += arrival.then
        sends += slices.gathered(slice_.index)
    for send in sends:
        departures[send.to] += chunks[slices.chunks[send.chunk].owner]
        went += size_of(slices, send.chunk, send.step)
    return dict(arrivals), dict(departures), came, went
