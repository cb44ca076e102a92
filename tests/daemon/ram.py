"""A folder in memory where the system has one: thousands of fsyncs on a disk take longer than what they test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def ram_folder() -> Iterator[Path]:
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="intellectd-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ram_path() -> Iterator[Path]:
    with ram_folder() as folder:
        yield folder
