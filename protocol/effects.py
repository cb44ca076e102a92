"""What to do: imperatives that a node returns and the shell carries out, strictly in order. SPEC N2.

Order is the durability rule: PersistVote and AppendEntry have reached the disk before the next effect begins.
Effects marked "later" only start something; its end comes back as an event.
"""

from dataclasses import dataclass, field
from typing import Literal

from intellectd.protocol.ids import NO_HASH, At, Ballot
from intellectd.protocol.messages import AnyMessage, FaultKind
from intellectd.protocol.records import Entry, Proposal


@dataclass(frozen=True)
class To:
    """A message to one peer, before it is signed; a node's parts return these, the node itself never does."""

    peer: str
    message: AnyMessage


@dataclass(frozen=True)
class Through:
    """A message to several peers, which a voter passes on (SPEC W11); the node turns it into one Send."""

    via: str
    to: tuple[str, ...]
    message: AnyMessage


@dataclass(frozen=True)
class Send:
    """Post an envelope; it may be lost."""

    peer: str
    data: bytes


@dataclass(frozen=True)
class Learn:
    """Remember a peer's addresses, the best first; also across restarts if they are its own word."""

    peer: str
    addresses: tuple[str, ...]
    own_word: bool = False  # it signed them; else the DHT told of them, where anybody may announce anything


@dataclass(frozen=True)
class Trust:
    """The peers that may use the bulk plane: (peer, address, certificate)."""

    peers: tuple[tuple[str, str, bytes], ...]


@dataclass(frozen=True)
class AskEntries:
    """Later: EntriesReceived or CallFailed."""

    peer: str
    generation: bytes
    from_round: int


@dataclass(frozen=True)
class AskMembers:
    """Later: MembersReceived or CallFailed."""

    peer: str


@dataclass(frozen=True)
class PersistVote:
    """Durable before anything that follows: what this voter promised and accepted in one decision."""

    at: At
    promised: Ballot
    accepted_ballot: Ballot | None
    accepted: Proposal | None


@dataclass(frozen=True)
class AppendEntry:
    """Durable before anything that follows: one more link of the log."""

    entry: Entry


@dataclass(frozen=True)
class Rebase:
    """Durable before anything that follows: the log is left after `round`, and these entries follow instead. What is
    left is kept aside, with the states after `round`. Then: SnapshotsHeld."""

    round: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class StartTransfer:
    """Later: TransferMoved, then TransferEnded or TransferBroke."""

    transfer: bytes
    members: tuple[str, ...]
    weights: tuple[int, ...]
    codec: str
    stall_s: float
    deadline_s: float
    schedule: str = "ring"
    shape: tuple[int, ...] = ()  # of a torus its rows, of a direct exchange each member's share of the vector


@dataclass(frozen=True)
class AbortTransfer:
    transfer: bytes


@dataclass(frozen=True)
class ProbeLink:
    """Perhaps later: LinkMeasured. Nothing is known of the link to this peer, and no transfer is under way. A probe
    that comes to nothing is not reported: links are then known from transfers alone."""

    peer: str


@dataclass(frozen=True)
class FetchUpdate:
    """Later: UpdateHeld or UpdateMissed. Copy the encoded update with this root from the donor."""

    root: bytes
    update_bytes: int
    donor: str


@dataclass(frozen=True)
class ApplyUpdate:
    """Later: Applied. One outer step, or nothing when the record has no update.

    `local` says what becomes of the arena: "adopt" the new anchor, "carry" the frozen delta over to it,
    "keep" a trainer's work in progress (the old anchor is kept aside, for its delta), or "none".

    `anchor` says what a trainer's rounds begin from then: the state; or, the state being as it was, that less the
    update, which is one group's (SPEC E5), and without an update what it was.
    """

    round: int
    root: bytes | None
    codec: str
    lr: str
    momentum: str
    local: Literal["adopt", "carry", "keep", "none"]
    optimizer: str = "nesterov"
    anchor: Literal["state", "group"] = "state"


@dataclass(frozen=True)
class FetchSnapshot:
    """Later: SnapshotInstalled or SnapshotMissed. Round -1: the first parameters, momentum zero. `others` offer it as
    well, and all serve at once (K11); `fellows` have no state either, and may be fetching this one."""

    round: int
    digest: bytes
    donor: str
    others: tuple[str, ...] = ()
    fellows: tuple[str, ...] = ()


@dataclass(frozen=True)
class OfferDonors:
    """These serve the state that is being fetched, or may be fetching it, too (K11)."""

    round: int
    donors: tuple[str, ...]
    fellows: tuple[str, ...] = ()


@dataclass(frozen=True)
class StartTraining:
    """Hand the trainer a round. `fresh`: put the anchor into the arena first, else what is there stands."""

    round: int
    steps: int
    streams: tuple[tuple[int, int], ...]
    tokens_total: int
    state_round: int
    fresh: bool


@dataclass(frozen=True)
class Freeze:
    """Later: DeltaFrozen or DeltaRefused. Delta = anchor (or the one kept aside) minus the arena, encoded; where the
    anchor is a group's, the state minus that anchor besides (SPEC E6).

    `feedback`: with what was lost when the delta with root `error_of` was encoded, if that is known here; and what is
    lost now is kept under the new root.
    """

    codec: str
    feedback: bool = False
    error_of: bytes = NO_HASH


@dataclass(frozen=True)
class FinishTraining:
    reason: str
    state_round: int


@dataclass(frozen=True)
class PeerFault:
    """That peer broke the protocol: hang up, count it, keep away for a while."""

    peer: str
    kind: FaultKind
    reason: str


@dataclass(frozen=True)
class Halt:
    """This host cannot go on without a person; it keeps its state and says why."""

    reason: str


@dataclass(frozen=True)
class Note:
    """For the log and the metrics; nothing depends on it."""

    event: str
    text: str
    level: Literal["debug", "info", "warning", "error"] = "info"
    fields: dict[str, object] = field(default_factory=dict)


Effect = (
    Send
    | Learn
    | Trust
    | AskEntries
    | AskMembers
    | PersistVote
    | AppendEntry
    | Rebase
    | StartTransfer
    | AbortTransfer
    | ProbeLink
    | FetchUpdate
    | ApplyUpdate
    | FetchSnapshot
    | OfferDonors
    | StartTraining
    | Freeze
    | FinishTraining
    | PeerFault
    | Halt
    | Note
)
Out = Effect | To | Through
