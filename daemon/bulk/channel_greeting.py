"""How a wire begins: the request, the two secrets under TLS, the keys; then TLS is left behind.

Owns both sides of the greeting. Refuses to know channels and threads. The dialler's secret goes with its request and
the acceptor's with its answer, so a wire costs one round trip more than TLS itself.
"""

import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.errors import LinkLost, WireError
from intellectd.daemon.bulk.lanes import Lanes
from intellectd.daemon.bulk.limits import DIAL_ATTEMPT_S, REQUEST_S
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.meeting import Meetings
from intellectd.daemon.bulk.sealed import SECRET_BYTES, WireKeys, derive_keys
from intellectd.daemon.bulk.sharing import Offer, Sharing
from intellectd.daemon.bulk.wire import (
    HEADER_BYTES,
    SHARED,
    ChannelRequest,
    Header,
    Kind,
    Refusal,
    decode_header,
    encode_header,
    encode_request,
)


@dataclass(frozen=True)
class Greeted:
    """A connection on which both ends know the keys, and nothing has been sent under them."""

    connection: socket.socket
    keys: WireKeys
    certificate: bytes | None
    lanes: Lanes | None = None  # within one host

    def close(self) -> None:
        self.connection.close()
        if self.lanes is not None:
            self.lanes.close()


@dataclass(frozen=True)
class Greeter:
    me: str
    sealed: bool
    sharing: Sharing

    def dial(self, dialler: Meetings, peer: str, wire_ids: Callable[[], tuple[bytes, ...]], stop: Stop) -> Greeted:
        """One attempt. Raises LinkLost, LinkSilent, WireError, Stopped; PeerRefused when nobody listens there."""
        until = now_s() + DIAL_ATTEMPT_S
        mine = secrets.token_bytes(SECRET_BYTES)
        with ExitStack() as stack:
            offers: list[Offer] = []

            def first(near: bool) -> bytes:
                if near and (offer := self.sharing.offer()) is not None:
                    offers.append(stack.enter_context(closing(offer)))
                # The ids as late as can be: a list that is old when it is read takes a new wire for a dead one.
                request = ChannelRequest(wire_ids(), self.sealed, offers[0].near if offers else b"")
                return encode_request(request) + mine

            return self._answered(dialler.reach(peer, first, stop, until), mine, offers, until)

    def _answered(self, link: Link, mine: bytes, offers: list[Offer], until: float) -> Greeted:
        try:
            answer = decode_header(link.read_bytes(HEADER_BYTES, max(0.0, until - now_s())))
            if answer.kind == Kind.REFUSED:
                raise LinkLost(_refusal(answer.flag))
            if answer.kind != Kind.GO or answer.length:
                raise WireError(f"{answer.kind.name} of {answer.length} bytes in answer to a channel")
            theirs = link.read_bytes(SECRET_BYTES, max(0.0, until - now_s()))
            keys, certificate = derive_keys(self.me, link.peer, mine, theirs), link.certificate()
            if answer.flag != SHARED:
                return Greeted(link.detach(), keys, certificate)
            if not offers:
                raise WireError("it says to share memory, for which it was not asked")
            lanes = offers[0].take(keys.token)
            try:
                return Greeted(link.detach(), keys, certificate, lanes)
            except BaseException:
                lanes.close()
                raise
        except BaseException:
            link.close()
            raise

    def hear(self, link: Link, request: ChannelRequest) -> "Answer":
        """The acceptor's first half: the keys are known, the dialler does not know it yet."""
        link.limit(now_s() + REQUEST_S)
        if request.sealed != self.sealed:
            link.write_all(memoryview(encode_header(Header(Kind.REFUSED, flag=Refusal.OTHER_MODE))), REQUEST_S)
            raise LinkLost(_refusal(Refusal.OTHER_MODE))
        theirs = link.read_bytes(SECRET_BYTES, REQUEST_S)
        mine = secrets.token_bytes(SECRET_BYTES)
        keys = derive_keys(link.peer, self.me, theirs, mine)
        near = request.near if link.is_within_host() else b""
        return Answer(link, mine, keys, self.sharing.give(near, keys.token) if near else None)


@dataclass(frozen=True)
class Answer:
    link: Link
    secret: bytes
    keys: WireKeys
    lanes: Lanes | None

    def give(self) -> Greeted:
        """The second half. From here on the dialler may send frames."""
        # In one write, so in one TLS record: what follows it on the socket is not TLS's to read.
        go = Header(Kind.GO, flag=SHARED if self.lanes is not None else 0)
        self.link.write_all(memoryview(encode_header(go) + self.secret), REQUEST_S)
        certificate = self.link.certificate()
        return Greeted(self.link.detach(), self.keys, certificate, self.lanes)

    def withdraw(self) -> None:
        if self.lanes is not None:
            self.lanes.close()


def _refusal(flag: int) -> str:
    if flag == Refusal.OTHER_MODE:
        return "one of the two hosts seals its frames and the other does not"
    return f"it refused the channel, for reason {flag} that this version does not know"
