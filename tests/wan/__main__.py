"""`python -m tests.wan`: a topology with commands running in its hosts. `--help` has examples.

Owns the command line, and the ends of what it started. Root, and see network.why_not().
"""

import argparse
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import IO

from tests.wan import topology
from tests.wan.calibrate import calibrate
from tests.wan.network import Wan, WanError, why_no_nat, why_not

EXAMPLES = """
  python -m tests.wan --topology three-continents.toml --host tokyo -- ping -c3 {london}
  python -m tests.wan --topology home-hosts.toml --each -- intellectd run --state-dir /tmp/wan/{host}
  python -m tests.wan --topology three-continents --on tokyo 'iperf3 -s -1' --on london 'iperf3 -c {tokyo}'
  python -m tests.wan --topology intellect1 --scale 0.05 --at 30 'cut dallas' --at 60 'heal dallas' --each -- ...
  python -m tests.wan --calibrate

{host} in a command is the host it runs in, {address} the address that others reach it by, {NAME} that of host NAME;
WAN_HOST and WAN_ADDRESS are in its environment. Changes: cut A [B], heal A [B], slow A B FACTOR.
Without a command the network stays until standard input ends, and how to enter each host is printed.
"""
END_S = 10.0  # for commands after an interrupt, before they are killed


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser("python -m tests.wan", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    made.add_argument("--topology", help="a file, or the name of one in tests/wan/topologies")
    made.add_argument("--scale", type=float, default=1.0, help="every rate times so much")
    made.add_argument("--seed", type=int, default=0, help="of losses and jitter")
    made.add_argument("--host", help="where the command runs (default: the first)")
    made.add_argument("--each", action="store_true", help="the command runs in every host")
    made.add_argument("--on", nargs=2, action="append", default=[], metavar=("HOST", "COMMAND"))
    made.add_argument("--at", nargs=2, action="append", default=[], metavar=("SECONDS", "CHANGE"))
    made.add_argument("--calibrate", action="store_true", help="measure what the emulator is worth here and now")
    made.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    return made


def commands(options: argparse.Namespace, shape: topology.Topology) -> list[tuple[str, list[str]]]:
    """(host, words) of each; ValueError."""
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    wanted = [(host, shlex.split(command)) for host, command in options.on]
    if words:
        hosts = shape.names if options.each else (options.host or shape.names[0],)
        wanted += [(host, words) for host in hosts]
    for host, _ in wanted:
        if host not in shape.names:
            raise ValueError(f"no host {host!r}; there are {', '.join(shape.names)}")
    return wanted


def filled(wan: Wan, host: str, words: Sequence[str]) -> list[str]:
    values = {name: wan.address(name) for name in wan.topology.names} | {"host": host, "address": wan.address(host)}
    for name, value in values.items():
        words = [word.replace("{" + name + "}", value) for word in words]
    return list(words)


def apply(wan: Wan, change: str) -> None:
    """ValueError: it is no change."""
    word, *ends = change.split()
    names = wan.topology.names
    if word in ("cut", "heal") and 1 <= len(ends) <= 2 and all(end in names for end in ends):
        wan.cut(*ends, heal=word == "heal")
    elif word == "slow" and len(ends) == 3 and all(end in names for end in ends[:2]):
        wan.slow(ends[0], ends[1], float(ends[2]))
    else:
        raise ValueError(f"{change!r} is no change; write cut A [B], heal A [B] or slow A B FACTOR")


def copy(source: IO[str], host: str) -> None:
    for line in source:
        sys.stdout.write(f"{host} | {line}")
        sys.stdout.flush()


def changes(wan: Wan, at: list[list[str]], over: threading.Event) -> None:
    began = time.monotonic()
    for seconds, change in sorted(at, key=lambda pair: float(pair[0])):
        if over.wait(max(0.0, began + float(seconds) - time.monotonic())):
            return
        sys.stderr.write(f"after {seconds} s: {change}\n")
        apply(wan, change)


def run(wan: Wan, wanted: list[tuple[str, list[str]]], at: list[list[str]]) -> int:
    """The first exit code that is not 0, when all have ended; one command alone has the terminal for itself."""
    alone = len(wanted) == 1
    over = threading.Event()
    processes: list[subprocess.Popen[str]] = []
    threads = [threading.Thread(target=changes, args=(wan, at, over))]
    how = {} if alone else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    try:
        for host, words in wanted:
            environment = os.environ | {"WAN_HOST": host, "WAN_ADDRESS": wan.address(host)}
            process = wan.popen(host, *filled(wan, host, words), env=environment, text=True, **how)
            processes.append(process)
            if process.stdout:
                threads.append(threading.Thread(target=copy, args=(process.stdout, host)))
        for thread in threads:
            thread.start()
        codes = [process.wait() for process in processes]
    except KeyboardInterrupt:
        codes = [ended(process) for process in processes]
    finally:
        over.set()
        for process in processes:
            process.kill()
        for thread in threads:
            if thread.ident:
                thread.join()
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def ended(process: subprocess.Popen[str]) -> int:
    process.terminate()
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def hold(wan: Wan) -> int:
    for name in wan.topology.names:
        sys.stdout.write(f"{name:16} {wan.address(name):14} {' '.join(wan.inside(name))} COMMAND\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        sys.stdin.read()
    return 0


def main(words: Sequence[str] | None = None) -> int:
    made = parser()
    options = made.parse_args(words)
    if not options.topology and not options.calibrate:
        made.error("--topology or --calibrate")
    why = why_not()
    if why:
        sys.stderr.write(f"no WAN here: {why}\n")
        return 1
    if options.calibrate:
        for line in calibrate():
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        return 0 if line.startswith("yes") else 1
    try:
        shape = topology.load(options.topology).scaled(options.scale)
        wanted = commands(options, shape)
        if any(host.nat != "none" for host in shape.hosts) and (why := why_no_nat()):
            raise WanError(f"no NAT here: {why}")
        with ExitStack() as stack:
            wan = stack.enter_context(Wan(shape, seed=options.seed))
            return run(wan, wanted, options.at) if wanted else hold(wan)
    except (OSError, ValueError, WanError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
