"""Reaching a peer: connect, handshake, request and the first frame back, again until it works or time is up.

Owns the retries and which refusals end them. Refuses to know what follows the first frame.
"""

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.contacts import Contacts
from intellectd.daemon.bulk.errors import Declined, LinkLost, LinkSilent, PeerRefused
from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.limits import (
    CUT_SHORT_S,
    DIAL_ATTEMPT_S,
    DIAL_BACKOFF_FIRST_S,
    DIAL_BACKOFF_MAX_S,
)
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.pace import UNLIMITED, Pace
from intellectd.daemon.bulk.resolve import resolve
from intellectd.daemon.bulk.sockets import split_address, tune
from intellectd.daemon.bulk.transfer import Transfer
from intellectd.daemon.bulk.trust import TrustTable
from intellectd.daemon.bulk.wire import (
    HEADER_BYTES,
    Header,
    Request,
    decode_header,
    encode_request,
)

First = Callable[[bool], bytes]  # what to say first to a peer, given whether it is a process of this host


@dataclass(frozen=True)
class Dialler:
    trust: TrustTable
    pace: Pace = UNLIMITED
    contacts: Contacts | None = None  # told of what came of each attempt

    def dial(self, peer: str, request: Request, transfer: Transfer) -> tuple[Link, Header]:
        """An authenticated link on which the peer has answered, and its answer.

        A peer that does not trust this host yet, or closes before it answers, is tried again until stall_s: the
        two learn of each other, and of a transfer, at different moments. A refused port is final: certificates
        live as long as the process that listens, so the one that was pinned has ended.
        """
        until = min(now_s() + transfer.stall_s, transfer.deadline)
        backoff_s = DIAL_BACKOFF_FIRST_S
        said: LinkLost | LinkSilent | None = None
        try:
            while True:
                began = now_s()
                try:
                    return self._attempt(peer, request, transfer.stop, until)
                except PeerRefused:
                    raise
                except LinkLost as error:
                    said = error
                except LinkSilent as error:
                    # An attempt cut short by the end says less than the answer that the one before it got.
                    said = error if said is None or now_s() - began > CUT_SHORT_S else said
                if now_s() + backoff_s >= until:
                    raise said
                transfer.stop.wait(backoff_s)
                backoff_s = min(2 * backoff_s, DIAL_BACKOFF_MAX_S)
        finally:
            said = None  # its traceback refers to this frame: a circle that would outlive the transfer

    def _attempt(self, peer: str, request: Request, stop: Stop, until: float) -> tuple[Link, Header]:
        link = self.reach(peer, lambda _near: encode_request(request), stop, min(until, now_s() + DIAL_ATTEMPT_S))
        try:
            # In TLS 1.3 the dialler learns that it is not trusted only here, when it first reads.
            return link, decode_header(link.read_bytes(HEADER_BYTES, max(0.0, until - now_s())))
        except BaseException:
            link.close()
            raise

    def reach(self, peer: str, first: First, stop: Stop, until: float) -> Link:
        """One attempt, with what `first` says once the handshake is done. Raises LinkLost, LinkSilent, Stopped,
        PeerRefused when nobody listens there, and Declined when it says that nobody can dial it."""
        endpoint = self.trust.endpoint(peer)
        if endpoint is None:
            raise LinkLost(self.trust.why_not(peer))
        if not endpoint.address:
            raise Declined("it announces no address for tensors; only it can connect")
        contacts = self.contacts or Contacts()
        try:
            link = self._reach(endpoint, peer, first, stop, until)
        except (LinkLost, LinkSilent) as error:
            contacts.failed(peer, endpoint.address, str(error))
            raise
        contacts.reached(peer, endpoint.address)
        return link

    def _reach(self, endpoint: Endpoint, peer: str, first: First, stop: Stop, until: float) -> Link:
        link = self._connected(endpoint, stop, until)
        return self._introduced(link, endpoint, peer, partial(first, link.is_within_host()), until)

    def over(self, connection: socket.socket, peer: str, first: First, stop: Stop, until: float) -> Link:
        """As `reach`, on a connection that leads there already."""
        endpoint = self.trust.endpoint(peer)
        if endpoint is None:
            connection.close()
            raise LinkLost(self.trust.why_not(peer))
        return self._introduced(self._secured(connection, stop), endpoint, peer, partial(first, False), until)

    def _introduced(self, link: Link, endpoint: Endpoint, peer: str, first: Callable[[], bytes], until: float) -> Link:
        link.peer = peer
        try:
            link.handshake(until)
            if link.certificate() != endpoint.certificate:
                where = f" at {endpoint.address}" if endpoint.address else ""
                raise LinkLost(f"the certificate{where} is not the one it announced")
            link.write_all(memoryview(first()), max(0.0, until - now_s()))
            return link
        except BaseException:
            link.close()
            raise

    def _connected(self, endpoint: Endpoint, stop: Stop, until: float) -> Link:
        return self._secured(_connect(endpoint.address, stop, until), stop)

    def _secured(self, connection: socket.socket, stop: Stop) -> Link:
        try:
            context = self.trust.context(server_side=False)
            return Link(context.wrap_socket(connection, do_handshake_on_connect=False), stop, self.pace)
        except OSError as error:
            connection.close()
            raise LinkLost(f"no TLS handshake: {error}") from None


def _connect(address: str, stop: Stop, until: float) -> socket.socket:
    """The first of the host's addresses that answers; a name may stand for an IPv6 one that has no route here."""
    try:
        host, port = split_address(address)
        found = resolve(host, port, stop, until)
    except (ValueError, OSError) as error:
        raise LinkLost(f"its address {address!r} cannot be used: {error}") from None
    for family, _kind, _protocol, _name, where in found[:-1]:
        with contextlib.suppress(LinkLost, LinkSilent):
            return _connect_to(family, where, stop, (now_s() + until) / 2)
    return _connect_to(found[-1][0], found[-1][4], stop, until)


def _connect_to(family: int, where: Any, stop: Stop, until: float) -> socket.socket:
    stop.check()
    try:
        connection = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # a host without IPv6 may have a name's other address, and one without a file a later try
        raise LinkLost(f"no connection: {error.strerror}") from None
    try:
        connection.setblocking(False)
        tune(connection)
        _await_connected(connection, connection.connect_ex(where), stop, until)
    except BaseException:
        connection.close()
        raise
    return connection


def _await_connected(connection: socket.socket, code: int, stop: Stop, until: float) -> None:
    if code == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLOUT)
        poll.register(stop.fileno(), select.POLLIN)
        if not poll.poll(max(0.0, until - now_s()) * 1000.0):
            raise LinkSilent("it did not answer the connection")
        stop.check()
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code == errno.ECONNREFUSED:
        raise PeerRefused("it refused the connection")
    if code:
        raise LinkLost(f"no connection: {os.strerror(code)}")
