"""The built-in trainer's text and schedule: the same split everywhere, and what is said where text is missing."""

import json
import tracemalloc
from pathlib import Path

import pytest
import torch

from intellectd.daemon.trainer.data import (
    DATA_ENV,
    HELD_OUT_ONE_IN,
    TEXT_BYTES_MAX,
    DataError,
    _digest,
    _is_held_out,
    load_text,
)
from intellectd.daemon.trainer.evaluate import held_out_sequences
from intellectd.daemon.trainer.train import Recipe

MANIFEST = {
    "data": {"batch_size": 2},
    "model": {"context": 8},
    "inner": {"lr": 1.0, "warmup_steps": 4},
    "until": {"rounds": 10},
}


def directory(root: Path, files: int) -> dict[str, str]:
    for index in range(files):
        path = root / f"part{index % 3}" / f"{index}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([index % 256]) * 20)
    return {DATA_ENV: json.dumps({"books": str(root)})}


def test_the_standard_library_is_enough_text_and_is_split_by_file() -> None:
    text = load_text("python-stdlib", 128, {})
    total = len(text.train) + len(text.held_out)
    assert 2_000_000 < total <= TEXT_BYTES_MAX + 2000
    assert 0.01 < len(text.held_out) / total < 0.15
    assert b"import " in bytes(text.train[:20_000].tolist())


def test_no_file_is_in_both_parts_and_the_split_goes_by_name_alone(tmp_path: Path) -> None:
    environ = directory(tmp_path, 200)
    text = load_text("books", 8, environ)
    train, held_out = ({*part.tolist()} - {10} for part in (text.train, text.held_out))
    assert not train & held_out
    assert 200 / HELD_OUT_ONE_IN / 3 < len(held_out) < 200 / HELD_OUT_ONE_IN * 3
    again = load_text("books", 8, environ)
    assert torch.equal(text.train, again.train) and torch.equal(text.held_out, again.held_out)


def test_a_sample_is_context_plus_one_neighbouring_bytes(tmp_path: Path) -> None:
    text = load_text("books", 8, directory(tmp_path, 200))
    last = text.positions(8) - 1
    batch = text.batch([0, 5, last], 8)
    assert batch.shape == (3, 9) and batch.dtype == torch.int64
    assert torch.equal(batch[2], text.train[-9:].long())
    sequences = held_out_sequences(text, 5, 8)
    assert torch.equal(sequences[0], text.held_out[:9].long())
    assert torch.equal(sequences[4], text.held_out[-9:].long())
    assert held_out_sequences(text, 1, 8).shape == (1, 9)
    assert held_out_sequences(text, 0, 8).shape == (0, 9)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "has no directory on this host"),
        ({DATA_ENV: '{"novels": "/x"}'}, r"known: \['novels'\]"),
        ({DATA_ENV: "books=/x"}, "is no JSON"),
        ({DATA_ENV: '{"books": 3}'}, "no map of names to directories"),
        ({DATA_ENV: '["books"]'}, "no map of names to directories"),
        ({DATA_ENV: '{"books": "/nowhere/at/all"}'}, "is no directory"),
    ],
)
def test_missing_text_is_explained(environ: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_text("books", 8, environ)
    assert caught.value.hint


def test_of_a_huge_file_no_more_is_read_than_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a corpus may have more bytes than the host has memory."""
    monkeypatch.setattr("intellectd.daemon.trainer.data.DIRECTORY_BYTES_MAX", 2000)
    environ = directory(tmp_path, 0)
    names = sorted((f"{number}.txt" for number in range(100)), key=_digest)
    held_out, trained = next(filter(_is_held_out, names)), names[-1]
    (tmp_path / held_out).write_bytes(b"x" * 100)
    with (tmp_path / trained).open("wb") as file:
        file.truncate(64 * 2**20)
    tracemalloc.start()
    text = load_text("books", 8, environ)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(text.held_out), len(text.train)) == (100, 1900) and peak < 2**20


def test_text_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = directory(tmp_path, 40)

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(DataError, match=r"Permission denied: .*\.txt") as caught:
        load_text("books", 16, environ)
    assert "daemon's user" in caught.value.hint


def test_too_little_text_is_said_with_the_part_that_lacks_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 bytes of training text"):
        load_text("books", 8, directory(tmp_path, 0))
    (tmp_path / "0.txt").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"of (training|held-out) text, a sample is 9"):
        load_text("books", 8, directory(tmp_path, 0))


def test_a_fresh_optimizer_warms_up_wherever_the_run_stands() -> None:
    recipe = Recipe.of(MANIFEST)
    assert recipe.lr_at(1, 0, 20, steps_taken=0) == 0.25
    assert recipe.lr_at(9, 0, 20, steps_taken=0) == 0.25
    assert recipe.lr_at(9, 0, 20, steps_taken=50) == 1.0


def test_the_cosine_goes_by_the_runs_rounds() -> None:
    recipe = Recipe.of({**MANIFEST, "inner": {"lr": 1.0, "schedule": "cosine"}})
    assert recipe.lr_at(1, 0, 20, 0) == 1.0
    assert recipe.lr_at(6, 0, 20, 0) == pytest.approx(0.55)
    assert recipe.lr_at(11, 0, 20, 0) == recipe.lr_at(40, 0, 20, 0) == pytest.approx(0.1)
    endless = Recipe.of({**MANIFEST, "inner": {"lr": 1.0, "schedule": "cosine"}, "until": {"rounds": None}})
    assert endless.lr_at(1000, 0, 20, 0) == 1.0
