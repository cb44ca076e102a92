"""`python -m intellectd.daemon.trainer`: trains the built-in model for a daemon's run, or alone with --solo.

Owns the command line, the environment that the daemon sets and the words of a failure. Exit 0: the run has
finished; 1: a reason on stderr.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import intellectd
from intellectd.daemon.sdk.outer import outer_from_manifest
from intellectd.daemon.trainer.data import TOKENS, Text, load_text
from intellectd.daemon.trainer.evaluate import held_out_sequences
from intellectd.daemon.trainer.flops import flops_per_token, peak_flops
from intellectd.daemon.trainer.model import CORRECT_IT, ModelError, build_model, llama_settings
from intellectd.daemon.trainer.train import Evaluator, Recipe, make_optimizer, train

RUN_ENV = "INTELLECTD_RUN"
MANIFEST_ENV = "INTELLECTD_MANIFEST"
IS_IT_ONE = "is it the manifest of a run?"


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        manifest = _manifest(arguments)
        if arguments.solo:
            _solo(manifest, arguments.rounds, arguments.out)
        else:
            _in_run(arguments.run, arguments.socket, manifest)
    except intellectd.IntellectdError as error:
        logging.getLogger("intellectd").error("%s", error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m intellectd.daemon.trainer", description=__doc__)
    parser.add_argument(
        "--run", default=os.environ.get(RUN_ENV, ""), help=f"run id; default: {RUN_ENV}, else the only run"
    )
    parser.add_argument("--socket", default=None, help="the daemon's socket; default INTELLECTD_SOCKET")
    parser.add_argument("--manifest", type=Path, help=f"the run's manifest as JSON; default {MANIFEST_ENV}")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 for torch's default (OMP_NUM_THREADS)")
    parser.add_argument("--solo", action="store_true", help="train alone, without daemon and peers")
    parser.add_argument("--rounds", type=int, help="with --solo: instead of the manifest's until.rounds")
    parser.add_argument("--out", type=Path, help='with --solo: write {"first", "last", "losses"} of held-out loss here')
    return parser


def _manifest(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        text = arguments.manifest.read_text() if arguments.manifest else os.environ.get(MANIFEST_ENV, "")
        manifest = json.loads(text)
    except (OSError, ValueError) as error:
        raise intellectd.IntellectdError(
            f"the run's manifest cannot be read ({error})",
            f"the daemon passes it in {MANIFEST_ENV}; by hand, give --manifest FILE.json",
        ) from error
    if not isinstance(manifest, dict):
        raise intellectd.IntellectdError("the run's manifest is no JSON object", IS_IT_ONE)
    missing = [key for key in ("model", "data", "inner", "outer") if not isinstance(manifest.get(key), dict)]
    if missing:
        raise intellectd.IntellectdError(f"the manifest has no table {missing[0]!r}", IS_IT_ONE)
    return manifest


def _in_run(run: str, socket: str | None, manifest: Mapping[str, Any]) -> None:
    model, text, evaluator, recipe = _prepare(manifest)
    optimizer = make_optimizer(model, recipe)
    with intellectd.DiLoCo(
        run,
        model,
        optimizer,
        flops_per_token=flops_per_token(model),
        peak_flops=peak_flops(model),
        socket=socket,
        on_round=evaluator,
    ) as d:
        train(d, model, optimizer, text, recipe)
        logging.getLogger("intellectd").info("finished: %s", d.finish_reason)


def _solo(manifest: Mapping[str, Any], rounds: int | None, out: Path | None) -> None:
    model, text, evaluator, recipe = _prepare(manifest)
    optimizer = make_optimizer(model, recipe)
    with intellectd.DiLoCo(
        None,
        model,
        optimizer,
        outer_optimizer=outer_from_manifest(manifest["outer"]),
        sync_every=int(manifest["inner"]["steps"]),
        rounds=rounds or recipe.rounds,
        seed=int(manifest.get("seed", 0)),
        on_round=evaluator,
    ) as d:
        train(d, model, optimizer, text, recipe)
    losses = evaluator.losses
    if out is not None and losses:
        out.write_text(json.dumps({"first": losses[0], "last": losses[-1], "losses": losses}))


def _prepare(manifest: Mapping[str, Any]) -> tuple[torch.nn.Module, Text, Evaluator, Recipe]:
    settings = llama_settings(
        manifest["model"]
    )  # a model of another kind has none of what a recipe needs: say that first
    if settings["vocab_size"] < TOKENS:
        raise ModelError(
            f"the run's vocab_size is {settings['vocab_size']}, and the built-in trainer's tokens are {TOKENS} bytes",
            CORRECT_IT,
        )
    try:
        recipe = Recipe.of(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise intellectd.IntellectdError(
            f"the run's manifest is not usable ({type(error).__name__}: {error})", IS_IT_ONE
        ) from error
    text = load_text(str(manifest["data"]["source"]), recipe.context)
    model = build_model(manifest["model"], int(manifest.get("seed", 0)))
    sequences = held_out_sequences(text, int(manifest["data"].get("eval_sequences", 64)), recipe.context)
    return model, text, Evaluator(model, sequences), recipe


if __name__ == "__main__":
    sys.exit(main())
