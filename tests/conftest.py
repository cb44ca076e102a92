"""Of all tests: how many examples a property is tried with, how many threads torch has, what is garbage collected.

Half a million objects of torch, hypothesis and pytest live as long as the session. To walk through them again and
again took a fifth of the collection's time and a third of a second in each `gc.collect()` of a test.

Vectors of the tests are small: the other threads of torch only spin. One thread took a third of the time of the
kernels' and the rings' tests away.
"""

import gc
import os

import pytest
from hypothesis import settings

from tests.wan.fixture import wan

__all__ = ["wan"]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is first imported

# A fault that a change makes shows at once or in many examples: .ci/run takes those. No deadline: a busy machine
# is no fault.
settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=400, deadline=None)
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
