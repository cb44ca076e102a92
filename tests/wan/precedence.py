"""Processor time for the hosts of an emulated network before other work of the machine, as its router has it.

Real hosts have processors of their own; here a busy machine would be measured instead of a network. Refuses to fail:
where the system does not allow it, the hosts take turns with everything else.
"""

import os
from contextlib import suppress
from pathlib import Path

NICE_MIN = -20  # setpriority(2)


def before_others(pid: int) -> None:
    """A process that has just begun, with what it will start. In a session of its own, or all of the session goes
    first: the kernel weighs sessions against each other, and niceness only within one (sched(7), autogroup)."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE_MIN)
    with suppress(OSError):
        Path("/proc", str(pid), "autogroup").write_text(str(NICE_MIN))
