"""The manifest: what a run is, signed by its owner. The run id is its hash. SPEC M*.

Owns the fields, their bounds and the canonical form. Never names a command or code: what a host executes is
that host's own configuration. Two halves: `RunConfig` is what `run.toml` says, `Manifest` adds what `init`
found out (tensors, digest of the first state) and the owner's key.
"""

import struct
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from intellectd.kernels.codec import codec_by_name
from intellectd.kernels.layout import Layout, LayoutError, TensorSpec
from intellectd.protocol.ids import Count, Float32Hex, Hash, PeerId, Signature, Wire, encode, hash_of
from intellectd.protocol.limits import GROUP_SIZE_MAX, OWNERS_MAX, ROUND_MAX, VOTERS_MAX, WARMUP_ROUNDS_MAX
from intellectd.protocol.run_toml import ill_typed, unknown_key

VERSION = 1
MANIFEST_BYTES_MAX = 4 * 1024 * 1024  # 20,000 tensors of a 100B model at about 100 bytes a name
TENSORS_MAX = 100_000

Positive = Annotated[int, Meta(ge=1, le=2**31)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Rate = Annotated[float, Meta(gt=0, le=1e3)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]


class BadManifest(ValueError):
    """The file or bytes are no valid manifest; the message names the key, the hint what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the parts of `run.toml`: unknown keys are refused."""


class Llama(Section, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="llama"):
    """A Llama-architecture model, built by `transformers` in the trainer."""

    vocab_size: Positive = 256
    hidden_size: Positive = 128
    intermediate_size: Positive = 344
    layers: Annotated[int, Meta(ge=1, le=1024)] = 4
    heads: Positive = 4
    kv_heads: Positive = 4
    context: Positive = 128
    tie_embeddings: bool = False
    rope_theta: Annotated[float, Meta(gt=0, le=1e12)] = 10_000.0
    # Of the norms: 1e-6 where it is not given. Not in the canonical text of a run without it.
    norm_eps: Annotated[float, Meta(gt=0, lt=1)] | msgspec.UnsetType = msgspec.UNSET


class ExternalModel(Section, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="external"):
    """The model is whatever the attached program brings; its tensors are fixed at `init`."""


class Data(Section, frozen=True, forbid_unknown_fields=True):
    source: Annotated[str, Meta(min_length=1, max_length=64)] = "python-stdlib"
    batch_size: Positive = 8
    eval_sequences: Annotated[int, Meta(ge=0, le=65_536)] = 64


class Inner(Section, frozen=True, forbid_unknown_fields=True):
    steps: Positive = 100  # H: from DiLoCo's 500 to INTELLECT-1's 100
    optimizer: Literal["adamw"] = "adamw"
    lr: Rate = 4e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.1
    warmup_steps: Annotated[int, Meta(ge=0, le=2**31)] = 0
    clip_norm: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    schedule: Literal["constant", "cosine"] = "constant"


class Gossip(Section, frozen=True, forbid_unknown_fields=True):
    """Of a run most of whose rounds are decided in groups (SPEC E*). By default one of four is exact: between two of
    those lie 400 steps, fewer than DiLoCo's 500. In a group of 4 each sends 1.5 times an update's bytes a round."""

    exact_every: Annotated[int, Meta(ge=2, le=64)] = 4
    group_size: Annotated[int, Meta(ge=2, le=GROUP_SIZE_MAX)] = 4


class Outer(Section, frozen=True, forbid_unknown_fields=True):
    optimizer: Literal["nesterov", "average"] = "nesterov"
    momentum: Fraction = 0.9
    # (roster size, learning rate): the entry with the largest size not above the roster's
    lr: Annotated[tuple[tuple[Positive, Rate], ...], Meta(min_length=1, max_length=64)] = (
        (1, 0.4),
        (2, 0.6),
        (4, 0.6),
        (8, 0.8),
    )
    # Of the deltas. A ring's partial sums may travel in the first three; the others are for direct exchanges (SPEC C7).
    codec: Literal["int8", "bf16", "fp32", "int4", "e3m0", "topk"] = "int8"
    # What encoding loses of a host's delta is added to its next one; in direct exchanges alone (SPEC P10).
    error_feedback: bool = False
    # "auto": what the links are measured to be best for; "gossip": most rounds in groups that are drawn anew
    schedule: Literal["auto", "ring", "direct", "torus", "gossip"] = "auto"
    gossip: Gossip | msgspec.UnsetType = msgspec.UNSET  # not in the canonical text of a run without it


class Swarm(Section, frozen=True, forbid_unknown_fields=True):
    start_peers: Annotated[int, Meta(ge=1, le=1024)] = 1
    min_peers: Annotated[int, Meta(ge=1, le=1024)] = 1
    # What survivors do who are no quorum. "fork" trusts everybody who knows the run id with its history (SPEC G3).
    on_quorum_loss: Literal["wait", "fork"] = "wait"
    admission: Literal["id"] = "id"
    # A newcomer takes part, and counts nothing, in its first so many rounds; where none, not in the canonical text.
    warmup_rounds: Annotated[int, Meta(ge=0, le=WARMUP_ROUNDS_MAX)] | msgspec.UnsetType = msgspec.UNSET

    @property
    def warmup(self) -> int:
        return 0 if isinstance(self.warmup_rounds, msgspec.UnsetType) else self.warmup_rounds


class Timers(Section, frozen=True, forbid_unknown_fields=True):
    """Seconds. Defaults measured with stalls of up to 24 s at 200 simulated hosts: none was called dead wrongly."""

    beacon_s: Seconds = 5.0
    suspect_s: Seconds = 15.0  # left out of the next roster: free and reversible
    expel_s: Seconds = 60.0  # loses the vote, if a quorum agrees
    grace_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.1  # of the time since the last commit
    grace_min_s: Seconds = 0.5
    grace_max_s: Seconds = 120.0
    attempt_s: Seconds = 10.0  # no progress of an attempt for this long: the next leader tries
    stall_s: Seconds = 10.0  # no chunk of a transfer for this long: it is aborted
    fork_s: Seconds = 120.0  # without a quorum for this long: survivors open a branch, if the run forks
    transfer_s: Seconds = 3600.0  # a whole transfer; INTELLECT-1's slowest took 469 s


class Recovery(Section, frozen=True, forbid_unknown_fields=True):
    """Whose word ends a lost quorum. Without keys: the owner's alone."""

    keys: Annotated[tuple[PeerId, ...], Meta(max_length=OWNERS_MAX)] = ()
    needed: Annotated[int, Meta(ge=1, le=OWNERS_MAX)] = 1


class Until(Section, frozen=True, forbid_unknown_fields=True):
    rounds: Annotated[int, Meta(ge=1, le=ROUND_MAX)] | None = None


class RunConfig(Section, frozen=True, forbid_unknown_fields=True):
    """What `run.toml` says."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+\Z")]
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    model: Llama | ExternalModel = Llama()
    data: Data = Data()
    inner: Inner = Inner()
    outer: Outer = Outer()
    swarm: Swarm = Swarm()
    timers: Timers = Timers()
    recovery: Recovery = Recovery()
    until: Until = Until()


class Tensor(Wire, frozen=True, array_like=True):
    name: Annotated[str, Meta(min_length=1, max_length=512)]
    shape: Annotated[list[Count], Meta(max_length=16)]


class Manifest(Wire, frozen=True, array_like=True):
    """The signed description of a run. `config` is the canonical JSON of the RunConfig."""

    version: Annotated[int, Meta(ge=1, le=65_535)]
    config: Annotated[str, Meta(max_length=65_536)]
    owner: PeerId  # an Ed25519 key in the form of a peer id; made by `init`, apart from any host's identity
    nonce: Hash
    first_voters: Annotated[list[PeerId], Meta(min_length=1, max_length=VOTERS_MAX)]
    tensors: Annotated[list[Tensor], Meta(min_length=1, max_length=TENSORS_MAX)]
    state_digest: Hash  # of the first parameters with zero momentum


class SignedManifest(Wire, frozen=True, array_like=True):
    manifest: Manifest
    signature: Signature


def manifest_hash(manifest: Manifest) -> bytes:
    """What the run id is made of (SPEC M2)."""
    return hash_of("manifest", encode(manifest))


def signed_bytes(manifest: Manifest) -> bytes:
    return b"intellectd/1/manifest-signature\0" + manifest_hash(manifest)


def config_of(manifest: Manifest) -> RunConfig:
    """The RunConfig inside. Raises BadManifest."""
    try:
        config = msgspec.json.decode(manifest.config, type=RunConfig)
    except msgspec.MsgspecError as error:
        raise BadManifest(f"the manifest's configuration is not valid: {error}") from None
    _check_outer(config.outer)
    return config


def is_direct_only(outer: Outer) -> bool:
    """Whether no other schedule may compute its rounds: partial sums would be encoded anew at each hop, in a codec that
    does not bear it, or with losses that nobody's error feedback knows of."""
    return outer.error_feedback or not codec_by_name(outer.codec).may_reencode


def _check_outer(outer: Outer) -> None:
    """Values that contradict each other. Raises BadManifest."""
    if (outer.schedule == "gossip") == isinstance(outer.gossip, msgspec.UnsetType):
        raise BadManifest('outer.gossip is there exactly if outer.schedule is "gossip"', "take it out, or name that")
    codec = codec_by_name(outer.codec)
    why = "error_feedback" if codec.may_reencode else f'codec "{outer.codec}"'
    if is_direct_only(outer) and outer.schedule not in ("auto", "direct"):
        raise BadManifest(
            f'outer.{why} is for direct exchanges, and outer.schedule is "{outer.schedule}"',
            'set outer.schedule = "direct"',
        )
    if outer.error_feedback and codec.feedback_decay is None:
        raise BadManifest(f"outer.error_feedback: {codec.name} loses nothing that could be fed back", "leave it out")
    if codec.needs_feedback and not outer.error_feedback:
        raise BadManifest(
            f'outer.codec "{codec.name}" sends a small part of each delta, and without outer.error_feedback the rest '
            "would be lost",
            "set outer.error_feedback = true",
        )


def owners_of(manifest: Manifest, config: RunConfig) -> tuple[tuple[str, ...], int]:
    """Whose signatures make a recovery, and how many of them (SPEC G5)."""
    return config.recovery.keys or (manifest.owner,), config.recovery.needed if config.recovery.keys else 1


def canonical(config: RunConfig) -> str:
    """The same text for equal configurations: keys in the order of the fields, every default written out, but
    `outer.gossip` only where the schedule is."""
    return msgspec.json.encode(config).decode()


def plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain dicts and lists, as the trainer receives it."""
    value: dict[str, Any] = msgspec.to_builtins(config)
    return value


def decode_signed(data: bytes) -> SignedManifest:
    """Parse a manifest from disk or from a peer. Raises BadManifest; the signature is not yet checked."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise BadManifest(f"a manifest of {len(data)} bytes is over the limit of {MANIFEST_BYTES_MAX}")
    try:
        signed = msgspec.msgpack.decode(data, type=SignedManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadManifest(f"these bytes are no manifest: {error}") from None
    if signed.manifest.version != VERSION:
        raise BadManifest(f"the manifest has version {signed.manifest.version}, this daemon reads {VERSION}")
    config_of(signed.manifest)
    elements_of(signed.manifest)
    if len(dict.fromkeys(signed.manifest.first_voters)) != len(signed.manifest.first_voters):
        raise BadManifest("the manifest names a first voter twice")
    return signed


def elements_of(manifest: Manifest) -> int:
    """The length of the flat vector that all tensors make. Raises BadManifest."""
    try:
        return Layout([TensorSpec(t.name, tuple(t.shape)) for t in manifest.tensors]).elements
    except LayoutError as error:
        raise BadManifest(f"the manifest's tensors cannot be laid out: {error}") from None


def config_from_toml(data: dict[str, Any]) -> RunConfig:
    """Validate what `tomllib` read. Raises BadManifest naming the key, and the nearest valid one."""
    unknown = unknown_key(data, RunConfig)
    if unknown:
        raise BadManifest(*unknown)
    try:
        config = msgspec.convert(data, RunConfig)
    except msgspec.ValidationError as error:
        raise BadManifest(*ill_typed(str(error), data, RunConfig)) from None
    if config.swarm.min_peers > config.swarm.start_peers:
        raise BadManifest("swarm.min_peers is larger than swarm.start_peers: the first round could never commit")
    if not config.timers.suspect_s < config.timers.expel_s:
        raise BadManifest("timers.expel_s must be longer than timers.suspect_s")
    if config.timers.beacon_s * 2 > config.timers.suspect_s:
        raise BadManifest("timers.suspect_s must be at least twice timers.beacon_s: one lost beacon is no silence")
    if config.timers.fork_s <= config.timers.suspect_s:
        raise BadManifest("timers.fork_s must be longer than timers.suspect_s: who is late is not lost")
    keys = config.recovery.keys
    if len(dict.fromkeys(keys)) != len(keys):
        raise BadManifest("recovery.keys lists a key twice")
    if config.recovery.needed > max(1, len(keys)):
        raise BadManifest("recovery.needed is larger than the number of recovery.keys: nobody could recover the run")
    if config.inner.schedule == "cosine" and config.until.rounds is None:
        raise BadManifest(
            'inner.schedule = "cosine" falls until the last round, and until.rounds does not say which that is',
            'set until.rounds, or inner.schedule = "constant"',
        )
    if config.outer.schedule == "gossip" and config.outer.gossip is msgspec.UNSET:
        config = msgspec.structs.replace(config, outer=msgspec.structs.replace(config.outer, gossip=Gossip()))
    if config.swarm.warmup_rounds == 0:
        config = msgspec.structs.replace(
            config, swarm=msgspec.structs.replace(config.swarm, warmup_rounds=msgspec.UNSET)
        )
    _check_outer(config.outer)
    sizes = [size for size, _ in config.outer.lr]
    if sizes != sorted(dict.fromkeys(sizes)) or sizes[0] != 1:
        raise BadManifest("outer.lr lists [roster size, rate] by rising size and starts with size 1")
    return config


def float32_hex(value: float) -> Float32Hex:
    """The big-endian bytes of the nearest fp32, in hex: how scalars stand in a record (SPEC T4)."""
    return struct.pack(">f", value).hex()


def from_float32_hex(text: Float32Hex) -> float:
    value: float = struct.unpack(">f", bytes.fromhex(text))[0]
    return value


def outer_lr(config: RunConfig, roster_size: int) -> float:
    """The outer learning rate for a roster of this size, from the manifest's table."""
    rate = config.outer.lr[0][1]
    for size, value in config.outer.lr:
        if size <= roster_size:
            rate = value
    return rate
