"""What a host that joins late does to the loss: a swarm with one, beside one with all its hosts from the start.

`python tests/bench/late_joiner.py [--quick] [--json]`. The built-in model (0.86M parameters) on the standard library's
text, trained by four hosts, one after another in this process: the built-in loop's optimizer and recipe, the kernels'
encoding, ring hops and outer step, the manifest's learning rates by roster size. Hosts, rounds and records are left
out: what they agree on, and that a host that catches up has the others' bits, is the other tests' to see.

late_joiner_spike: over the rounds from joining on, the most by which the held-out loss lies further above that of the
swarm with everybody than it did before, over the noise: what two such swarms with other data differ by, in the same
measure. The joiner's inner optimizer begins anew with the recipe's warm-up. late_joiner_spike_warm: the same with
`swarm.warmup_rounds = 2`. Means over seeds. Nothing is asserted here.
"""

import argparse
import copy
import itertools
import json
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from intellectd.daemon.demo.settings import run_toml
from intellectd.daemon.sdk.outer import Nesterov
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.daemon.trainer.data import Text, load_text
from intellectd.daemon.trainer.evaluate import held_out_loss, held_out_sequences, token_loss
from intellectd.daemon.trainer.model import build_model
from intellectd.daemon.trainer.train import Recipe, make_optimizer
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name
from intellectd.kernels.outer import OuterVectors
from intellectd.protocol.manifest import config_from_toml, plain

HOSTS, STEPS, SEQUENCES = 4, 20, 32
JOINS, ROUNDS = 8, 12  # the last host's first round, and the last round
SEEDS, SEEDS_QUICK = 3, 2
SEEN = 5  # rounds from joining on in which a spike would show
Losses = list[float]


class Host:
    def __init__(self, model: torch.nn.Module, recipe: Recipe, number: int, seed: int) -> None:
        self.recipe, self.taken = recipe, 0
        self.model = copy.deepcopy(model)
        self.optimizer = make_optimizer(self.model, recipe)
        self.parameters = Parameters(self.model)
        self.draw = torch.Generator().manual_seed(1000 * seed + number)

    def train(self, text: Text, round_: int) -> None:
        places = text.positions(self.recipe.context)
        for step in range(STEPS):
            at = torch.randint(places, (self.recipe.batch_size,), generator=self.draw).tolist()
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.lr_at(round_, step, STEPS, self.taken)
            token_loss(self.model, text.batch(at, self.recipe.context)).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.taken += 1


def swarm(table: dict[str, Any], text: Text, seed: int, joins: int, warmup: int) -> Losses:
    """Held-out losses of the state after each round; the last host is there from round `joins` on."""
    model = build_model(table["model"], seed=1, device="cpu")
    recipe, outer, codec = Recipe.of(table), Nesterov(), codec_by_name("int8")
    hosts = [Host(model, recipe, number, seed) for number in range(HOSTS)]
    elements = hosts[0].parameters.layout.elements
    anchor, momentum, local = (torch.zeros(elements) for _ in range(3))
    hosts[0].parameters.store(anchor)
    sequences, losses = held_out_sequences(text, SEQUENCES, recipe.context), Losses()
    for round_ in range(1, ROUNDS + 1):
        here = [host for number, host in enumerate(hosts) if number < HOSTS - 1 or round_ >= joins]
        counts = [host for host in here if host is not hosts[-1] or not 1 < joins <= round_ < joins + warmup]
        out: torch.Tensor | None = None
        for host in here:
            host.parameters.load(anchor)
            host.train(text, round_)
            host.parameters.store(local)
            own, total = (torch.empty(codec.encoded_bytes(elements), dtype=torch.uint8) for _ in range(2))
            assert ops.encode_delta(codec, anchor, local, own).first_nonfinite is None
            weight, divisor = float(host in counts), float(len(counts)) if host is here[-1] else None
            assert ops.ring_hop(codec, out, own, weight, divisor, total)
            out = total
        assert out is not None
        ops.outer_step(codec, out, outer.step_for(len(counts)), OuterVectors(anchor, momentum))
        hosts[0].parameters.load(anchor)
        losses.append(held_out_loss(hosts[0].model, sequences))
    return losses


def spike(losses: Losses, beside: Losses) -> float:
    """By how much more it lies above the other than before the host joined, at most."""
    apart = [a - b for a, b in zip(losses, beside, strict=True)]
    before = statistics.fmean(apart[JOINS - 4 : JOINS - 1])  # of rounds JOINS - 3 to JOINS - 1
    return max(apart[JOINS - 1 : JOINS - 1 + SEEN]) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, without the warm-up")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = plain(config_from_toml(tomllib.loads(run_toml(HOSTS, ROUNDS))))
    text = load_text("python-stdlib", int(table["model"]["context"]))
    seeds = range(SEEDS_QUICK if arguments.quick else SEEDS)
    whole, late = ([swarm(table, text, seed, joins, 0) for seed in seeds] for joins in (1, JOINS))
    warm = [] if arguments.quick else [swarm(table, text, seed, JOINS, 2) for seed in seeds]
    noise = statistics.fmean(abs(spike(a, b)) for a, b in itertools.permutations(whole, 2))
    rows = []
    for name, swarms in (("late_joiner_spike", late), ("late_joiner_spike_warm", warm)):
        if not swarms:
            continue
        found = statistics.fmean(spike(a, b) for a, b in zip(swarms, whole, strict=True))
        against = f"what other data change, {noise:.4f} nats"
        ratio = round(found / noise, 3)
        rows.append({"name": name, "value": round(found, 4), "unit": "nats", "against": against, "ratio": ratio})
        if not arguments.json:
            print(
                *(f"{name} seed {s}: " + " ".join(f"{x:.3f}" for x in losses) for s, losses in enumerate(swarms)),
                sep="\n",
            )
    if arguments.json:
        print(json.dumps({"schema": 1, "results": rows}))
        return
    print(*(f"everybody seed {s}: " + " ".join(f"{x:.3f}" for x in losses) for s, losses in enumerate(whole)), sep="\n")
    for row in rows:
        print(f"{row['name']:24} {row['value']:>9} {row['unit']} ratio {row['ratio']} of {row['against']}")


if __name__ == "__main__":
    main()
