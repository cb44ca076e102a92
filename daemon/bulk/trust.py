"""Who may connect and be dialled: the table of pinned endpoints, and TLS contexts made from it.

Owns the mapping between peer ids and certificates, in both directions, by exact equality. Refuses to know where
the table comes from (signed beacons, says the app) and what the connections are for.
"""

import ssl
import threading
from dataclasses import dataclass, field

from intellectd.daemon.bulk.certificate import Identity, claimed_by
from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.limits import PEER_ID_BYTES_MAX, TRUSTED_MAX


@dataclass(frozen=True)
class _Table:
    """One state of the table; replaced whole, so that readers need no lock."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    peers: dict[bytes, str] = field(default_factory=dict)  # by certificate
    refused: dict[str, str] = field(default_factory=dict)  # peer id -> what is wrong with its certificate


class TrustTable:
    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._replacing = threading.Lock()
        self._table = _Table(identity.context(True, ()), identity.context(False, ()))

    def replace(self, endpoints: dict[str, Endpoint]) -> None:
        """A bad certificate costs its own peer the place, nobody else: beacons are written by others."""
        if len(endpoints) > TRUSTED_MAX:
            raise ValueError(f"{len(endpoints)} peers to trust; the bulk plane keeps at most {TRUSTED_MAX}")
        with self._replacing:
            refused = {peer: why for peer in endpoints if (why := self._flaw(peer, endpoints[peer].certificate))}
            good = {peer: endpoint for peer, endpoint in endpoints.items() if peer not in refused}
            peers = {endpoint.certificate: peer for peer, endpoint in good.items()}
            server, client = self._contexts(peers)
            self._table = _Table(server, client, good, peers, refused)

    def endpoint(self, peer: str) -> Endpoint | None:
        return self._table.endpoints.get(peer)

    def why_not(self, peer: str) -> str:
        """Why `endpoint` is None."""
        flaw = self._table.refused.get(peer)
        return f"its certificate is unusable: {flaw}" if flaw else "no endpoint of it is known here"

    def peer_of(self, certificate: bytes | None) -> str | None:
        return None if certificate is None else self._table.peers.get(certificate)

    def context(self, server_side: bool) -> ssl.SSLContext:
        return self._table.server if server_side else self._table.client

    def _flaw(self, peer: str, certificate: bytes) -> str:
        """Without the check of the name, a peer that announced another's certificate would take its place."""
        if self._table.peers.get(certificate) == peer:
            return ""  # beacons repeat themselves: checked before
        try:
            claimed = claimed_by(certificate)
        except (ValueError, ssl.SSLError) as error:
            return str(error)
        return "" if claimed == peer else f"it was made by {claimed[:PEER_ID_BYTES_MAX]!r}"

    def _contexts(self, peers: dict[bytes, str]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        table = self._table
        if peers.keys() == table.peers.keys():
            return table.server, table.client
        return self._identity.context(True, peers), self._identity.context(False, peers)
