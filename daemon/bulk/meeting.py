"""Reaching a peer that cannot be dialled from a host that cannot be dialled either: at a relay. SPEC D11.

Owns which member that is, and this host's half of meeting there. Refuses to know what follows: an ordinary handshake,
with the peer's own certificate, over what the relay has joined.
"""

import socket
from collections.abc import Callable, Mapping, Sequence

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.dial import Dialler, First
from intellectd.daemon.bulk.errors import Declined, LinkLost, LinkSilent, WireError
from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.limits import TRUSTED_MAX
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.relay import DIALS, HEARS
from intellectd.daemon.bulk.wire import (
    HEADER_BYTES,
    Kind,
    Refusal,
    RelayRequest,
    decode_header,
    encode_request,
)

Hear = Callable[[socket.socket, str, Stop], None]  # takes the connection over: the peer begins


class Heard(Exception):
    """It was the peer that dialled, at the relay."""


class Meetings:
    """A Dialler that knows relays."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self.hear: Hear | None = None  # None: this host hears nobody
        self._relays: dict[str, str] = {}

    def learn(self, relays: Mapping[str, str]) -> None:
        """By peer. The newest collective's say."""
        self._relays = {**self._relays, **relays}
        while len(self._relays) > TRUSTED_MAX:
            del self._relays[next(iter(self._relays))]

    def relay(self, peer: str) -> str:
        """ "" where none is needed or known."""
        endpoint = self._dialler.trust.endpoint(peer)
        return "" if endpoint is None or endpoint.address else self._relays.get(peer, "")

    def reach(self, peer: str, first: First, stop: Stop, until: float) -> Link:
        """As Dialler.reach. Raises Heard when the peer reached this host instead."""
        relay = self.relay(peer)
        if not relay:
            return self._dialler.reach(peer, first, stop, until)
        connection, dials = self._meet(relay, peer, stop, until)
        if dials:
            return self._dialler.over(connection, peer, first, stop, until)
        if self.hear is None:
            connection.close()
            raise LinkLost("this host hears nobody")
        self.hear(connection, peer, stop)
        raise Heard

    def _meet(self, relay: str, peer: str, stop: Stop, until: float) -> tuple[socket.socket, bool]:
        """(A connection to the peer on which nothing was said, does this host begin the handshake). Raises LinkLost,
        Stopped. That nobody listens at the relay is not the peer's end."""
        try:
            link = self._dialler.reach(relay, lambda _near: encode_request(RelayRequest(peer)), stop, until)
            try:
                answer = decode_header(link.read_bytes(HEADER_BYTES, max(0.0, until - now_s())))
                if answer.kind == Kind.REFUSED:
                    raise LinkLost(_refusal(answer.flag))
                if answer.kind != Kind.GO or answer.flag not in (DIALS, HEARS) or answer.length:
                    raise WireError(f"{answer.kind.name} of flag {answer.flag} in answer to a relay's request")
                return link.detach(), answer.flag == DIALS
            except BaseException:
                link.close()
                raise
        except (LinkLost, LinkSilent, WireError, Declined) as error:
            raise LinkLost(f"through {relay}: {error}") from None


def relays_of(members: Sequence[str], me: int, others: Sequence[int], ends: Mapping[str, Endpoint]) -> dict[str, str]:
    """By peer, among `others`, who can be dialled as little as this host: the member where the two meet. The pairs take
    those who can be dialled in turn; where there is none nobody meets."""
    open_ = [peer for peer in members if peer in ends and ends[peer].address]
    hidden = [number for number in others if members[number] in ends and not ends[members[number]].address]
    if members[me] in open_ or not open_:
        return {}
    return {members[number]: open_[(me + number) % len(open_)] for number in hidden}


def _refusal(flag: int) -> str:
    if flag == Refusal.BUSY:
        return "it joins as many as it can already"
    if flag == Refusal.UNKNOWN_PEER:
        return "it does not know that peer"
    return f"it refused, for reason {flag} that this version does not know"
