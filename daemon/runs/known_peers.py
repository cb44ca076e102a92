"""Where peers of this host's runs were last reached, on disk: so that a restart needs no bootstrap address.

Owns peers.json and who is remembered. These are hints: a damaged file costs a bootstrap address, so it is ignored,
loudly, and what a peer claims about itself is read again with suspicion.
"""

import json
from pathlib import Path
from typing import Any

import trio

from intellectd.daemon.atomic import StorageError, write_atomic
from intellectd.daemon.logs import get_log, log_if_changed
from intellectd.daemon.p2p.book import usable
from intellectd.daemon.runs.compute import RunsWork

PEERS_REMEMBERED_MAX = 512  # any one of them suffices to find the others again
ADDRESSES_MAX = 4  # per peer: a public one and some of a local network
FILE_BYTES_MAX = 2 * 1024 * 1024  # 512 peers with 4 addresses of 256 characters, and JSON around them
FILE_NAME = "peers.json"
SAVE_S = 2.0  # news of a swarm that assembles come in dozens a second and are written together

log = get_log("host")


class KnownPeers:
    def __init__(self, state_dir: Path, runner: RunsWork) -> None:
        self._path, self._runner = state_dir / FILE_NAME, runner
        self.addresses = load_peers(state_dir)
        self._news = trio.Event()
        self._saved = True

    def remember(self, peer: str, addresses: tuple[str, ...]) -> None:
        """Who spoke last stands last: of too many the one is forgotten that has been silent for the most starts."""
        chosen = list(addresses[:ADDRESSES_MAX])
        is_last = peer == next(reversed(self.addresses), None)
        if not chosen or (is_last and self.addresses[peer] == chosen):
            return
        self.addresses.pop(peer, None)
        self.addresses[peer] = chosen
        while len(self.addresses) > PEERS_REMEMBERED_MAX:
            del self.addresses[next(iter(self.addresses))]
        self._saved = False
        self._news.set()

    async def save_always(self) -> None:
        """Until cancelled: one writer, so that an older list never lands on a newer one. The first news at once, as a
        host that is killed then has nothing else to go by; what follows together. Saves once more at the end."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self._save()
                await trio.sleep(SAVE_S)
        finally:
            with trio.CancelScope(shield=True):
                await self._save()

    async def _save(self) -> None:
        if self._saved:
            return
        self._saved = True
        body = json.dumps(self.addresses, indent=1).encode()
        try:
            await self._runner(lambda: write_atomic(self._path, body))
        except StorageError as error:
            log_if_changed(log.warning, str(self._path), "known peers not saved", reason=str(error))
        except trio.Cancelled:  # perhaps before anything was written
            self._saved = False
            raise


def remembered_addresses(state_dir: Path) -> list[str]:
    """To meet the swarm through, who spoke last first: not all may be tried."""
    return [address for addresses in reversed(load_peers(state_dir).values()) for address in addresses]


def load_peers(state_dir: Path) -> dict[str, list[str]]:
    path = state_dir / FILE_NAME
    try:
        if not path.exists():
            return {}
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise ValueError(f"it has {size} bytes, more than {FILE_BYTES_MAX}")
        loaded = json.loads(path.read_text("utf-8"))
        if not isinstance(loaded, dict):
            raise ValueError("it is no table of peers")
        return _usable(loaded)
    except (OSError, ValueError, RecursionError) as error:
        log.warning("the list of known peers is unreadable and is not used", path=str(path), reason=str(error))
        return {}


def _usable(loaded: dict[str, Any]) -> dict[str, list[str]]:
    """What was remembered is what peers said: an address that cannot be dialled must not stop the next start."""
    known: dict[str, list[str]] = {}
    for peer, texts in list(loaded.items())[-PEERS_REMEMBERED_MAX:]:
        if isinstance(texts, list):
            found = [str(address) for address in usable(peer, [t for t in texts if isinstance(t, str)])]
            if found:
                known[peer] = found[:ADDRESSES_MAX]
    return known
