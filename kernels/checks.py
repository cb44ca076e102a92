"""What every kernel demands of its arguments. Raises ValueError naming the argument.

Owns the complaints. Refuses to look at values: a vector may hold anything.
"""

import struct

import torch
from torch import Tensor

from intellectd.kernels.codec import Codec
from intellectd.kernels.outer import is_fp32


def check_floats(**tensors: Tensor | None) -> None:
    """fp32 vectors of the first one's length, in memory that the kernels can take. None is left out."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    elements = next(iter(given.values())).numel()
    for name, tensor in given.items():
        _check_plain(name, tensor, torch.float32)
        if tensor.numel() != elements:
            raise ValueError(f"{name} has {tensor.numel()} elements where {elements} are expected")
        if tensor.data_ptr() % 4:
            raise ValueError(f"{name} is not aligned to 4 bytes; copy it first")


def check_bytes(codec: Codec, elements: int, **tensors: Tensor) -> None:
    expected = codec.encoded_bytes(elements)
    for name, tensor in tensors.items():
        _check_plain(name, tensor, torch.uint8)
        if tensor.numel() != expected:
            raise ValueError(f"{name} has {tensor.numel()} bytes, {codec.name} of {elements} elements is {expected}")


def check_overlap(out: Tensor, source: Tensor) -> None:
    """In place is fine, block by block; shifted by a few bytes is not."""
    distance = abs(out.data_ptr() - source.data_ptr())
    if 0 < distance < out.numel() * out.element_size():
        raise ValueError(f"out overlaps its source {distance} bytes off; use the same buffer or another one")


def check_scalar(name: str, value: float) -> float:
    """The nearest fp32."""
    if not is_fp32(value):
        raise ValueError(f"{name} {value} is not a finite fp32 number")
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def check_divisor(divisor: float) -> None:
    if check_scalar("divisor", divisor) <= 0.0:
        raise ValueError(f"divisor {divisor} is not above 0 in fp32")


def _check_plain(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype or tensor.device.type not in ("cpu", "cuda") or not tensor.is_contiguous():
        wanted = f"a contiguous {dtype} on the CPU or a CUDA device is needed"
        raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}; {wanted}")
    if tensor.device.type == "cuda" and tensor.data_ptr() % 4:  # a GPU cannot read scales from odd addresses
        raise ValueError(f"{name} is not aligned to 4 bytes; copy it first")


def one_device(*tensors: Tensor | None) -> torch.device:
    """Where all of them lie."""
    given = [tensor.device for tensor in tensors if tensor is not None]
    for device in given:
        if device != given[0]:
            raise ValueError(f"vectors lie on {given[0]} and on {device}; a kernel works on one device")
    return given[0]
