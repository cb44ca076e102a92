"""Of all tests: what collection loads is kept out of the garbage collector's rounds.

Half a million objects of torch, hypothesis and pytest live as long as the session. To walk through them again and
again took a fifth of the collection's time and a third of a second in each `gc.collect()` of a test.
"""

import gc

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
