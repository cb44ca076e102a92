"""The control plane as the rest of the daemon sees it: who can be reached, called and found.

Owns the interface and its errors; `daemon.p2p` implements it over libp2p, `daemon.memory_net` in memory.
Refuses to know what the bytes mean. No type of libp2p leaks through here.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

# One frame holds a record of 1,000 members (about 120 bytes each) with room to spare; libp2p streams stay
# healthy up to about 1 MB, and anything larger belongs to the bulk plane.
MESSAGE_BYTES_MAX = 512 * 1024
# 1 had no `voted` in beacons (SPEC W2), 2 no proof that who speaks knows the run id (I6): told to upgrade, not taken
# for broken.
WIRE_VERSION = 3

PostHandler = Callable[[str, bytes], None]
CallHandler = Callable[[str, bytes], Awaitable[bytes]]
DisconnectHandler = Callable[[str], None]
TrafficHandler = Callable[[Literal["in", "out"], int], None]


@dataclass(frozen=True)
class Contact:
    """What the connection to a peer tells of it, besides its messages."""

    software: str = ""  # as the peer names its own; "" before the first connection
    round_trip_s: float | None = None  # of the last ping; None without a connection, or when it went unanswered
    refused: str = ""  # the wire versions, and which host is to be upgraded, if these parted the two when they met last


class NetworkError(Exception):
    """The world's fault: a peer that cannot be reached or answered too late. `str()` is fit for a user."""


class PeerUnreachable(NetworkError):
    """No connection could be made (refused, timed out, no known address)."""


class CallTimeout(NetworkError):
    """The peer is connected but did not answer within the deadline."""


class RemoteFailure(NetworkError):
    """The peer answered with an error of its own."""


class WireVersionMismatch(NetworkError):
    """The peer speaks another version of the protocol; names both versions and who should upgrade."""


class BadAddress(NetworkError):
    """The text is no usable multiaddr with a /p2p/ peer id; shows an example of a good one."""


class AddressInUse(NetworkError):
    """A listen address is taken; names it."""


class Network(Protocol):
    """Message transport, RPC and discovery for one peer. All methods belong to the trio thread."""

    @property
    def peer_id(self) -> str: ...

    def addresses(self) -> list[str]:
        """Dialable multiaddrs of this host, each ending in /p2p/<peer id>; never 0.0.0.0."""
        ...

    async def dial(self, address: str, timeout_s: float) -> str:
        """Connect to a multiaddr, return the peer id. Raises NetworkError (the subclass says which kind)."""
        ...

    def learn(self, peer: str, addresses: list[str]) -> None:
        """Remember where a peer may be reached; `post` and `call` dial it when needed."""
        ...

    def post(self, peer: str, body: bytes) -> bool:
        """Queue a one-way message; never blocks. False (and the connection is hung up) when its queue is full."""
        ...

    async def call(self, peer: str, method: str, body: bytes, timeout_s: float) -> bytes:
        """One request, one answer. Raises NetworkError."""
        ...

    def on_post(self, handler: PostHandler) -> None: ...

    def on_call(self, method: str, handler: CallHandler) -> None: ...

    def on_disconnect(self, handler: DisconnectHandler) -> None: ...

    def on_traffic(self, handler: TrafficHandler) -> None:
        """Told of the bytes of calls and posts, both ways; not of the DHT's, nor of what encryption adds."""
        ...

    def on_mismatch(self, handler: Callable[[], None]) -> None:
        """Told each time that a peer speaks another wire version, and was refused."""
        ...

    def keep(self, is_wanted: Callable[[str], bool]) -> None:
        """Whom not to hang up on when too many are connected; untold, whoever this host has spoken to."""
        ...

    def connected(self) -> list[str]: ...

    def contact(self, peer: str) -> Contact: ...

    def came(self) -> dict[str, float]:
        """Peers that have connected to this host in its life, and when last, on trio's clock; at most 1,024."""
        ...

    def directory_peers(self) -> int:
        """How many peers this host's part of the DHT knows."""
        ...

    async def evict(self, peer: str) -> None:
        """Drop the connection and the routing entry of a peer that is silent or misbehaves."""
        ...

    async def announce(self, key: str) -> None:
        """Tell the DHT that this peer serves `key` (at most 50 bytes); kept fresh until `withdraw`. Raises NetworkError
        for more keys than other nodes take of one host."""
        ...

    def withdraw(self, key: str) -> None: ...

    async def find(self, key: str) -> dict[str, list[str]]:
        """Ask the network (not only the local cache) who serves `key`: peer id to addresses, self excluded."""
        ...
