"""All members of one collective in one process: the real engine's programs and kernels, without its threads and wires.

Owns the order in which frames are taken. Refuses to know hosts and time.
"""

from collections import deque

from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.collective_plan import CollectivePlan
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.schedules.program import ROW_ENDS, Action, Content, Send


class BadHop(Exception):
    """What member number `member` sent was not finite; the cause says it in the engine's words."""

    def __init__(self, member: int) -> None:
        super().__init__(member)
        self.member = member


def reduce_all(members: list[tuple[CollectivePlan, Buffers]]) -> None:
    """The real engine's programs in the real engine's kernels, without its threads and wires."""
    frames: deque[tuple[int, Send, bytes]] = deque()
    rows: dict[tuple[int, int], bool] = {}  # (member, chunk): `out` holds the row's sum
    gathered: dict[int, dict[int, bytes]] = {}

    def post(me: int, send: Send) -> None:
        plan, buffers = members[me]
        chunk = plan.chunks[send.chunk]
        room = memoryview(bytearray(chunk.size if send.content is Content.START else 0))
        frames.append((me, send, bytes(buffers.payload(chunk, send.content, room))))

    def take(sender: int, send: Send, data: bytes) -> bool:
        me, (plan, buffers) = send.to, members[send.to]
        chunk, arrival = plan.chunks[send.chunk], plan.program.arrival(send.chunk, send.step)
        assert arrival is not None
        then = arrival.then
        if arrival.action in ROW_ENDS:
            if (me, send.chunk) not in rows:
                return False
            buffers.merge(chunk, memoryview(data), final=arrival.action is Action.MERGE_FINISH)
        elif arrival.action is Action.GATHER:
            parts = gathered.setdefault(send.chunk, {})
            parts[sender] = data
            if len(parts) == len(members) - 1:
                total = buffers.new_sum(chunk)
                for member in range(len(members)):
                    buffers.gather(chunk, total, member, memoryview(parts[member]) if member != me else None)
                buffers.finish(chunk, total)
                then = plan.program.gathered(send.chunk)
        else:
            buffers.place(chunk)[:] = data
            if arrival.action is Action.STORE:
                buffers.check(chunk)
            else:
                buffers.add(chunk, final=arrival.action is Action.FINISH)
        if arrival.ends_row:
            rows[me, send.chunk] = True
        for further in then:
            post(me, further)
        return True

    for me, (plan, buffers) in enumerate(members):
        for chunk in plan.chunks if plan.alone else ():
            buffers.alone(chunk)
        for send in plan.program.begin():
            post(me, send)
    while frames:
        sender, send, data = frames.popleft()
        try:
            taken = take(sender, send, data)
        except WireError as error:
            raise BadHop(sender) from error
        if not taken:
            frames.append((sender, send, data))  # its row's sum is on its way
