"""What happened: past facts that the shell reports to a node. SPEC N1.

Owns the vocabulary inwards. Failure is an event like any other; `Tick` stands for time alone.
"""

from dataclasses import dataclass

from intellectd.protocol.records import Entry


@dataclass(frozen=True)
class Tick:
    """The node's deadline passed."""


@dataclass(frozen=True)
class MessageReceived:
    """An envelope's bytes. `via` is the authenticated neighbour that delivered it."""

    via: str
    data: bytes


@dataclass(frozen=True)
class PeerLearned:
    """Discovery found a peer of this run."""

    peer: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class EntriesReceived:
    peer: str
    entries: tuple[Entry, ...]
    generation: bytes = b""  # of the line that was asked for; empty: our own


@dataclass(frozen=True)
class MembersReceived:
    peer: str
    beacons: tuple[bytes, ...]


@dataclass(frozen=True)
class CallFailed:
    """An AskEntries or AskMembers found no answer."""

    peer: str
    call: str
    reason: str
    generation: bytes = b""  # as above
    malformed: bool = False  # there was one, and it is none: the peer's fault


@dataclass(frozen=True)
class RecoverySigned:
    """The owners have signed what `recovery_draft` proposed."""

    entry: Entry


@dataclass(frozen=True)
class TrainerAttached:
    """A trainer is there. `training_round` is what it was working on, if it kept that across our restart."""

    training_round: int | None


@dataclass(frozen=True)
class TrainerDetached:
    reason: str


@dataclass(frozen=True)
class TrainerReady:
    """The trainer's inner steps are done; its parameters are in the arena."""

    round: int
    tokens: int
    steps: int


@dataclass(frozen=True)
class DeltaFrozen:
    """The delta is encoded and on disk."""

    norm: str  # fp32 hex
    root: bytes


@dataclass(frozen=True)
class DeltaRefused:
    """The delta cannot be used: a NaN or Inf, named."""

    reason: str


@dataclass(frozen=True)
class TransferMoved:
    transfer: bytes
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class TransferEnded:
    """The result's bytes are complete, hashed and on disk."""

    transfer: bytes
    root: bytes
    update_bytes: int


@dataclass(frozen=True)
class TransferBroke:
    transfer: bytes
    suspect: str | None
    silent: bool
    reason: str


@dataclass(frozen=True)
class LinkMeasured:
    """What this host's sending to a peer has shown, in a transfer or a probe: bytes a second while there was something
    to send, and the round trip. The shell leaves out what was too short to say anything."""

    peer: str
    bytes_per_s: float
    rtt_s: float


@dataclass(frozen=True)
class UpdateHeld:
    """The bytes of an encoded update are complete, verified against their root and on disk."""

    root: bytes


@dataclass(frozen=True)
class UpdateMissed:
    root: bytes
    donor: str
    reason: str


@dataclass(frozen=True)
class Applied:
    """The state now stands after this round."""

    round: int
    digest: bytes


@dataclass(frozen=True)
class SnapshotInstalled:
    """The state was replaced by a verified snapshot. Round -1: the first parameters. `came_bytes`: what was fetched of
    it since it was asked for, not what lay here before."""

    round: int
    digest: bytes
    came_bytes: int = 0


@dataclass(frozen=True)
class SnapshotMissed:
    """`kept_bytes`: what lies here of it, and need not be fetched again."""

    round: int
    donor: str
    reason: str
    kept_bytes: int = 0


@dataclass(frozen=True)
class DonorFault:
    """A piece of the state after that round, as this donor sent it, is not the one that is proven (K11)."""

    round: int
    donor: str
    reason: str


@dataclass(frozen=True)
class SnapshotsHeld:
    """What this host can serve now: whole states by round, and encoded updates from a round on. `begun`: (round,
    digest, bytes) of a state of which so much came in a life before; told at the start."""

    rounds: tuple[int, ...]
    updates_from: int
    begun: tuple[int, bytes, int] | None = None


@dataclass(frozen=True)
class LeaveRequested:
    """The operator takes this host out of the run."""


@dataclass(frozen=True)
class AddressesChanged:
    """This host is reached elsewhere from now on: a lease ended, a laptop moved, an interface came up."""

    addresses: tuple[str, ...]
    bulk: str  # of its bulk plane, "" if nobody can dial that


Event = (
    Tick
    | MessageReceived
    | PeerLearned
    | EntriesReceived
    | MembersReceived
    | CallFailed
    | TrainerAttached
    | TrainerDetached
    | TrainerReady
    | DeltaFrozen
    | DeltaRefused
    | TransferMoved
    | TransferEnded
    | TransferBroke
    | LinkMeasured
    | UpdateHeld
    | UpdateMissed
    | Applied
    | SnapshotInstalled
    | SnapshotMissed
    | DonorFault
    | SnapshotsHeld
    | LeaveRequested
    | AddressesChanged
    | RecoverySigned
)
