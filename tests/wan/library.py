"""The router's arithmetic called from Python: the same C, with a clock that the caller turns.

Owns the binding of router/model.h and router/packet.h. Sizes in bytes, times in seconds, rates in bytes a second.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Self

from tests.wan import compiled
from tests.wan.counts import Carried

RUNS_MAX = 2048
VNET_BYTES = 10


class Sizes(ctypes.Structure):
    _fields_ = (("header", ctypes.c_uint32), ("payload", ctypes.c_uint32), ("segment", ctypes.c_uint32))


class Run(ctypes.Structure):
    _fields_ = (
        ("first", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("due", ctypes.c_double),
        ("spread", ctypes.c_double),
    )
    first: int
    count: int
    due: float
    spread: float

    def numbers(self) -> range:
        """Of its segments in the packet."""
        return range(self.first, self.first + self.count)


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in Carried.__dataclass_fields__)


@dataclass
class Link:
    """rate 0: infinite."""

    rate: float = 0.0
    queue_bytes: float = 1e12


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled.library()))
    u32, real, pointer, whole = ctypes.c_uint32, ctypes.c_double, ctypes.c_void_p, ctypes.c_int
    for name, result, words in (
        ("wan_new", pointer, (u32, ctypes.c_uint64)),
        ("wan_free", None, (pointer,)),
        ("wan_set_port", None, (pointer, u32, whole, real, real, real)),
        ("wan_set_path", None, (pointer, u32, u32, real, real, real, real, real, whole, real)),
        ("wan_send", u32, (pointer, u32, u32, real, Sizes, pointer)),
        ("wan_receive", u32, (pointer, u32, u32, Run, Sizes, pointer)),
        ("wan_counts", ctypes.POINTER(_Counts), (pointer, u32, u32)),
        ("packet_read", whole, (ctypes.c_char_p, ctypes.c_size_t, pointer, pointer)),
        ("packet_cut", ctypes.c_size_t, (ctypes.c_char_p, ctypes.c_size_t, Sizes, Run, pointer)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, words
    return library


class Model:
    """The network of router/model.h."""

    def __init__(self, hosts: int, seed: int = 0) -> None:
        self._library = _library()
        self._wan = self._library.wan_new(hosts, seed)
        self._runs = (Run * RUNS_MAX)()

    @classmethod
    @contextmanager
    def of(cls, hosts: int, seed: int = 0) -> Iterator[Self]:
        model = cls(hosts, seed)
        try:
            yield model
        finally:
            model._library.wan_free(model._wan)

    def port(self, host: int, which: str, link: Link, now: float = 0.0) -> None:
        self._library.wan_set_port(self._wan, host, which == "down", *astuple(link), now)

    def path(
        self,
        start: int,
        end: int,
        *,
        delay: float = 0.0,
        jitter: float = 0.0,
        link: Link = Link(),  # noqa: B008
        loss: float = 0.0,
        open_: bool = True,
        now: float = 0.0,
    ) -> None:
        self._library.wan_set_path(self._wan, start, end, delay, jitter, *astuple(link), loss, open_, now)

    def send(self, start: int, end: int, now: float, payload: int, segment: int = 0, header: int = 0) -> list[Run]:
        sizes = Sizes(header, payload, segment)
        count = self._library.wan_send(self._wan, start, end, now, sizes, self._runs)
        return [Run.from_buffer_copy(run) for run in self._runs[:count]]

    def receive(self, start: int, end: int, run: Run, payload: int, segment: int = 0, header: int = 0) -> list[Run]:
        sizes = Sizes(header, payload, segment)
        count = self._library.wan_receive(self._wan, start, end, run, sizes, self._runs)
        return [Run.from_buffer_copy(run) for run in self._runs[:count]]

    def counts(self, start: int, end: int) -> Carried:
        counts = self._library.wan_counts(self._wan, start, end).contents
        return Carried(*(getattr(counts, name) for name in Carried.__dataclass_fields__))


def read_packet(packet: bytes) -> tuple[int, Sizes] | None:
    """(destination, sizes), or None: no packet to be carried."""
    to, sizes = ctypes.c_uint32(), Sizes()
    if _library().packet_read(packet, len(packet), ctypes.byref(to), ctypes.byref(sizes)):
        return None
    return to.value, sizes


def cut_packet(packet: bytes, sizes: Sizes, run: Run) -> bytes:
    out = ctypes.create_string_buffer(len(packet))
    size = _library().packet_cut(packet, len(packet), sizes, run, out)
    return out.raw[:size]
