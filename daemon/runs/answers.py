"""What peers may ask of this host: manifest, members, records, and objects of the bulk plane, of the runs it is in.

Owns finding the run that a question names. Whoever asks for what is not here gets nothing; whoever asks nonsense is
counted and kept away for a while, without a line in the log: a stranger could fill it.
"""

import hmac
from collections.abc import Callable, Mapping
from typing import TypeVar

import trio

from intellectd.daemon.bulk.interface import ServedObject
from intellectd.daemon.errors import OperatorError
from intellectd.daemon.logs import get_log, log_if_changed
from intellectd.daemon.runs.host import Host
from intellectd.daemon.runs.service import RunService
from intellectd.daemon.runs.serving import NO_ENTRIES, entries_answer, members_answer, open_object
from intellectd.daemon.store.frame_file import Closed
from intellectd.daemon.store.hot_pieces import HotPieces
from intellectd.daemon.store.run_store import RunStore
from intellectd.protocol.messages import BadMessage, EntriesRequest, RunRequest, call_proof, decode

T = TypeVar("T")

# At once, from a disk that may be slow: trio has 40 threads, in which this host's votes are written, too.
READS_MAX = 8
NO_RUN = ""  # as a label: what a request is about, if it cannot be read

log = get_log("runs")


class _Counted:
    """A ServedObject of which is told how much was taken: who fetches in pieces asks for it many times."""

    def __init__(self, inner: ServedObject, count: Callable[[int], None]) -> None:
        self._inner, self._count, self.nbytes = inner, count, inner.nbytes

    def part(self, start: int, stop: int) -> memoryview:
        part = self._inner.part(start, stop)
        self._count(len(part))
        return part


class Answers:
    def __init__(self, host: Host, runs: Mapping[str, RunService]) -> None:
        self._host, self._runs, self._hot = host, runs, HotPieces()
        self._reads = trio.CapacityLimiter(READS_MAX)
        host.network.on_call("manifest", self._on_manifest)
        host.network.on_call("members", self._on_members)
        host.network.on_call("entries", self._on_entries)
        host.bulk.serve(self._provide)

    def _service_of(self, peer: str, request: EntriesRequest | RunRequest | None) -> RunService | None:
        """None also where the peer does not know the run's id: to it the run is not here (SPEC W10)."""
        for service in self._runs.values():
            if request is not None and service.run == request.run:
                proof = call_proof(service.secret, peer, self._host.identity.peer_id)
                return service if hmac.compare_digest(proof, request.proof) else None
        return None

    def _provide(self, peer: str, name: str) -> ServedObject | None:
        """From bulk threads; reads of a dict are atomic. The bulk plane trusts whom any run here trusts, and names of
        objects are no secret: what is one run's goes to its own (SPEC K9)."""
        names: list[str] = []

        def store_of(run_hex: str) -> RunStore | None:
            for service in list(self._runs.values()):
                if service.run.hex() == run_hex and self._host.trusts(service.run, peer):
                    names.append(service.config.name)
                    return service.store
            return None

        found = open_object(name, store_of, self._hot)
        return _Counted(found, lambda count: self._count(names[0], count)) if found is not None else None

    def _count(self, run: str, count: int) -> None:
        self._host.metrics.checkpoint_bytes(run, "out", count)
        self._host.metrics.network_bytes("out", "bulk", count)

    async def _on_manifest(self, peer: str, body: bytes) -> bytes:
        request = self._read(peer, body, RunRequest)
        service = self._service_of(peer, request)
        return service.manifest_bytes if service else b""

    async def _on_members(self, peer: str, body: bytes) -> bytes:
        request = self._read(peer, body, RunRequest)
        service = self._service_of(peer, request)
        return members_answer(service.node.membership.envelopes() if service else [])

    async def _on_entries(self, peer: str, body: bytes) -> bytes:
        request = self._read(peer, body, EntriesRequest)
        service = self._service_of(peer, request)
        if request is None or service is None:
            return NO_ENTRIES
        store, generation = service.store, service.node.head.generation
        try:
            async with self._reads:
                answer: bytes = await self._host.runner(lambda: entries_answer(store, request, generation))
        except Closed:
            return NO_ENTRIES  # it was left a moment ago
        except OperatorError as error:
            # Once, and not in the words that a peer would read: they name paths of this host.
            log_if_changed(log.error, f"entries {service.run_id}", "the log cannot be read", reason=str(error))
            return NO_ENTRIES
        return answer

    def _read(self, peer: str, body: bytes, kind: type[T]) -> T | None:
        try:
            return decode(body, kind)
        except BadMessage as error:
            self._host.metrics.peer_fault(NO_RUN, error.kind)
            self._host.ban(peer)
            log.debug("a request that is none", peer=peer, reason=str(error))
            return None
