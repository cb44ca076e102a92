"""The manifest: what `run.toml` may say, its one canonical form, and what is refused with a hint. SPEC M*."""

import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.kernels.codec import CODECS
from intellectd.kernels.layout import DIMENSIONS_MAX, NAME_CHARACTERS_MAX, Layout, TensorSpec
from intellectd.kernels.outer import step_of
from intellectd.protocol import manifest as mf
from intellectd.protocol.ids import encode
from intellectd.protocol.manifest import BadManifest, Manifest, SignedManifest, Tensor
from tests.protocol.history import manifest_of, run_config

FULL = """
name = "tiny"
seed = 7
[model]
kind = "llama"
hidden_size = 64
[data]
batch_size = 4
[inner]
steps = 20
lr = 0.001
[outer]
lr = [[1, 0.4], [4, 0.6]]
[swarm]
start_peers = 3
min_peers = 2
[timers]
beacon_s = 1
suspect_s = 4
[until]
rounds = 12
"""


def signed(manifest: Manifest) -> bytes:
    return encode(SignedManifest(manifest, bytes(64)))


def test_a_full_file_is_read_and_the_rest_is_default() -> None:
    config = mf.config_from_toml(tomllib.loads(FULL))
    assert (config.name, config.inner.steps, config.until.rounds) == ("tiny", 20, 12)
    assert isinstance(config.model, mf.Llama) and config.model.hidden_size == 64 and config.model.layers == 4
    assert config.outer.codec == "int8" and config.timers.expel_s == 60.0


def test_codecs_that_a_ring_can_carry_and_the_outer_optimizers() -> None:
    """SPEC C6, K10."""
    for codec in (codec.name for codec in CODECS.values() if codec.may_reencode):
        for optimizer in ("nesterov", "average"):
            outer = mf.config_from_toml({"name": "x", "outer": {"codec": codec, "optimizer": optimizer}}).outer
            assert (outer.codec, outer.optimizer) == (codec, optimizer)
            assert step_of(outer.optimizer, 0.5, outer.momentum).lr == 0.5


def test_the_canonical_form_is_one() -> None:
    """SPEC M3: defaults written out, order of the fields; whatever order and spelling the file had."""
    one = mf.config_from_toml({"name": "x", "inner": {"steps": 100, "lr": 4e-4}})
    two = mf.config_from_toml({"inner": {"lr": 0.0004}, "name": "x", "until": {}})
    assert mf.canonical(one) == mf.canonical(two)
    assert mf.config_of(manifest_of(one, "PA")) == one


def test_plain_dicts_for_the_trainer() -> None:
    plain = mf.plain(mf.config_from_toml(tomllib.loads(FULL)))
    assert plain["model"]["kind"] == "llama" and plain["inner"]["steps"] == 20
    assert plain["outer"]["lr"] == ((1, 0.4), (4, 0.6)) or plain["outer"]["lr"] == [[1, 0.4], [4, 0.6]]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"name": "x", "inner": {"stesp": 3}}, "unknown key 'inner.stesp'; did you mean 'inner.steps'?"),
        ({"nam": "x"}, "unknown key 'nam'; did you mean 'name'?"),
        ({"name": "x", "zzzzz": 1}, "unknown key 'zzzzz'; valid keys: name, seed, model"),
        ({"name": "x", "model": {"kind": "llama", "hiden_size": 8}}, "did you mean 'model.hidden_size'?"),
        ({"name": "x", "model": {"kind": "external", "layers": 8}}, "unknown key 'model.layers'"),
        ({"name": "x", "model": {"kind": "gpt"}}, '`model.kind` must be "llama" or "external"; it is \'gpt\''),
        ({"name": "x", "model": {}}, "`model.kind` is missing"),
        ({"name": "x", "inner": {"schedule": "cosine"}}, "until.rounds does not say which"),
        ({"name": "x", "inner": {"schedule": "cos"}}, '`inner.schedule` must be "constant" or "cosine"; it is \'cos\''),
        ({"name": "x", "outer": {"codec": "int3"}}, '"fp32" or "int4" or "e3m0" or "topk"; it is \'int3\''),
        ({"name": "x", "outer": {"optimizer": "sgd"}}, '`outer.optimizer` must be "nesterov" or "average"'),
        ({"name": "x", "outer": {"lr": 0.7}}, "such as [[1, 0.4], [4, 0.6]]; it is 0.7"),
        ({"name": "x", "inner": {"steps": "many"}}, "`inner.steps`"),
        ({"name": "x", "inner": {"steps": True}}, "`inner.steps`"),
        ({"name": "x", "inner": {"steps": 0}}, "`inner.steps` must be a whole number of at least 1; it is 0"),
        ({"name": "x", "inner": {"lr": float("nan")}}, "`inner.lr`"),
        ({"name": "x", "inner": {"betas": [0.9, float("nan")]}}, "`inner.betas"),
        ({"name": "x", "model": {"kind": "llama", "rope_theta": float("inf")}}, "`model.rope_theta`"),
        ({"name": "x", "inner": 5}, "`inner` must be a table: write [inner]"),
        ({"seed": 1}, "`name` is missing"),
        ({"name": "a b"}, '1 to 64 letters, digits, ".", "_" and "-"; it is \'a b\''),
        ({"name": "x", "timers": {"fork_s": 15}}, "fork_s must be longer"),
        ({"name": "x", "recovery": {"needed": 2}}, "recovery.needed"),
        ({"name": "x", "swarm": {"min_peers": 3}}, "min_peers is larger than swarm.start_peers"),
        ({"name": "x", "timers": {"expel_s": 10}}, "expel_s must be longer"),
        ({"name": "x", "timers": {"beacon_s": 9}}, "at least twice"),
        ({"name": "x", "outer": {"lr": [[4, 0.6], [1, 0.4]]}}, "rising size"),
        ({"name": "x", "outer": {"lr": [[1, 0.6], [1, 0.4]]}}, "rising size"),
        ({"name": "x", "outer": {"lr": [[2, 0.6]]}}, "starts with size 1"),
        ({"name": "x", "until": {"rounds": 0}}, "`until.rounds`"),
    ],
)
def test_what_is_refused_and_how(data: dict[str, Any], says: str) -> None:
    """SPEC M4: the key is named, and the nearest valid one."""
    with pytest.raises(BadManifest) as refused:
        mf.config_from_toml(data)
    assert says in f"{refused.value}; {refused.value.hint}"


def test_the_hash_covers_every_field() -> None:
    """SPEC M2: a run with anything changed is another run."""
    base = manifest_of(run_config(), "PA")
    changes: dict[str, Any] = {
        "version": 2,
        "config": mf.canonical(run_config(until=3)),
        "owner": "PB",
        "nonce": b"\1" * 32,
        "first_voters": ["PB"],
        "tensors": [Tensor("w", [257])],
        "state_digest": b"\2" * 32,
    }
    assert sorted(changes) == sorted(Manifest.__struct_fields__)
    hashes = [mf.manifest_hash(msgspec.structs.replace(base, **{name: new})) for name, new in changes.items()]
    assert len({mf.manifest_hash(base), *hashes}) == len(hashes) + 1
    assert mf.signed_bytes(base).startswith(b"intellectd/1/manifest-signature\0")


def test_a_manifest_from_a_peer() -> None:
    """SPEC M1, M5: parsed and bounded before anything else is done with it."""
    good = manifest_of(run_config(), "PA")
    assert mf.decode_signed(signed(good)).manifest == good
    for changes, says in (
        ({"version": 2}, "has version 2, this daemon reads 1"),
        ({"config": "{}"}, "configuration is not valid"),
        ({"config": "nonsense"}, "configuration is not valid"),
        ({"tensors": [Tensor("w", [0])]}, "cannot be laid out"),
        ({"tensors": [Tensor("w", [1]), Tensor("w", [2])]}, "cannot be laid out"),
        ({"tensors": [Tensor("w", [2**40, 2**40])]}, "cannot be laid out"),
        ({"tensors": []}, "these bytes are no manifest"),
        ({"first_voters": ["PA", "PA"]}, "names a first voter twice"),
        ({"first_voters": ["not a peer"]}, "these bytes are no manifest"),
    ):
        with pytest.raises(BadManifest) as refused:
            mf.decode_signed(signed(msgspec.structs.replace(good, **changes)))
        assert says in str(refused.value)
    with pytest.raises(BadManifest, match="over the limit"):
        mf.decode_signed(bytes(mf.MANIFEST_BYTES_MAX + 1))


def test_what_a_trainer_may_attach_with_a_manifest_can_hold() -> None:
    """Else `init` makes a run that nobody can read."""
    name, shape = "x" * NAME_CHARACTERS_MAX, (1,) * DIMENSIONS_MAX
    assert Layout([TensorSpec(name, shape)]).elements == 256
    longest = msgspec.structs.replace(manifest_of(run_config(), "PA"), tensors=[Tensor(name, [*shape])])
    assert mf.decode_signed(signed(longest)).manifest == longest


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(BadManifest):
        mf.decode_signed(data)


@pytest.mark.parametrize(("size", "rate"), [(1, 0.4), (2, 0.6), (3, 0.6), (4, 0.6), (7, 0.6), (8, 0.8), (500, 0.8)])
def test_outer_learning_rate_by_roster(size: int, rate: float) -> None:
    assert mf.outer_lr(run_config(), size) == rate


@given(st.floats(width=32, allow_nan=False))
def test_fp32_hex_is_exact(value: float) -> None:
    """SPEC T4."""
    text = mf.float32_hex(value)
    assert len(text) == 8 and mf.from_float32_hex(text) == value
