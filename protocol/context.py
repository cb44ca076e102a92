"""What every part of a node knows and never changes: who it is, the run, the manifest's numbers, the port.

Owns nothing that moves. Randomness is a seeded generator given from outside.
"""

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from intellectd.protocol.ids import hash_of
from intellectd.protocol.manifest import Manifest, RunConfig
from intellectd.protocol.port import Crypto


class WrongSender(ValueError):
    """A message whose sender has no right to it: the peer's fault."""


def can_be_dialled(address: str, certificate: bytes) -> bool:
    """On the bulk plane, by what a host says of itself; who has none at all is asked for nothing there."""
    return bool(address) or not certificate


@dataclass(frozen=True)
class Context:
    peer: str
    run: bytes
    manifest: Manifest
    config: RunConfig
    crypto: Crypto
    rng: Random
    dialable: bool = True  # can others dial its bulk plane?


def leader_order(voters: list[str], parent: bytes) -> list[str]:
    """Who may lead attempt 0, 1, 2… of a decision: no standing leader, the hash draws lots (SPEC A2)."""
    return list(_order(tuple(voters), parent))


@lru_cache(maxsize=16)  # asked with every event, about a decision or two
def _order(voters: tuple[str, ...], parent: bytes) -> tuple[str, ...]:
    return tuple(sorted(voters, key=lambda voter: hash_of("leader", parent, voter.encode())))


def leader_of(voters: list[str], parent: bytes, attempt: int) -> str:
    order = _order(tuple(voters), parent)
    return order[attempt % len(order)]
