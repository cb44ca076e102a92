"""A job as every member of it computes it alike, seen from this host: the program, and what moves between whom.

Owns the checks of a job. Refuses to know sockets, threads and memory.
"""

import math
from dataclasses import dataclass

from intellectd.daemon.bulk.interface import CollectiveJob
from intellectd.daemon.bulk.schedules.chunks import Chunk, cut_chunks, equal_shares
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
    me = members.index(peer_id)
    program = _program(job, me, codec)
    arrivals, departures, came, went = _traffic(program)
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
        program=program,
        arrivals=arrivals,
        departures=departures,
        arriving_bytes=came,
        departing_bytes=went,
    )


def _program(job: CollectiveJob, me: int, codec: Codec) -> Program:
    count, shape = len(job.members), job.shape
    chunks = cut_chunks(codec, job.elements, equal_shares(count))
    match job.schedule, shape:
        case "ring", ():
            return Ring(me, count, chunks)
        case "torus", (rows,):
            return Torus(me, count, rows, chunks)
        case "direct", ():
            return Direct(me, count, chunks)
        case "direct", shares if len(shares) == count and min(shares) >= 0 and max(shares) > 0:
            return Direct(me, count, cut_chunks(codec, job.elements, shares))
        case (("ring" | "torus" | "direct"), _):
            raise ValueError(f"a {job.schedule} of {count} members has no shape {shape}")
    raise ValueError(f"unknown schedule {job.schedule!r}; there are ring, direct and torus")


def _traffic(program: Program) -> tuple[dict[int, int], dict[int, int], int, int]:
    """(arrivals by neighbour, departures by neighbour, bytes that come, bytes that go)."""
    arrivals: dict[int, int] = {}
    departures: dict[int, int] = {}
    came = went = 0
    sends = list(program.begin())
    for chunk in program.chunks:
        for step in program.steps_here(chunk.index):
            arrival = program.arrival(chunk.index, step)
            assert arrival is not None, "a schedule contradicts itself"
            arrivals[arrival.source] = arrivals.get(arrival.source, 0) + 1
            came += size_of(program, chunk.index, step)
            sends += arrival.then
        sends += program.gathered(chunk.index)
    for send in sends:
        departures[send.to] = departures.get(send.to, 0) + 1
        went += size_of(program, send.chunk, send.step)
    return arrivals, departures, came, went
