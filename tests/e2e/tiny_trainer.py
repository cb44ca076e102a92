"""A training program as an operator might bring one: a small torch model in a run through the public API.

`python tiny_trainer.py GATE`: before each round it passes the gate, by which the tests say how far a run may
go (gate.py). The task is to learn a fixed random matrix; every sample is drawn from its position.
"""

import fcntl
import sys
from pathlib import Path

import torch

import intellectd

WIDTH = 24  # 600 parameters: more than one block of the codec, with padding
BATCH = 8
POSITIONS = 2**31


def samples(positions: list[int]) -> torch.Tensor:
    rows = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(position)) for position in positions]
    return torch.stack(rows)


def pass_gate(gate: Path, round_number: int) -> None:
    """Returns when that round may be trained."""
    with gate.open("rb") as file:
        fcntl.lockf(file, fcntl.LOCK_SH, 1, round_number)


def main(gate: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    truth = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    held_out = samples(list(range(64)))

    def loss_on(inputs: torch.Tensor) -> torch.Tensor:
        return (model(inputs) - inputs @ truth).square().mean()

    def evaluate(d: intellectd.DiLoCo) -> None:
        if d.wants_evaluation and d.holds_anchor:
            d.evaluated(loss_on(held_out).item())

    # The daemon that starts this program names run and socket in its environment; "" is a daemon's only run.
    with intellectd.DiLoCo("", model, optimizer, on_round=evaluate) as d:
        while not d.finished:
            work, step = d.assignment, d.step
            if step == 0:
                pass_gate(gate, work.round)
            loss = loss_on(samples([work.position(step * BATCH + i, POSITIONS) for i in range(BATCH)]))
            loss.backward()
            d.log(loss=loss.detach(), tokens=BATCH)
            optimizer.step()
            optimizer.zero_grad()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
