"""GET /metrics and /healthz over HTTP/1.1 on loopback, and nothing else.

Owns a request's bounds and the answers it may get. Refuses to know what the text says. One request per
connection: Prometheus reconnects, and a server without keep-alive has no state to attack.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import trio

from intellectd.daemon.config_values import split_host_port
from intellectd.daemon.listeners import accept_each, tcp_listener
from intellectd.daemon.logs import get_log

REQUEST_BYTES_MAX = 8192  # what common servers allow for a request's head
REQUEST_S_MAX = 5.0  # a scrape has 10 s by default, of which this is the asking
ANSWER_S_MAX = 10.0
CLIENTS_MAX = 16  # a Prometheus or two, and an operator with curl
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
Health = Callable[[], tuple[bool, str]]

log = get_log("metrics")


class MetricsServer:
    """Serves from `serve` until it is cancelled; `address` is where, once started."""

    def __init__(self, address: str, text: Callable[[], str], health: Health) -> None:
        self._host, self._port = split_host_port(address)
        self._text = text
        self._health = health
        self._clients = 0
        self.address = address

    async def serve(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with tcp_listener(self._host, self._port, "metrics (`metrics.listen`)") as listener:
            host = f"[{self._host}]" if ":" in self._host else self._host
            self.address = f"{host}:{listener.getsockname()[1]}"
            task_status.started()
            await accept_each(listener, self._client)

    async def _client(self, sock: trio.socket.SocketType) -> None:
        with sock, contextlib.suppress(OSError):
            if self._clients >= CLIENTS_MAX:
                return
            self._clients += 1
            try:
                await self._converse(sock)
            finally:
                self._clients -= 1

    async def _converse(self, sock: trio.socket.SocketType) -> None:
        head = b""
        with trio.move_on_after(REQUEST_S_MAX):
            head = await _read_head(sock)
        try:
            status, body = self._answer(head)
        except Exception as error:
            # Being watched must never end a daemon.
            log.failure("a metrics request failed", error)
            status, body = 500, "the daemon's log has more\n"
        with_body = not head.startswith(b"HEAD ")
        with trio.move_on_after(ANSWER_S_MAX):
            view = memoryview(_response(status, body, with_body))
            while view:
                view = view[await sock.send(view) :]

    def _answer(self, head: bytes) -> tuple[int, str]:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return 400, "this is HTTP/1.1: GET /metrics\n"
        method, path = words[0], words[1].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return 405, "only GET and HEAD\n"
        if path == b"/metrics":
            return 200, self._text()
        if path == b"/healthz":
            is_healthy, reason = self._health()
            return 200 if is_healthy else 503, reason + "\n"
        return 404, "there is /metrics and /healthz\n"


async def _read_head(sock: trio.socket.SocketType) -> bytes:
    """Up to the empty line; whatever has come by the bound or the end is judged as it is."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < REQUEST_BYTES_MAX:
        part = await sock.recv(REQUEST_BYTES_MAX - len(head))
        if not part:
            break
        head += part
    return head


def _response(status: int, body: str, with_body: bool) -> bytes:
    payload = body.encode()
    lines = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {TEXT_TYPE}",
        f"Content-Length: {len(payload)}",
        "Connection: close",
        *(["Allow: GET, HEAD"] if status == 405 else []),
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (payload if with_body else b"")
