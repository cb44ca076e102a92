"""One golden digest per kernel and codec. These bits are the protocol: a change splits a run between versions."""

import pytest
import torch

from intellectd.kernels.codec import CODECS, Codec
from intellectd.kernels.interface import Feedback, Kernels
from intellectd.kernels.outer import AverageStep, DelayedNesterovStep, NesterovStep, OuterVectors
from tests.kernels.vectors import ELEMENTS, EVERYWHERE, fingerprint, ring_of_three, room, tame

ALL_CODECS = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

GOLDEN: dict[str, dict[str, str]] = {
    "fp32": {
        "encode": "f452a8cb35756fd9b813ba7d6eb5ca25",
        "encode_delta": "96d0ccec70412202ea56a8874d90ac7c",
        "decode": "f452a8cb35756fd9b813ba7d6eb5ca25",
        "ring": "6437941dad255c8c4f9ee029dfe7f446",
        "outer_step": "a735aa975116695501ec25043ecf40f1",
        "subtract_into": "5008576355afadcc2a604e520c375890",
        "decode_add": "66f746d6bc8207904b91c404806d3a60",
        "encode_mean": "8e839de4183db35a6d89c169f6d7df62",
        "average": "44663c3c2dcfb03dee9e6ba291cd66ff",
        "delayed": "1c21886a06c9765a4a81b7dfb6dd2414",
    },
    "int8": {
        "encode": "f92a7c0d1a86f66e7ccd9efc5f8f8af3",
        "encode_delta": "1f34b75ead61eb9d9f35e9ed4059acd8",
        "decode": "6053ec7683e215dbe9e31889956debc3",
        "ring": "901bc301924d74511c6fc68889667e92",
        "outer_step": "c11fee2c69efd54f752bdef38702fe7a",
        "subtract_into": "5837a28c329842307526d33a720efea8",
        "feedback": "c1180f5e6b38349cec290b766610759f",
        "decode_add": "f72a0551542945661130162f63ee1b17",
        "encode_mean": "7340b7c8f686146a5ef7b1a689eb6c98",
        "average": "d11fc728da0f67e2a03160cba18faee5",
        "delayed": "e14b209897d48ec0de83657fdc6931ad",
    },
    "bf16": {
        "encode": "9d191464e6ba333c2eafab1eabb4b5c7",
        "encode_delta": "6e64005bb608f61b6c0beeef5e90d2f7",
        "decode": "95871a404ceb1ef68d94bf94fc6bc9a8",
        "ring": "64e5f3e80036056839fc4163f691a93a",
        "outer_step": "1a920cf4649f34f5cd0af22e23c86f67",
        "subtract_into": "40c3aed7c60aeb58b3d6128cf8b6bb06",
        "feedback": "20a74af183fec12bc89fae482928af1e",
        "decode_add": "ddb0e7a07853cc8d83f89a058dd397e4",
        "encode_mean": "8f9343ab7b7a64bfd53b61ac9b59d575",
        "average": "16b8d8a4ede9b42435740d3870fcb2dc",
        "delayed": "8476fc11fe9430525c98d33b9d68c76c",
    },
    "int4": {
        "encode": "bbf9e996185e49cbe16d0dc1f3197ef5",
        "encode_delta": "ae64299f22d0af33bdf856176bce957f",
        "decode": "55f5487b1e8fcbb16b6a70de2ad1b78d",
        "outer_step": "b32e9d999c2956911c2c6c8c1d74e14e",
        "subtract_into": "5d7413ccfe0b5c7699f5c794d6cda4a3",
        "feedback": "7b2d879255a2103afe0857c65dddef51",
        "decode_add": "4a23528ff5cc8e5ec2c667144abc1d93",
        "encode_mean": "4bac79a4a383165161bd58cb2c2132ac",
        "average": "c84c62c06585638209ec5400dc5c32c7",
        "delayed": "989ae1464889a0001425a2814740ba63",
    },
    "e3m0": {
        "encode": "a79d7ed014c46c0c683b10f66a36734b",
        "encode_delta": "df32e41fa3028517729514734a58c5d4",
        "decode": "038250a057b6650197786647374023ab",
        "outer_step": "509ef1b3643ce900ea160fa46ce3c684",
        "subtract_into": "e7323d1914ba1898532a46235de22a5e",
        "feedback": "dc9688151e86df0b63d3a638ce7da729",
        "decode_add": "0be53d67af66767b58ee460bbcd3bb04",
        "encode_mean": "02e2fcc4b36b84e148a80c795014b6a2",
        "average": "8f22edf5aefbf29dce5ab5fa781f1ba7",
        "delayed": "ab8410c6d23ec280ca87f4f9b92014d0",
    },
    "topk": {
        "encode": "7b1a72935a107a0c6a044f6240054d07",
        "encode_delta": "c545be7d3487b593173c538aee6e324d",
        "decode": "5777c83199a61a3a8b255735fcbdb172",
        "outer_step": "30c995c9cb4322e94806811ab0bdf52b",
        "subtract_into": "7b647da0ba945d258bae506412aea2b1",
        "feedback": "63fb0dfe18e599c12310ffe39248ffcc",
        "decode_add": "4d27e975c2fd582f14c0318fd67d96ca",
        "encode_mean": "f9b7d4a5f75264289506e8ccbaa3bde1",
        "average": "4376dae1867935af6b406487eff0b285",
        "delayed": "d8f8b69ea7db644df80e8441932341ac",
    },
}


def golden_run(kernels: Kernels, codec: Codec) -> dict[str, str]:
    x, y, momentum = tame(1, ELEMENTS), tame(2, ELEMENTS), tame(3, ELEMENTS, exponent=-10)
    enc, delta, back = room(codec, ELEMENTS), room(codec, ELEMENTS), torch.empty(ELEMENTS)
    kernels.encode(codec, x, enc)
    squares, _ = kernels.encode_delta(codec, x, y, delta)
    kernels.decode(codec, enc, back)
    found = {
        "encode": fingerprint(enc),
        "encode_delta": fingerprint(delta, torch.tensor(squares, dtype=torch.float64)),
        "decode": fingerprint(back),
    }
    if codec.may_reencode:
        found["ring"] = fingerprint(ring_of_three(kernels, codec, [x, y, momentum], [7.0, 11.0, 13.0]))
    kernels.outer_step(codec, enc, NesterovStep(0.7, 0.9), OuterVectors(y, momentum))
    found["outer_step"] = fingerprint(y, momentum)
    kernels.subtract_into(x, y)
    return {**found, "subtract_into": fingerprint(y), **golden_sums(kernels, codec), **golden_steps(kernels, codec)}


def golden_sums(kernels: Kernels, codec: Codec) -> dict[str, str]:
    x, y, error = tame(1, ELEMENTS), tame(2, ELEMENTS), tame(4, ELEMENTS, exponent=-6)
    enc, total, residual = room(codec, ELEMENTS), tame(3, ELEMENTS), torch.empty(ELEMENTS)
    found = {}
    if codec.feedback_decay is not None:
        kernels.encode_delta(codec, x, y, enc, Feedback(error, codec.feedback_decay, residual))
        found["feedback"] = fingerprint(enc, residual)
    kernels.encode(codec, x, enc)
    kernels.decode_add(codec, enc, 3.0, total)
    found["decode_add"] = fingerprint(total)
    kernels.encode_mean(codec, total, 7.0, enc)
    return {**found, "encode_mean": fingerprint(enc)}


def golden_steps(kernels: Kernels, codec: Codec) -> dict[str, str]:
    vectors = OuterVectors(tame(1, ELEMENTS), tame(2, ELEMENTS, exponent=-9), torch.zeros(ELEMENTS))
    enc = room(codec, ELEMENTS)
    kernels.encode(codec, tame(3, ELEMENTS, exponent=-8), enc)
    kernels.outer_step(codec, enc, AverageStep(0.9), vectors)
    found = {"average": fingerprint(vectors.theta)}
    for turn in (False, False, True, False):
        kernels.outer_step(codec, enc, DelayedNesterovStep(0.7, 0.9, 3, turn), vectors)
    assert vectors.momentum is not None and vectors.gathered is not None
    return {**found, "delayed": fingerprint(vectors.theta, vectors.momentum, vectors.gathered)}


@EVERYWHERE
@ALL_CODECS
def test_golden_digests(kernels: Kernels, codec: Codec) -> None:
    assert golden_run(kernels, codec) == GOLDEN[codec.name]
