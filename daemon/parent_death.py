"""For children that must not outlive the process that started them, however that one ends.

Owns one system call. Used as `preexec_fn`, where only such a thing is safe: no lock, no allocation of ours.
"""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> None:
    """The kernel sends SIGTERM when the *thread* that forked this child ends, so fork in one that lives on.

    SIGTERM and not SIGKILL: daemons put their house in order, launchers such as torchrun pass it on to their ranks.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
