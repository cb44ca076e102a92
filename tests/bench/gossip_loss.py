"""What rounds in groups cost a real model in loss: `python tests/bench/gossip_loss.py [--quick] [--json]`.

A small transformer on bytes (the text of Python's own library), trained by 16 hosts with AdamW inside and the
manifest's outer defaults, all through the production kernels: int8 deltas and means, the outer step, groups drawn as
the protocol draws them. Three runs of the same data, seed by seed: each round exact; rounds in groups, one of four
exact (SPEC E2, E5, E6); and one of four exact, with nothing exchanged between, which says what the groups are worth.
All hosts of a run are one batched computation. Nothing is asserted here.
"""

import argparse
import json
import math
import statistics
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.kernels import ops
from intellectd.kernels.codec import INT8
from intellectd.kernels.outer import NesterovStep, OuterVectors
from intellectd.protocol.head import draw_groups
from intellectd.protocol.ids import hash_of
from intellectd.protocol.manifest import config_from_toml, outer_lr

HOSTS, GROUP, EVERY = 16, 4, 4
WIDTH, LAYERS, HEADS, CONTEXT, BYTES = 64, 2, 4, 64, 256
BATCH, INNER_STEPS, INNER_LR = 4, 20, 3e-3
ROUNDS, ROUNDS_QUICK = 32, 16
SEEDS, SEEDS_QUICK = (1, 2), (1,)
HELD_OUT = 256  # windows
SHAPES = {"embedding": (BYTES, WIDTH), "places": (CONTEXT, WIDTH)}
for _layer in range(LAYERS):
    SHAPES |= {
        f"{_layer} attention": (WIDTH, 3 * WIDTH),
        f"{_layer} heads": (WIDTH, WIDTH),
        f"{_layer} up": (WIDTH, 4 * WIDTH),
        f"{_layer} down": (4 * WIDTH, WIDTH),
    }
ELEMENTS = sum(math.prod(shape) for shape in SHAPES.values())
Row = dict[str, Any]


def text() -> Tensor:
    """Some 10 MB, in a fixed order."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in folder.glob("*.py")) + sorted(folder.glob("*/*.py"))
    raw = b"".join(path.read_bytes() for path in files if "test" not in path.parts[-2])
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def first_parameters(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name, shape in SHAPES.items():
        scale = 0.02 if len(name.split()) == 1 else shape[0] ** -0.5 / (2 if name.endswith(("heads", "down")) else 1)
        parts.append(torch.randn(shape, generator=generator).flatten() * scale)
    return torch.cat(parts)


def losses(flat: Tensor, windows: Tensor) -> Tensor:
    """Of each of k sets of parameters [k, ELEMENTS] on its windows of bytes [k, batch, CONTEXT + 1]: [k], in nats."""
    k, batch, _ = windows.shape
    parts = flat.split([math.prod(shape) for shape in SHAPES.values()], dim=1)
    p = {name: part.view(k, *shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}
    heres, nexts = windows[:, :, :-1].long(), windows[:, :, 1:].long()
    at = heres.reshape(k, -1, 1).expand(-1, -1, WIDTH)
    x = p["embedding"].gather(1, at).view(k, batch, CONTEXT, WIDTH) + p["places"].unsqueeze(1)
    x = x.reshape(k, -1, WIDTH)

    def norm(value: Tensor) -> Tensor:
        return F.layer_norm(value, (WIDTH,))

    for layer in range(LAYERS):
        mixed = (norm(x) @ p[f"{layer} attention"]).view(k * batch, CONTEXT, 3, HEADS, WIDTH // HEADS)
        q, key, value = mixed.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, key, value, is_causal=True)
        x = x + seen.transpose(1, 2).reshape(k, -1, WIDTH) @ p[f"{layer} heads"]
        x = x + F.gelu(norm(x) @ p[f"{layer} up"]) @ p[f"{layer} down"]
    logits = norm(x) @ p["embedding"].transpose(1, 2)
    found = F.cross_entropy(logits.reshape(-1, BYTES), nexts.reshape(-1), reduction="none")
    return found.view(k, -1).mean(dim=1)


class Swarm:
    """Hosts at the same round: the state that all have, and of each its parameters and its optimizer."""

    def __init__(self, seed: int, data: Tensor, averages: bool = False) -> None:
        """`averages`: the outer step takes the mean as it is, instead of the manifest's Nesterov."""
        self.theta, self.momentum = first_parameters(seed), torch.zeros(ELEMENTS)
        self.parameters = self.theta.expand(HOSTS, -1).clone().requires_grad_()
        self._inner = torch.optim.AdamW([self.parameters], lr=INNER_LR)
        self._data, self._generator = data, torch.Generator().manual_seed(seed)
        config = config_from_toml({"name": "bench", "swarm": {"start_peers": HOSTS}, "inner": {"steps": INNER_STEPS}})
        nesterov = NesterovStep(lr=outer_lr(config, HOSTS), mu=config.outer.momentum)
        self._step = NesterovStep(lr=1.0, mu=0.0) if averages else nesterov

    def train(self) -> None:
        for _ in range(INNER_STEPS):
            windows = windows_of(self._data, (HOSTS, BATCH), self._generator)
            losses(self.parameters, windows).sum().backward()
            self._inner.step()
            self._inner.zero_grad()

    def mean(self, hosts: list[int]) -> Tensor:
        """Of their deltas from the state, encoded once each, as they are everywhere."""
        total, encoded = torch.zeros(ELEMENTS), torch.empty(INT8.encoded_bytes(ELEMENTS), dtype=torch.uint8)
        for host in hosts:
            ops.encode_delta(INT8, self.theta, self.parameters.detach()[host], encoded)
            ops.decode_add(INT8, encoded, 1.0, total)
        update = torch.empty_like(encoded)
        assert ops.encode_mean(INT8, total, float(len(hosts)), update) is None
        return update

    def exact(self) -> None:
        update = self.mean(list(range(HOSTS)))
        ops.outer_step(INT8, update, self._step, OuterVectors(self.theta, self.momentum))
        with torch.no_grad():
            self.parameters[:] = self.theta

    def in_groups(self, number: int) -> None:
        names = {f"host {host}": host for host in range(HOSTS)}
        for group in draw_groups(hash_of("bench", str(number).encode()), list(names), GROUP):
            hosts, decoded = [names[name] for name in group], torch.empty(ELEMENTS)
            ops.decode(INT8, self.mean(hosts), decoded)
            with torch.no_grad():
                self.parameters[hosts] = self.theta - decoded

    def held_out(self, windows: Tensor) -> float:
        with torch.no_grad():
            return float(losses(self.theta.unsqueeze(0), windows))


def windows_of(data: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(data) - CONTEXT, shape, generator=generator)
    return data[starts.unsqueeze(-1) + torch.arange(CONTEXT + 1)]


def trained(kind: str, seed: int, rounds: int, data: Tensor, test: Tensor, averages: bool) -> list[float]:
    """Held-out loss of the state after each fourth round, which is exact in all kinds."""
    swarm, found = Swarm(seed, data, averages), []
    for number in range(1, rounds + 1):
        swarm.train()
        if kind == "exact" or number % EVERY == 0:
            swarm.exact()
        elif kind == "gossip":
            swarm.in_groups(number)
        if number % EVERY == 0:
            found.append(swarm.held_out(test))
    return found


def rows(quick: bool, averages: bool) -> Iterator[Row]:
    data = text()
    cut = len(data) * 19 // 20
    test = windows_of(data[cut:], (1, HELD_OUT), torch.Generator().manual_seed(0))
    rounds, seeds = (ROUNDS_QUICK, SEEDS_QUICK) if quick else (ROUNDS, SEEDS)
    runs = {kind: [trained(kind, seed, rounds, data[:cut], test, averages) for seed in seeds] for kind in KINDS}
    for place in sorted({rounds // EVERY // 4 - 1, rounds // EVERY // 2 - 1, rounds // EVERY - 1}):
        exact = [run[place] for run in runs["exact"]]
        for kind in KINDS:
            found = [run[place] for run in runs[kind]]
            more = [mine - theirs for mine, theirs in zip(found, exact, strict=True)]
            yield {
                "name": f"loss_{kind}_{(place + 1) * EVERY}",
                "value": statistics.mean(found),
                "unit": "nats a byte, held out",
                "against": statistics.mean(exact),
                "ratio": statistics.mean(found) / statistics.mean(exact),
                "more": [round(difference, 4) for difference in more],
            }


KINDS = ("exact", "gossip", "seldom")


def main() -> None:
    parser = argparse.ArgumentParser(description="The loss of a small model under gossip rounds.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, one seed")
    parser.add_argument("--average", action="store_true", help="the outer step averages, without momentum")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(ops.usable_threads())
    results = []
    for result in rows(options.quick, options.average):
        results.append(result)
        if not options.json:
            print(
                f"{result['name']:<20}{result['value']:>8.4f}  above exact rounds', by seed: {result['more']}",
                flush=True,
            )
    if options.json:
        print(json.dumps({"schema": 1, "results": results}))


if __name__ == "__main__":
    main()
