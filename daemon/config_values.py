"""Readers of single configuration values: from TOML, or from the text of a flag or environment variable.

Owns what a well-formed path, list, address or choice is; each reader takes anything and returns the value or
raises ValueError saying what was expected. Refuses to know keys, files and precedence.
"""

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intellectd.daemon.store.budget import SNAPSHOTS_KEPT, SNAPSHOTS_KEPT_MAX

# The base is the folder that a relative path is relative to.
Reader = Callable[[Any, Path], Any]

LIST_LENGTH_MAX = 256  # bootstrap addresses, the longest list anybody writes by hand
UNDIALLABLE = "none"  # announced by a host that nobody can dial: it dials the others
PORT_MAX = 65535
# Only the shape: the libp2p adapter has the last word on a multiaddr.
_MULTIADDR = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/(\d{1,5})(/p2p/[1-9A-HJ-NP-Za-km-z]{46,59})?")
_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def read_path(value: Any, base: Path) -> Path:
    text = read_text(value, base)
    if not text or "\0" in text:
        raise ValueError("a path")
    try:
        return Path(os.path.normpath(base / Path(text).expanduser()))
    except RuntimeError:
        raise ValueError(f"a path, and nobody knows the home directory of {text.partition('/')[0]}") from None


def read_text(value: Any, base: Path) -> str:
    if not isinstance(value, str):
        raise ValueError("a text in quotes")
    return value


def read_bool(value: Any, base: Path) -> bool:
    truth = value if isinstance(value, bool) else _TRUTH.get(value.lower()) if isinstance(value, str) else None
    if truth is None:
        raise ValueError("true or false")
    return truth


def read_count(value: Any, base: Path) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) <= 9:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a whole number, 0 or more")
    return value


def read_percent(value: Any, base: Path) -> int:
    return _between(value, 1, 100)


def read_kept(value: Any, base: Path) -> int:
    return _between(value, SNAPSHOTS_KEPT, SNAPSHOTS_KEPT_MAX)


def _between(value: Any, least: int, most: int) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) <= 9:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"a whole number from {least} to {most}")
    return value


def one_of(*choices: str) -> Reader:
    def read(value: Any, base: Path) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return value

    return read


def list_of(read_item: Callable[[str], str]) -> Reader:
    """A TOML array, several flags, or one text with commas."""

    def read(value: Any, base: Path) -> tuple[str, ...]:
        items = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise ValueError("a list of texts")
        if len(items) > LIST_LENGTH_MAX:
            raise ValueError(f"at most {LIST_LENGTH_MAX} items")
        return tuple(read_item(item) for item in items)

    return read


def multiaddr(text: str) -> str:
    if not _is_multiaddr(text):
        raise ValueError("a multiaddr such as /ip4/203.0.113.5/tcp/4001")
    return text


def multiaddr_of_peer(text: str) -> str:
    if not _is_multiaddr(text) or "/p2p/" not in text:
        raise ValueError("a multiaddr that ends in /p2p/<peer id>, such as /ip4/203.0.113.5/tcp/4001/p2p/12D3Koo…")
    return text


def _is_multiaddr(text: str) -> bool:
    found = _MULTIADDR.fullmatch(text)
    return found is not None and int(found[2]) <= PORT_MAX


def read_host_port(value: Any, base: Path) -> str:
    if not isinstance(value, str):
        raise ValueError('"host:port"')
    split_host_port(value)
    return value


def read_host_port_or_none(value: Any, base: Path) -> str:
    return "" if value == "" else read_host_port(value, base)


def read_announced(value: Any, base: Path) -> str:
    if value == UNDIALLABLE:
        return UNDIALLABLE
    text = read_host_port_or_none(value, base)
    if text:
        host, port = split_host_port(text)
        if port == 0 or host in ("0.0.0.0", "::"):
            raise ValueError('a "host:port" that others can dial, such as "203.0.113.5:4002", or "none"')
    return text


def split_host_port(text: str) -> tuple[str, int]:
    """`("::1", 4002)` of `[::1]:4002`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError('"[address]:port" for IPv6')
    if not colon or not host or not port.isdecimal() or len(port) > 5 or int(port) > PORT_MAX:
        raise ValueError('"host:port", such as "0.0.0.0:4002"')
    return host, int(port)


def read_trainer(value: Any, base: Path) -> str | tuple[str, ...]:
    """ "builtin", "external", or the argument list of a program; never one text that a shell would split."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = tomllib.loads(f"trainer = {value}").get("trainer")
        except tomllib.TOMLDecodeError:
            value = None
    if value in ("builtin", "external"):
        return str(value)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(part, str) for part in value):
        raise ValueError('"builtin", "external", or a list such as ["python3", "train.py"]')
    return tuple(value)
