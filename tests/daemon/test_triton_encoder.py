"""The SDK's encoder, by Triton: the bytes, norm and refusals of the daemon; what it carries over; a whole session."""

import struct
from pathlib import Path

import pytest
import torch

import intellectd
from intellectd.daemon.attach_events import TrainerReady
from intellectd.daemon.runs.outer_state import OuterState
from intellectd.daemon.sdk import encoder as sdk_encoder
from intellectd.daemon.sdk import session
from intellectd.daemon.sdk.encoder import DeviceEncoder
from intellectd.daemon.sdk.parameters import Parameters
from intellectd.kernels import ops
from intellectd.kernels.codec import CODECS, GROUP, codec_by_name
from intellectd.kernels.outer import NesterovStep
from tests.daemon.local_daemon import RUN_ID, Run, serving
from tests.daemon.test_sdk_run import Toy, one_step
from tests.kernels.triton_kernels import DEVICE, TRITON  # skips where there is no triton

from intellectd.kernels.cuda.launch import Triton  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy
assert TRITON is not None


class Model(torch.nn.Module):
    """Two pieces of a group and a bit; one tensor lies across both, one is not fp32."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.wide = torch.nn.Parameter(torch.randn(130, 127, generator=generator))
        self.narrow = torch.nn.Parameter(torch.randn(301, generator=generator).to(torch.bfloat16))
        self.scale = torch.nn.Parameter(torch.tensor(0.5))


def encoder_of(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> tuple[Parameters, DeviceEncoder]:
    monkeypatch.setattr(sdk_encoder, "PIECE_ELEMENTS", GROUP)
    parameters = Parameters(model.to(DEVICE))
    return parameters, DeviceEncoder(parameters, DEVICE, Triton())


def trained(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.01 * torch.randn(parameter.shape, generator=generator).to(parameter))


def attached(parameters: Parameters) -> tuple[OuterState, torch.Tensor]:
    """The daemon's state with the model as anchor, and something that bf16 has no room for besides; the arena of a
    trainer that does not encode."""
    state, arena = OuterState(parameters.layout), torch.zeros(parameters.layout.elements)
    theta = torch.zeros_like(arena)
    parameters.store(theta)
    narrow = parameters.layout.slots[1]
    theta[narrow.offset : narrow.offset + narrow.size] += 1e-4
    state.install(theta, torch.zeros_like(theta))
    state.attach(arena)
    state.adopt()
    return state, arena


@pytest.mark.parametrize("name", CODECS)
def test_the_daemon_would_have_made_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    parameters, encoder = encoder_of(model, monkeypatch)
    state, arena = attached(parameters)
    encoder.load(arena)
    trained(model, 2)
    ours = torch.empty(4 * arena.numel(), dtype=torch.uint8)
    said = encoder.encode(name, ours)
    parameters.store_trained(arena)
    theirs = state.freeze(name)
    assert (said.codec, said.norm, said.refused) == (name, theirs.norm, None)
    assert torch.equal(ours[: theirs.encoded.numel()], theirs.encoded)


def test_the_first_that_cannot_be_encoded_is_told_and_nothing_of_a_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    parameters, encoder = encoder_of(model, monkeypatch)
    _, arena = attached(parameters)
    encoder.load(arena)
    with torch.no_grad():
        model.narrow[7], model.scale[...] = float("inf"), float("nan")
    said = encoder.encode("int8", torch.empty(4 * arena.numel(), dtype=torch.uint8))
    assert said.refused == parameters.layout.slots[1].offset + 7
    assert struct.unpack(">f", bytes.fromhex(said.norm))[0] != 0.0
    assert parameters.layout.find(said.refused) == "narrow"


def test_a_delta_whose_length_is_no_fp32_names_its_largest_element(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    parameters, encoder = encoder_of(model, monkeypatch)
    _, arena = attached(parameters)
    encoder.load(arena)
    with torch.no_grad():
        model.wide[:2, :3], model.narrow[7] = 1e38, 1.5e38
        model.narrow[10:20] = -1e38
    said = encoder.encode("int8", torch.empty(4 * arena.numel(), dtype=torch.uint8))
    assert said.refused == parameters.layout.slots[1].offset + 7


def test_work_is_carried_over_as_the_daemon_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    parameters, encoder = encoder_of(model, monkeypatch)
    state, arena = attached(parameters)
    encoder.load(arena)
    trained(model, 3)
    parameters.store_trained(arena)
    codec = codec_by_name("int8")
    update = torch.empty(codec.encoded_bytes(arena.numel()), dtype=torch.uint8)
    learnt = torch.zeros_like(arena)
    for slot in parameters.layout.slots:
        learnt[slot.offset : slot.offset + slot.size] = 0.01
    assert ops.encode(codec, learnt, update) is None
    state.apply("int8", update, NesterovStep(0.7, 0.9), "carry")
    assert state.theta is not None
    encoder.carry_over(state.theta)
    ours, theirs = [torch.zeros_like(arena) for _ in range(2)]
    parameters.store(ours)
    expected = Parameters(Model())
    expected.load(arena)
    expected.store(theirs)  # the daemon's fp32 numbers, cast as loading a model does
    assert torch.equal(ours, theirs)
    # and the next delta is against the new anchor, the daemon's but for the last bits of fp32
    trained(model, 4)
    out = torch.empty(4 * arena.numel(), dtype=torch.uint8)
    said = encoder.encode("fp32", out)
    parameters.store_trained(arena)
    delta = state.theta - arena
    assert torch.allclose(out.view(torch.float32), delta, rtol=0.0, atol=1e-6)
    assert struct.unpack(">f", bytes.fromhex(said.norm))[0] == pytest.approx(delta.norm().item(), rel=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_a_session_encodes_and_goes_on_without_where_the_device_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """fp32 loses nothing, so the toy's rounds end where they end without an encoder; and the device may fail."""

    def encoder_for(parameters: Parameters) -> DeviceEncoder:
        encoder = DeviceEncoder(parameters, DEVICE, Triton())
        monkeypatch.setattr(encoder, "check", lambda codec: None)  # once is enough: test_triton.py does more
        if fails:
            monkeypatch.setattr(encoder, "encode", out_of_memory)
        return encoder

    def out_of_memory(codec: str, out: torch.Tensor) -> None:
        out[:400] = 0xFF  # it had begun, and written where padding is
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(session, "encoder_for", encoder_for)
    run, model, path = Run(rounds=3, steps=1, codec="fp32"), Toy().to(DEVICE), tmp_path / "d.sock"
    before = model.values()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    with serving(run, path), intellectd.DiLoCo(RUN_ID, model, optimizer, socket=path) as d:
        while not d.finished:
            one_step(model, optimizer)
            d.log(loss=2.0, tokens=5)
    codecs = [event.encoded and event.encoded.codec for event in run.heard(TrainerReady)]
    assert codecs == [None if fails else "fp32"] * 3
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    assert model.values() == pytest.approx([b + 3 * 0.5 * n for b, n in zip(before, sizes, strict=True)], rel=1e-5)
    assert run.anchor is not None
    if fails:  # padding: 1 was added to it thrice, and nothing of the bytes
        assert set(run.anchor[12:256].tolist()) == {3.0}


def test_who_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = Parameters(Toy().to(DEVICE))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert sdk_encoder.encoder_for(parameters) is not None
    monkeypatch.setenv(sdk_encoder.ENCODE_ENV, sdk_encoder.HOST)
    assert sdk_encoder.encoder_for(parameters) is None
    monkeypatch.delenv(sdk_encoder.ENCODE_ENV)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert sdk_encoder.encoder_for(Parameters(Toy())) is None  # on the CPU, without the interpreter: the daemon
    scattered = torch.nn.Linear(4, 4)
    scattered.weight = torch.nn.Parameter(torch.ones(4, 8)[:, ::2])
    assert Parameters(scattered).device is None
