"""Several hosts in one run, trained by the tiny trainer as far as the gate is open.

Owns the words that the stories are told in: found, join, advance, agree. Refuses to judge.
"""

from collections.abc import Sequence
from pathlib import Path

from intellectd.daemon.identity import verify
from intellectd.daemon.runs.verify_log import verify_log
from intellectd.daemon.store.run_store import RunStore
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.records import Entry
from tests.e2e.gate import Gate
from tests.e2e.host import Host, run_toml, tiny_trainer

TRIES_MAX = 30  # rounds that may pass until somebody has a part in one


class Swarm:
    def __init__(self, folder: Path, sockets: Path) -> None:
        self._folder, self._sockets = folder, sockets
        self.gate = Gate(folder / "gate")
        self.hosts: list[Host] = []
        self.run_id = ""

    def host(self, trainer: str | tuple[str, ...] | None = None, forked: bool = False, network: str = "") -> Host:
        """One more daemon, starting; in no run yet."""
        name = f"host-{len(self.hosts) + 1}"
        host = Host(name, self._folder, self._sockets, trainer or tiny_trainer(self.gate.path), forked, network)
        self.hosts.append(host)
        return host

    def found(self, host: Host, text: str) -> None:
        file = self._folder / "run.toml"
        file.write_text(text)
        self.run_id = host.tell("init", str(file))["run_id"]

    def join(self, host: Host, through: Host) -> None:
        host.tell("join", self.run_id, "--peer", through.address)

    def begin(self, hosts: Sequence[Host], *more: str) -> None:
        """The first founds, the others join through it; nobody trains before all are there."""
        for host in hosts:
            host.wait_ready()
        self.found(hosts[0], run_toml(len(hosts), *more))
        for host in hosts[1:]:
            self.join(host, through=hosts[0])

    def advance(self, hosts: Sequence[Host], rounds: int) -> int:
        """Let the run go on so far, and wait until these hosts are there; the round they stand at."""
        self.gate.open(self.gate.open_to + rounds)
        hosts[0].wait(self.run_id, f"round={self.gate.open_to}")
        for host in hosts[1:]:
            host.wait_quietly(self.run_id, f"round={self.gate.open_to}")
        return self.gate.open_to

    def until_contributed(self, host: Host, seen_by: Sequence[Host]) -> int:
        """Let the run go on round by round until `host` has a part in one: that round."""
        host.wait_attached(self.run_id)
        for _ in range(TRIES_MAX):
            round_ = self.advance(seen_by, 1)
            if host.peer in seen_by[0].rounds(self.run_id)[round_]["roster"]:
                return round_
        raise AssertionError(host.told(f"it had no part in any of {TRIES_MAX} rounds"))

    def until_together(self, hosts: Sequence[Host]) -> int:
        """Let the run go on round by round until these and nobody else have a part in one: that round."""
        everybody = sorted(host.peer for host in hosts)
        for _ in range(TRIES_MAX):
            round_ = self.advance(hosts, 1)
            if sorted(hosts[0].rounds(self.run_id)[round_]["roster"]) == everybody:
                return round_
        raise AssertionError(hosts[0].told(f"{everybody} were not alone together in any of {TRIES_MAX} rounds"))

    def log_of(self, host: Host) -> list[Entry]:
        """Read from the disk of a host that has stopped; every record and certificate verified again."""
        store = RunStore(host.state / "runs" / self.run_id)
        try:
            return verify_log(store, store.manifest().manifest, run_ids.run_key(self.run_id), _Reader())
        finally:
            store.close()

    def stop(self, hosts: Sequence[Host]) -> list[int]:
        """All at once; their exit codes."""
        for host in hosts:
            host.process.terminate()
        return [host.ended() for host in hosts]

    def end(self) -> None:
        self.stop(self.hosts)
        self.gate.close()


class _Reader:
    """Verifies; has no key to sign with."""

    def sign(self, message: bytes) -> bytes:
        raise AssertionError("nothing is signed here")

    def verify(self, author: str, message: bytes, signature: bytes) -> bool:
        return verify(author, message, signature)
