"""Names of hosts to addresses, with an end: a lookup is in a thread of its own, and whoever waits for it may stop.

Owns how many are under way. A thread whose lookup hangs is left to the system's own time limits; it holds nothing.
"""

import socket
import threading
from contextlib import suppress
from typing import Any

from intellectd.daemon.bulk.bell import Mailbox, Stop, now_s, wait_readable
from intellectd.daemon.bulk.errors import LinkLost, LinkSilent
from intellectd.daemon.bulk.limits import ADDRESSES_PER_NAME_MAX, LOOKUPS_MAX

Found = list[tuple[Any, ...]]  # of getaddrinfo

_under_way = threading.BoundedSemaphore(LOOKUPS_MAX)


def resolve(host: str, port: int, stop: Stop, until: float) -> Found:
    """At most ADDRESSES_PER_NAME_MAX. Raises OSError, LinkLost, LinkSilent, Stopped."""
    with suppress(socket.gaierror):  # an address needs no lookup
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    stop.check()
    answer: Mailbox[Found | OSError] = Mailbox(1)  # before a place is taken: there may be no file for it
    under_way = _under_way
    if not under_way.acquire(blocking=False):
        answer.close()
        raise LinkLost(f"{LOOKUPS_MAX} names are being looked up already")

    def look_up() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:ADDRESSES_PER_NAME_MAX])
        except (OSError, UnicodeError) as error:
            answer.put(error if isinstance(error, OSError) else OSError(str(error)))
        finally:
            under_way.release()

    try:
        threading.Thread(target=look_up, name="bulk-lookup", daemon=True).start()
    except RuntimeError as error:
        under_way.release()
        answer.close()
        raise LinkLost(f"it cannot be looked up: {error}") from None
    try:
        wait_readable((stop, answer), until - now_s())
        stop.check()
        found = answer.take()
    finally:
        answer.close()
    if found is None:
        raise LinkSilent(f"the name {host!r} was not found in time")
    if isinstance(found, OSError):
        raise found
    return found
