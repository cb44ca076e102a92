"""A torus of rings: the ring's bytes with 2(c-1) + 2(r-1) hops instead of 2(rc-1), for r rows of c members.

Member i*c + j sits in row i, column j, and owns a slice. First each row sums the slice on its way right, from the
owner's column + 1 to the owner's column (c-1 steps); then the rows' sums are summed down that column, from the
owner's row + 1 to the owner (r-1 steps), which divides and encodes once; the result goes down the column (r-1 steps)
and from there right along each row (c-1 steps). Mikami et al., "ImageNet/ResNet-50 training in 224 seconds", 2018.
"""

from collections.abc import Iterator

from intellectd.daemon.bulk.schedules.chunks import Chunk
from intellectd.daemon.bulk.schedules.program import Action, Arrival, Content, Send


class Torus:
    """Raises ValueError unless the members fill whole rows."""

    parts_from_own = False

    def __init__(self, me: int, members: int, rows: int, chunks: tuple[Chunk, ...]) -> None:
        if rows < 1 or members % rows:
            raise ValueError(f"{members} members do not fill {rows} rows")
        self._rows, self._columns, self.chunks = rows, members // rows, chunks
        self._row, self._column = divmod(me, self._columns)
        self._right, self._left = self._at(self._row, self._column + 1), self._at(self._row, self._column - 1)
        self._down, self._up = self._at(self._row + 1, self._column), self._at(self._row - 1, self._column)
        # The first step of each stage after the sum along the row.
        self._sum_down = self._columns - 1
        self._result_down = self._sum_down + rows - 1
        self._result_right = self._result_down + rows - 1
        self._end = self._result_right + self._columns - 1

    def _at(self, row: int, column: int) -> int:
        return row % self._rows * self._columns + column % self._columns

    def begin(self) -> Iterator[Send]:
        for chunk in self.chunks:
            row, column = divmod(chunk.owner, self._columns)
            if self._columns > 1:
                if (self._column - column - 1) % self._columns == 0:
                    yield Send(self._right, chunk.index, 0, Content.START)
            elif self._rows > 1 and (self._row - row - 1) % self._rows == 0:
                yield Send(self._down, chunk.index, self._sum_down, Content.START)

    def steps_here(self, chunk: int) -> tuple[int, ...]:
        row, column = divmod(self.chunks[chunk].owner, self._columns)
        from_row, from_column = (self._row - row) % self._rows, (self._column - column) % self._columns
        along, down = (from_column - 1) % self._columns, (from_row - 1) % self._rows
        found = [along - 1] if along > 0 else []
        if from_column == 0:
            found += [self._sum_down + down - 1] if down > 0 else []
            found += [self._result_down + from_row - 1] if from_row > 0 else []
        else:
            found.append(self._result_right + from_column - 1)
        return tuple(found)

    def arrival(self, chunk: int, step: int) -> Arrival | None:
        row, column = divmod(self.chunks[chunk].owner, self._columns)
        from_row, from_column = (self._row - row) % self._rows, (self._column - column) % self._columns
        if not 0 <= step < self._end:
            return None
        if step < self._sum_down:
            return self._along_row(chunk, step, (from_row - 1) % self._rows, (from_column - 1) % self._columns)
        if step < self._result_down:
            return self._down_column(chunk, step, (from_row - 1) % self._rows) if from_column == 0 else None
        return self._result(chunk, step, from_row, from_column)

    def _result(self, chunk: int, step: int, from_row: int, from_column: int) -> Arrival | None:
        """Down the owner's column, then right along each row."""
        if step < self._result_right:
            hop = step - self._result_down
            if from_column or from_row != hop + 1:
                return None
            down = (Send(self._down, chunk, step + 1),) if hop < self._rows - 2 else ()
            return Arrival(self._up, Action.STORE, (*down, *self._right_from_here(chunk)))
        hop = step - self._result_right
        if from_column != hop + 1:
            return None
        further = (Send(self._right, chunk, step + 1),) if hop < self._columns - 2 else ()
        return Arrival(self._left, Action.STORE, further)

    def _along_row(self, chunk: int, step: int, down: int, along: int) -> Arrival | None:
        """`down`, `along`: this member's place on the chunk's way down its column and along its row."""
        if along != step + 1:
            return None
        if along < self._columns - 1:
            return Arrival(self._left, Action.ADD, (Send(self._right, chunk, step + 1),))
        if self._rows == 1:
            return Arrival(self._left, Action.FINISH, self._right_from_here(chunk))
        first = (Send(self._down, chunk, self._sum_down),) if down == 0 else ()
        return Arrival(self._left, Action.ADD, first, ends_row=True)

    def _down_column(self, chunk: int, step: int, down: int) -> Arrival | None:
        if down != step - self._sum_down + 1:
            return None
        alone = self._columns == 1  # the row's sum is this host's own part
        if down < self._rows - 1:
            return Arrival(self._up, Action.ADD if alone else Action.MERGE, (Send(self._down, chunk, step + 1),))
        result = (Send(self._down, chunk, self._result_down), *self._right_from_here(chunk))
        return Arrival(self._up, Action.FINISH if alone else Action.MERGE_FINISH, result)

    def _right_from_here(self, chunk: int) -> tuple[Send, ...]:
        return (Send(self._right, chunk, self._result_right),) if self._columns > 1 else ()

    def gathered(self, chunk: int) -> tuple[Send, ...]:
        return ()

    def is_result(self, step: int) -> bool:
        return step >= self._result_down
