"""`join`: from a run id to a verified manifest on disk. Nothing is kept until the manifest is.

Owns finding one peer that knows the run, and checking what it says against the id. The rest is the run's.
"""

import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import trio

from intellectd.daemon.atomic import fsync_dir, storage_errors
from intellectd.daemon.control import ControlError
from intellectd.daemon.errors import leaves
from intellectd.daemon.net import BadAddress, NetworkError, WireVersionMismatch
from intellectd.daemon.runs.host import Host
from intellectd.daemon.runs.pinning import write_pin
from intellectd.daemon.runs.verify_log import check_manifest
from intellectd.daemon.store.run_store import RunStore
from intellectd.protocol import run_id as run_ids
from intellectd.protocol.ids import encode
from intellectd.protocol.manifest import BadManifest, SignedManifest, decode_signed
from intellectd.protocol.messages import RunRequest, call_proof

DIAL_S = 8.0  # one address; several are tried at once
JOIN_S = 40.0  # until somebody was found who has the manifest; the command line waits for a minute
ASK_S = 10.0
ASKED_AT_ONCE_MAX = 16  # the frozen among them cost all of them ASK_S together
AGAIN_S = 1.0
VAIN_ROUNDS_MAX = 2  # in which all said no: who answers first may be a stranger, and the others a moment behind
DISCOVERY_KEY_CHARS = 48
PROBLEMS_TOLD_MAX = 3
JOINING = "joining"  # of what folders are named that are no runs yet


@dataclass
class Search:
    given: list[str] = field(default_factory=list)  # peers of the addresses that were named, once dialled
    turns: Counter[str] = field(default_factory=Counter)  # how often each was asked, whatever it said
    asked: list[str] = field(default_factory=list)  # that answered
    foreign: list[str] = field(default_factory=list)  # that speak another wire version
    problems: list[str] = field(default_factory=list)
    version: str = ""
    false: str = ""  # what a peer sent in place of the manifest
    found: SignedManifest | None = None


async def join(host: Host, run_id: str, addresses: list[str], pin: bytes | None = None) -> Path:
    """Fetch and check the manifest, make the run's folder. `pin`: what its history must contain. Raises ControlError or
    StorageError."""
    for address in addresses:  # a typo is an error at once, before anything is dialled
        if "/p2p/" not in address:
            raise ControlError(
                "bad_address",
                f"{address!r} names no peer",
                "an address looks like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…; `intellectd status` there prints it",
            )
    search = Search()
    with trio.move_on_after(JOIN_S):
        await _search(host, run_id, addresses, search)
    if search.found is None:
        raise _not_found(run_id, addresses, search)
    signed = search.found
    with trio.CancelScope(shield=True):
        path: Path = await host.runner(lambda: _write(host, run_id, signed, pin))
    return path


async def _search(host: Host, run_id: str, addresses: list[str], search: Search) -> None:
    await _dial_all(host, addresses, search)
    # The peers given were tried above; those remembered and configured are dialled behind our back, in their time.
    others = bool(host.config.network.bootstrap or host.known.addresses)
    vain = 0
    while True:
        is_round_over = await _ask_around(host, run_id, run_ids.run_key(run_id), search)
        heard = bool(search.asked or search.foreign)
        nobody = bool(addresses or not others) and not heard and not host.network.connected()
        vain = vain + 1 if is_round_over and heard and _all_said_no(search, host) else 0
        if search.found or nobody or vain >= VAIN_ROUNDS_MAX:
            return
        if is_round_over:
            await trio.sleep(AGAIN_S)


async def _dial_all(host: Host, addresses: list[str], search: Search) -> None:
    async def one(address: str) -> None:
        try:
            peer = await host.network.dial(address, DIAL_S)
            search.given.append(peer)
            host.remember(peer, (address,))
        except BadAddress as error:
            raise ControlError("bad_address", str(error)) from error
        except WireVersionMismatch as error:
            search.version = str(error)
            search.foreign.append(address.rpartition("/p2p/")[2])
        except NetworkError as error:
            search.problems.append(f"{address}: {error}")

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(one, address)
    except ExceptionGroup as group:  # no `except*`: before Python 3.11.4 what that raises is a group again
        told = next((leaf for leaf in leaves(group) if isinstance(leaf, ControlError)), None)
        if told is None:
            raise
        raise told from None


async def _ask_around(host: Host, run_id: str, run: bytes, search: Search) -> bool:
    """Some at once, who was asked least first: a few frozen hosts must not take all the time that there is. True when
    everybody had a turn."""
    candidates = dict.fromkeys([*search.given, *host.network.connected()])
    try:
        found = await host.network.find(run.hex()[:DISCOVERY_KEY_CHARS])
        for peer, addresses in sorted(found.items()):
            host.network.learn(peer, addresses)
            candidates[peer] = None
    except NetworkError as error:
        search.problems.append(str(error))
    chosen = sorted(candidates, key=lambda peer: search.turns[peer])[:ASKED_AT_ONCE_MAX]
    async with trio.open_nursery() as nursery:
        for peer in chosen:
            nursery.start_soon(_ask, host, run_id, run, peer, search, nursery.cancel_scope)
    search.turns.update(chosen)
    return all(search.turns[peer] for peer in candidates)


async def _ask(host: Host, run_id: str, run: bytes, peer: str, search: Search, others: trio.CancelScope) -> None:
    try:
        proof = call_proof(run_ids.run_secret(run_id), host.identity.peer_id, peer)
        body = await host.network.call(peer, "manifest", encode(RunRequest(run, proof)), ASK_S)
    except WireVersionMismatch as error:
        search.version = str(error)
        search.foreign.append(peer)
        return
    except NetworkError as error:
        search.problems.append(f"{peer}: {error}")
        return
    if peer not in search.asked:
        search.asked.append(peer)
    if not body:
        return
    try:
        signed = decode_signed(body)
        check_manifest(run_id, signed)
        search.found = signed
        others.cancel()
    except BadManifest as error:
        search.false = f"{peer} sent a false manifest: {error}"


def _all_said_no(search: Search, host: Host) -> bool:
    return set(host.network.connected()) <= {*search.asked, *search.foreign}


def _not_found(run_id: str, addresses: list[str], search: Search) -> ControlError:
    why = "; ".join(dict.fromkeys(search.problems[-PROBLEMS_TOLD_MAX:]))
    if search.version:
        return ControlError("version", search.version, "install the same version of intellectd on both hosts")
    if search.false:
        return ControlError("false_manifest", search.false, "name another peer of the run with --peer")
    if addresses and not search.asked:
        return ControlError(
            "unreachable",
            f"none of the given peers could be reached: {why}",
            "check that the daemon runs there, its address and port, and the firewall between",
        )
    if search.asked:
        return ControlError(
            "unknown_run",
            f"the {len(search.asked)} peers that were reached do not know this run",
            "check the run id and the --peer address: `intellectd runs` on a host of the run prints both",
        )
    return ControlError(
        "no_peers",
        "no peer was found: none is remembered, configured or given",
        f"name one: intellectd join {run_id} --peer <multiaddr>",
    )


def _write(host: Host, run_id: str, signed: SignedManifest, pin: bytes | None) -> Path:
    """The folder gets its name when all of it is there. Raises StorageError, and nothing is left behind."""
    building, path = host.runs_dir / f".{JOINING}-{run_id}", host.runs_dir / run_id
    shutil.rmtree(building, ignore_errors=True)
    try:
        RunStore.create(building, signed).close()
        if pin is not None:
            write_pin(building, pin)
        with storage_errors(path):
            os.replace(building, path)
            fsync_dir(host.runs_dir)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return path
