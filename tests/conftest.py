"""Of all tests: how many examples a property is tried with, how many threads torch has, what is garbage collected,
and what of whoever starts them is none of their business.

Half a million objects of torch, hypothesis and pytest live as long as the session. To walk through them again and
again took a fifth of the collection's time and a third of a second in each `gc.collect()` of a test.

Vectors of the tests are small: the other threads of torch only spin. One thread took a third of the time of the
kernels' and the rings' tests away.
"""

import gc
import os
import tempfile

import pytest
from hypothesis import settings

from intellectd.daemon.config import without_settings
from tests.wan.fixture import wan

__all__ = ["wan"]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is first imported

# What an operator has exported, what systemd tells a service such as a CI runner's, and what git tells its hooks would
# reach the daemons and repositories of tests, which are others.
SYSTEMDS = "NOTIFY_SOCKET WATCHDOG_USEC WATCHDOG_PID JOURNAL_STREAM STATE_DIRECTORY CONFIGURATION_DIRECTORY"
GITS = "GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR GIT_OBJECT_DIRECTORY GIT_PREFIX"
# Programs of the tests are found in the folder that they are called in, which PYTHONSAFEPATH has Python leave out.
for name in {*os.environ} - {*without_settings(os.environ)} | {*SYSTEMDS.split(), *GITS.split(), "PYTHONSAFEPATH"}:
    os.environ.pop(name, None)

# A socket's path has 107 bytes at most, and some tests' are long: `/pytest-of-root/pytest-99/popen-gw0/`, up to 31 of
# the test's name, and its own. With 24 bytes before that the first fails; a longer name than root takes some, too.
TEMPORARY_BYTES_MAX = 16
if len(os.fsencode(tempfile.gettempdir())) > TEMPORARY_BYTES_MAX and os.access("/tmp", os.W_OK):
    tempfile.tempdir = os.environ["TMPDIR"] = "/tmp"

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
